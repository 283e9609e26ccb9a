//! Who calls, and whether that caller may: a tower layer over HTTP. It needs
//! headers and the connection only, so it answers before a body is read, and leaves the [`Caller`]
//! in the extensions of every request that passes.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response, header};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::callers::{Callers, CallersFile, Certificate};
use crate::grpc::{
    Inbound,
    status::{self, Credentials},
};
use crate::listener::Peer;
use crate::payment::{Caller, id::CallerName};

/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 4096;

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

impl<S> Auth<S> {
    fn caller(&self, headers: &HeaderMap, certificate: Option<&Certificate>) -> Result<Caller, Refused> {
        let callers = self.callers.current();
        let name = authenticated(&callers, headers, certificate).map_err(Refused::Unknown)?;
        let may = match self.may {
            Permission::Known => true,
            Permission::Review => callers.may_review(name.as_str()),
        };
        if may { Ok(Caller { name }) } else { Err(Refused::Forbidden) }
    }
}

/// By its token, or by its certificate. A certificate may be that of a proxy
/// that passes tokens on: it then is no caller's, and the token decides.
fn authenticated(
    callers: &Callers,
    headers: &HeaderMap,
    certificate: Option<&Certificate>,
) -> Result<CallerName, Credentials> {
    let certified = certificate.map(|certificate| callers.of_certificate(certificate));
    let name = match (bearer(headers)?, certified) {
        (None, None) => return Err(Credentials::Missing),
        (None, Some(certified)) => certified.map_err(Credentials::Invalid)?,
        (Some(token), certified) => {
            let name = callers.authenticate(token).ok_or(Credentials::Invalid("the token is not known"))?;
            if certified.is_some_and(|certified| certified.is_ok_and(|certified| certified != name)) {
                let why = "the token and the certificate are those of two callers";
                return Err(Credentials::Invalid(why));
            }
            name
        }
    };
    name.parse().map_err(|_| Credentials::Invalid("the caller's name is not usable"))
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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        let certificate = peer.and_then(|peer| peer.certificate.as_deref());
        match self.caller(request.headers(), certificate) {
            Ok(caller) => {
                tracing::Span::current().record("caller", caller.name.as_str());
                request.extensions_mut().insert(caller);
                Box::pin(self.inner.call(request))
            }
            Err(why) => {
                let trace = request.extensions().get::<Inbound>().map(|inbound| inbound.trace_id.clone());
                let refusal = match why {
                    Refused::Unknown(why) => status::unauthenticated(why, trace.as_deref()),
                    Refused::Forbidden => status::forbidden(request.uri().path(), trace.as_deref()),
                };
                Box::pin(async move { Ok(refusal.into_http()) })
            }
        }
    }
}

impl<S> tonic::server::NamedService for Auth<S>
where
    S: tonic::server::NamedService,
{
    const NAME: &'static str = S::NAME;
}
