//! Fetches the keys of an issuer over TLS, once, within bounds: no redirects,
//! no proxies, and no host but the issuer's or the one that is configured.

use std::{error::Error as _, io, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use reqwest::{Certificate, Client, RequestBuilder};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use url::Url;
use zeroize::Zeroizing;

use crate::config::{Source, read_file};
use crate::issuer::keys::Keys;
use crate::issuer::{Settings, keys};

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long it may take in all, discovery included.
pub(super) const FETCH_MAX: Duration = Duration::from_secs(5);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Where an issuer says where its keys are (`OpenID` Connect Discovery).
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// What an issuer says of itself.
#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    jwks_uri: String,
}

/// The files that an issuer is asked with, each with what is wrong with it.
pub fn check(settings: &Settings) -> Vec<(&'static str, String)> {
    let mut wrong = Vec::new();
    if let Err(why) = roots(settings) {
        wrong.push(("ca_file", why));
    }
    if let Err(error) = token(settings) {
        wrong.push(("token_file", format!("cannot be used ({error})")));
    }
    wrong
}

/// The keys as the issuer publishes them now, or why there are none.
pub(super) async fn keys(settings: &Settings) -> Result<Keys, String> {
    let fetched = tokio::time::timeout(FETCH_MAX, async {
        let client = client(settings)?;
        let url = match &settings.jwks_url {
            Some(url) => url.clone(),
            None => discover(&client, settings).await?,
        };
        keys::Keys::read(&get(&client, url, settings).await?, &settings.algorithms)
    });
    fetched.await.unwrap_or_else(|_| Err(format!("no answer within {} s", FETCH_MAX.as_secs())))
}

async fn discover(client: &Client, settings: &Settings) -> Result<Url, String> {
    let url = format!("{}{DISCOVERY}", settings.url.trim_end_matches('/'));
    let url = Url::parse(&url).map_err(|error| format!("its url is none ({error})"))?;
    let answer = get(client, url.clone(), settings).await?;
    let found: Discovered =
        serde_json::from_slice(&answer).map_err(|_| "its discovery document is not understood".to_owned())?;
    if found.issuer != settings.url {
        return Err("its discovery document is that of another issuer".to_owned());
    }
    // Only hosts that are configured are called, and only they see the token.
    match Url::parse(&found.jwks_uri) {
        Ok(keys) if keys.host() == url.host() => Ok(keys),
        _ => Err("its keys are on another host: give jwks_url".to_owned()),
    }
}

async fn get(client: &Client, url: Url, settings: &Settings) -> Result<Bytes, String> {
    ask(client.get(url), StatusCode::OK, settings).await
}

/// Sends a request with what the issuer is asked with, and reads a short answer.
pub(super) async fn ask(
    request: RequestBuilder,
    due: StatusCode,
    settings: &Settings,
) -> Result<Bytes, String> {
    let mut request = request.header(header::ACCEPT, "application/json");
    let token = token(settings).map_err(|error| format!("token_file cannot be used ({error})"))?;
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, token);
    }
    let mut answer = request.send().await.map_err(describe)?;
    if answer.status() != due {
        return Err(format!("it answers HTTP {}", answer.status().as_u16()));
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(describe)? {
        if body.len().saturating_add(chunk.len()) > ANSWER_BYTES_MAX {
            return Err("its answer is too long".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Made for each fetch, which are few: its files may have changed.
pub(super) fn client(settings: &Settings) -> Result<Client, String> {
    let mut builder = Client::builder()
        .https_only(true)
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_MAX)
        .user_agent(concat!("payops/", env!("CARGO_PKG_VERSION")));
    if let Some(roots) = roots(settings)? {
        builder = builder.tls_certs_only(roots);
    }
    builder.build().map_err(describe)
}

/// None for those of the system.
fn roots(settings: &Settings) -> Result<Option<Vec<Certificate>>, String> {
    let Some(file) = &settings.ca_file else { return Ok(None) };
    let text = read_file(file).map_err(|error| format!("cannot be read ({error})"))?;
    match Certificate::from_pem_bundle(text.as_bytes()) {
        Ok(roots) if !roots.is_empty() => Ok(Some(roots)),
        _ => Err("holds no certificate in PEM".to_owned()),
    }
}

fn token(settings: &Settings) -> io::Result<Option<HeaderValue>> {
    let Some(file) = &settings.token_file else { return Ok(None) };
    let token = Source::File(file.clone()).read()?;
    let value = HeaderValue::try_from(&*Zeroizing::new(format!("Bearer {}", token.expose_secret())));
    let mut value = value.map_err(|_| io::Error::other("it does not fit into a header"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// The error with its causes, without the URL.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let causes = std::iter::successors(error.source(), |&error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
