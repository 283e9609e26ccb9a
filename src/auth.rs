//! Who calls: a tower layer over HTTP. It needs headers only, so it answers
//! before a body is read, and leaves the [`Caller`] in the extensions of every
//! request that passes.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response, header};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::callers::CallersFile;
use crate::grpc::{
    Inbound,
    status::{self, Credentials},
};
use crate::payment::Caller;

/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 4096;

/// Lets only known callers pass.
#[derive(Clone)]
pub struct AuthLayer(Arc<CallersFile>);

/// See [`AuthLayer`].
#[derive(Clone)]
pub struct Auth<S> {
    callers: Arc<CallersFile>,
    inner: S,
}

impl AuthLayer {
    /// Callers are looked up in `callers`, as it is at that moment.
    pub fn new(callers: Arc<CallersFile>) -> Self {
        Self(callers)
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth { callers: Arc::clone(&self.0), inner }
    }
}

impl<S> Auth<S> {
    fn caller(&self, headers: &HeaderMap) -> Result<Caller, Credentials> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let value = values.next().ok_or(Credentials::Missing)?;
        if values.next().is_some() {
            // Which of two identities is meant is not ours to guess.
            return Err(Credentials::Invalid("more than one authorization header"));
        }
        let text =
            value.to_str().map_err(|_| Credentials::Invalid("the authorization header is not ASCII"))?;
        let (scheme, token) =
            text.split_once(' ').ok_or(Credentials::Invalid("expected: Bearer, a space, the token"))?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Credentials::Invalid("the scheme is not Bearer"));
        }
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return Err(Credentials::Invalid("the token is empty or too long"));
        }
        let callers = self.callers.current();
        let name = callers.authenticate(token).ok_or(Credentials::Invalid("the token is not known"))?;
        let name = name.parse().map_err(|_| Credentials::Invalid("the caller's name is not usable"))?;
        Ok(Caller { name })
    }
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
        match self.caller(request.headers()) {
            Ok(caller) => {
                tracing::Span::current().record("caller", caller.name.as_str());
                request.extensions_mut().insert(caller);
                Box::pin(self.inner.call(request))
            }
            Err(why) => {
                let trace = request.extensions().get::<Inbound>().map(|inbound| inbound.trace_id.clone());
                let refusal = status::unauthenticated(why, trace.as_deref());
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
