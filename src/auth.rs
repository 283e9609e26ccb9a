//! Who calls, and whether that caller may: a tower layer over HTTP. It needs
//! headers and the connection only, so it answers before a body is read, and leaves the [`Caller`]
//! in the extensions of every request that passes, with what it may.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response, header, request::Parts};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::audit::Audit;
use crate::callers::{Callers, CallersFile, Certificate};
use crate::grpc::{
    Inbound,
    status::{self, Credentials},
};
use crate::issuer::Refusal;
use crate::listener::Peer;
use crate::payment::{Caller, id::CallerName, permit::Denied};
use crate::policy::{
    Rights, Rpc,
    pace::{Pace, Paces, Throttled, UnderWay},
};

/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 8192;

/// Lets only known callers pass, and only those who may.
#[derive(Clone)]
pub struct AuthLayer {
    callers: CallersFile,
    may: Permission,
    paces: Paces,
    audit: Audit,
}

/// What a service asks of its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// A rule that allows the RPC; what else the rule asks is looked at later.
    Rule,
    /// To be a reviewer.
    Review,
}

/// Whom it is not let in, where that is known, and why.
struct Refused {
    caller: Option<CallerName>,
    why: Why,
}

enum Why {
    Unknown(Credentials),
    NoReviewer,
    Denied(Rpc, Denied),
    Throttled(Throttled),
}

/// Who calls, and what it may, where rules say so.
struct Admitted {
    caller: Caller,
    rights: Option<Arc<Rights>>,
    /// Its place among the caller's calls, or that there is none: then only what
    /// is known already is told.
    place: Result<Option<Arc<UnderWay>>, Throttled>,
}

/// A caller's name, and the issuer that vouches for it.
struct Named {
    name: String,
    issuer: Option<Arc<str>>,
}

/// See [`AuthLayer`].
#[derive(Clone)]
pub struct Auth<S> {
    callers: CallersFile,
    may: Permission,
    paces: Paces,
    audit: Audit,
    inner: S,
}

impl AuthLayer {
    /// Callers and what they may are looked up in `callers`, as it is at that
    /// moment. Who is refused is told to the audit.
    pub fn new(callers: CallersFile, may: Permission, audit: Audit) -> Self {
        Self { callers, may, paces: Paces::default(), audit }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth {
            callers: self.callers.clone(),
            may: self.may,
            paces: self.paces.clone(),
            audit: self.audit.clone(),
            inner,
        }
    }
}

/// Who calls, if that caller may.
async fn admitted(
    callers: &Callers,
    may: Permission,
    paces: &Paces,
    head: &Parts,
) -> Result<Admitted, Refused> {
    let peer = head.extensions.get::<Peer>();
    let certificate = peer.and_then(|peer| peer.certificate.as_deref());
    let unknown = |why| Refused { caller: None, why: Why::Unknown(why) };
    let Named { name, issuer } = authenticated(callers, &head.headers, certificate).await.map_err(unknown)?;
    let unusable = |_| unknown(Credentials::Invalid("the caller's name is not usable"));
    let caller: CallerName = name.parse().map_err(unusable)?;
    let known = |why| Refused { caller: Some(caller.clone()), why };
    let rpc = Rpc::of_path(head.uri.path());
    let rights = match may {
        Permission::Rule => {
            let rights = callers.rights(&name, issuer.as_deref());
            // Of an RPC that there is not the service itself tells.
            if let Some(rpc) = rpc {
                rights.may_call(rpc).map_err(|denied| known(Why::Denied(rpc, denied)))?;
            }
            Some(rights)
        }
        Permission::Review if callers.may_review(&name) => None,
        Permission::Review => return Err(known(Why::NoReviewer)),
    };
    let pace = rights.as_ref().map_or_else(Pace::default, |rights| rights.pace);
    let place = paces.enter(&caller, &pace).map(|place| place.map(Arc::new));
    match place {
        Err(throttled) if !rpc.is_some_and(Rpc::moves_money) => Err(known(Why::Throttled(throttled))),
        place => Ok(Admitted { caller: Caller { name: caller }, rights, place }),
    }
}

/// By its token, or by its certificate. A certificate may be that of a proxy
/// that passes tokens on: it then is no caller's, and the token decides.
async fn authenticated(
    callers: &Callers,
    headers: &HeaderMap,
    certificate: Option<&Certificate>,
) -> Result<Named, Credentials> {
    let certified = certificate.map(|certificate| callers.of_certificate(certificate));
    match (bearer(headers)?, certified) {
        (None, None) => Err(Credentials::Missing),
        (None, Some(certified)) => {
            let name = certified.map_err(Credentials::Invalid)?.to_owned();
            Ok(Named { name, issuer: None })
        }
        (Some(token), certified) => {
            let named = named_by(callers, token).await?;
            if certified.is_some_and(|certified| certified.is_ok_and(|certified| certified != named.name)) {
                let why = "the token and the certificate are those of two callers";
                return Err(Credentials::Invalid(why));
            }
            Ok(named)
        }
    }
}

/// Whom a token names: one of our own, or one that an issuer signed.
async fn named_by(callers: &Callers, token: &str) -> Result<Named, Credentials> {
    if let Some(name) = callers.authenticate(token) {
        return Ok(Named { name: name.to_owned(), issuer: None });
    }
    if callers.issuers().is_empty() {
        return Err(Credentials::Invalid("the token is not known"));
    }
    let verified = callers.issuers().verify(token).await.map_err(|refusal| match refusal {
        Refusal::Invalid(why) => Credentials::Invalid(why),
        Refusal::Expired => Credentials::Expired,
        Refusal::Unavailable { retry_after } => Credentials::IssuerUnavailable { retry_after },
    })?;
    let name = callers.of_subject(&verified).map_err(Credentials::Invalid)?;
    Ok(Named { name, issuer: Some(verified.issuer) })
}

/// The token, where there is one.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Credentials> {
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
        let (callers, may, paces) = (self.callers.current(), self.may, self.paces.clone());
        let audit = self.audit.clone();
        // The one that was polled ready.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let (mut head, body) = request.into_parts();
        Box::pin(async move {
            match admitted(&callers, may, &paces, &head).await {
                Ok(Admitted { caller, rights, place }) => {
                    tracing::Span::current().record("caller", caller.name.as_str());
                    head.extensions.insert(caller);
                    if let Some(rights) = rights {
                        head.extensions.insert(rights);
                    }
                    match place {
                        Ok(Some(place)) => _ = head.extensions.insert(place),
                        Ok(None) => {}
                        Err(throttled) => _ = head.extensions.insert(throttled),
                    }
                    inner.call(Request::from_parts(head, body)).await
                }
                Err(Refused { caller, why }) => {
                    let trace = head.extensions.get::<Inbound>().map(|inbound| inbound.traced.trace_id());
                    let told = trace.unwrap_or_default();
                    let refusal = match why {
                        Why::Unknown(why) => status::unauthenticated(why, trace),
                        Why::NoReviewer => status::no_reviewer(head.uri.path(), trace),
                        Why::Throttled(throttled) => status::throttled(throttled, false, told),
                        Why::Denied(rpc, denied) => status::denied(&denied, rpc.moves_money(), told),
                    };
                    let rpc = status::rpc_of(head.uri.path());
                    audit.refused(status::refusal(&refusal, rpc, caller, trace));
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
