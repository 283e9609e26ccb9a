//! Who calls, and whether that caller may: a tower layer over HTTP. It needs
//! headers and the connection only, so it answers before a body is read, and leaves the [`Caller`]
//! in the extensions of every request that passes.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response, header, request::Parts};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::callers::{Callers, CallersFile, Certificate};
use crate::grpc::{
    Inbound,
    status::{self, Credentials},
};
use crate::issuer::Refusal;
use crate::listener::Peer;
use crate::payment::{Caller, id::CallerName};

/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 8192;

/// Lets only known callers pass, and only those who may.
#[derive(Clone)]
pub struct AuthLayer {
    callers: CallersFile,
    may: Permission,
}

/// What a service asks of its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// To be known.
    Known,
    /// To be a reviewer.
    Review,
}

/// Why somebody is not let in.
enum Refused {
    Unknown(Credentials),
    Forbidden,
}

/// See [`AuthLayer`].
#[derive(Clone)]
pub struct Auth<S> {
    callers: CallersFile,
    may: Permission,
    inner: S,
}

impl AuthLayer {
    /// Callers and what they may are looked up in `callers`, as it is at that
    /// moment.
    pub fn new(callers: CallersFile, may: Permission) -> Self {
        Self { callers, may }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth { callers: self.callers.clone(), may: self.may, inner }
    }
}

/// Who calls, if that caller may.
async fn admitted(callers: &Callers, may: Permission, head: &Parts) -> Result<Caller, Refused> {
    let peer = head.extensions.get::<Peer>();
    let certificate = peer.and_then(|peer| peer.certificate.as_deref());
    let name = authenticated(callers, &head.headers, certificate).await.map_err(Refused::Unknown)?;
    let may = match may {
        Permission::Known => true,
        Permission::Review => callers.may_review(name.as_str()),
    };
    if may { Ok(Caller { name }) } else { Err(Refused::Forbidden) }
}

/// By its token, or by its certificate. A certificate may be that of a proxy
/// that passes tokens on: it then is no caller's, and the token decides.
async fn authenticated(
    callers: &Callers,
    headers: &HeaderMap,
    certificate: Option<&Certificate>,
) -> Result<CallerName, Credentials> {
    let certified = certificate.map(|certificate| callers.of_certificate(certificate));
    let name = match (bearer(headers)?, certified) {
        (None, None) => return Err(Credentials::Missing),
        (None, Some(certified)) => certified.map_err(Credentials::Invalid)?.to_owned(),
        (Some(token), certified) => {
            let name = named_by(callers, token).await?;
            if certified.is_some_and(|certified| certified.is_ok_and(|certified| certified != name)) {
                let why = "the token and the certificate are those of two callers";
                return Err(Credentials::Invalid(why));
            }
            name
        }
    };
    name.parse().map_err(|_| Credentials::Invalid("the caller's name is not usable"))
}

/// Whom a token names: one of our own, or one that an issuer signed.
async fn named_by(callers: &Callers, token: &str) -> Result<String, Credentials> {
    if let Some(name) = callers.authenticate(token) {
        return Ok(name.to_owned());
    }
    if callers.issuers().is_empty() {
        return Err(Credentials::Invalid("the token is not known"));
    }
    let verified = callers.issuers().verify(token).await.map_err(|refusal| match refusal {
        Refusal::Invalid(why) => Credentials::Invalid(why),
        Refusal::Expired => Credentials::Expired,
        Refusal::Unavailable { retry_after } => Credentials::IssuerUnavailable { retry_after },
    })?;
    callers.of_subject(&verified).map_err(Credentials::Invalid)
}

/// The token, where there is one.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Credentials> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        // Which of two identities is meant is not ours to guess.
        return Err(Credentials::Invalid("more than one authorization header"));
    }
    let text = value.to_str().map_err(|_| Credentials::Invalid("the authorization header is not ASCII"))?;
    let (scheme, token) =
        text.split_once(' ').ok_or(Credentials::Invalid("expected: Bearer, a space, the token"))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Credentials::Invalid("the scheme is not Bearer"));
    }
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
        return Err(Credentials::Invalid("the token is empty or too long"));
    }
    Ok(Some(token))
}

impl<S> Service<Request<Body>> for Auth<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (callers, may) = (self.callers.current(), self.may);
        // The one that was polled ready.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let (mut head, body) = request.into_parts();
        Box::pin(async move {
            match admitted(&callers, may, &head).await {
                Ok(caller) => {
                    tracing::Span::current().record("caller", caller.name.as_str());
                    head.extensions.insert(caller);
                    inner.call(Request::from_parts(head, body)).await
                }
                Err(why) => {
                    let trace = head.extensions.get::<Inbound>().map(|inbound| inbound.trace_id.as_str());
                    let refusal = match why {
                        Refused::Unknown(why) => status::unauthenticated(why, trace),
                        Refused::Forbidden => status::forbidden(head.uri.path(), trace),
                    };
                    Ok(refusal.into_http())
                }
            }
        })
    }
}

impl<S> tonic::server::NamedService for Auth<S>
where
    S: tonic::server::NamedService,
{
    const NAME: &'static str = S::NAME;
}
