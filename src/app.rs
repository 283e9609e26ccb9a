//! The composition root: the one room that knows all the others. Builds the
//! boundary from a configuration, serves it, and drains it.

mod watch;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use crate::audit::Audit;
use crate::auth::{AuthLayer, Permission};
use crate::callers::CallersFile;
use crate::clock::Clock;
use crate::conclude::Conclude;
use crate::config::{self, Config, Setting};
use crate::grpc::{
    Adapter, Waits,
    pb::{
        DESCRIPTORS, health::health_server::HealthServer,
        operation_review_service_server::OperationReviewServiceServer,
        payment_operations_service_server::PaymentOperationsServiceServer,
    },
    review::ReviewAdapter,
};
use crate::health::Health;
use crate::inbound::InboundLayer;
use crate::journal::{
    Journal, Terms,
    audit::Key,
    embedded::{self, Embedded},
    entry::Schedule,
    postgres::{self, Postgres},
};
use crate::listener::{self, Bounds, tls::Tls};
use crate::metrics::{Metered, Metrics, psp::MeasuredTransport};
use crate::operations::{Limits, Operations};
use crate::psp::dintero::{Dintero, transport::Http};
use crate::psp::guard::{self, Guarded, circuit};
use crate::reconcile::{ReadBack, decide::Rules, hint::Hints};
use crate::retention;
use crate::review::Reviews;
use crate::sweep::{self, Sweep};
use crate::trace::{self, Exporting, Otlp, Tracer};
use crate::webhook;

/// The service that moves money, whose readiness is told by name.
pub const SERVICE: &str = "payops.v1.PaymentOperationsService";
/// The service for persons, whose readiness is told by name.
pub const REVIEW_SERVICE: &str = "payops.v1.OperationReviewService";

/// The open connections of the listener for health alone.
const HEALTH_CONNECTIONS_MAX: usize = 64;

/// The boundary could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is not usable.
    #[error("{0}")]
    Configuration(config::Mistakes),
    /// The journal is not usable.
    #[error("{0}")]
    Journal(#[from] crate::journal::Error),
    /// The PSP client could not be made.
    #[error("the PSP client cannot be made: {0}")]
    Client(String),
    /// A further address cannot be listened on.
    #[error("{0}: cannot listen on {1}: {2}; give an address that is free")]
    Listen(&'static str, SocketAddr, #[source] io::Error),
    /// What the environment says of telemetry cannot be followed.
    #[error("{0}")]
    Telemetry(String),
    /// Reflection cannot be served.
    #[error("the descriptors are not usable: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

type Transport = MeasuredTransport<Http>;
type Client = Guarded<Dintero<Transport>>;

/// Serves on `listener` until `stop` is cancelled, then drains: not ready, no
/// new call, what is under way finishes within `server.drain_timeout`. Ends at
/// once, with an error, if the journal must not be written to any more.
pub async fn serve(config: &Config, listener: TcpListener, stop: CancellationToken) -> Result<(), Error> {
    let callers = CallersFile::open(&config.callers.file).map_err(Error::Configuration)?;
    let tls = config.server.tls.as_ref().map(Tls::open).transpose().map_err(Error::Configuration)?;
    let webhook = bind("webhook.listen", config.webhook.listen).await?;
    let health = bind("server.health_listen", config.server.health_listen).await?;
    let scraped = bind("metrics.listen", config.metrics.listen).await?;
    let doors = Doors { callers, listener, tls: tls.map(Arc::new), health, scraped, webhook };
    let schedule = schedule(&config.read_back);
    let terms = terms(config);
    match &config.journal.postgres {
        None => {
            let clock = Clock::system();
            let directory = config.journal.directory.clone();
            let settings = embedded::Settings { directory, terms, audit: audit_key(config)? };
            let journal = Embedded::open(&settings, &clock, &schedule)?;
            serve_from(config, doors, stop, (journal, clock, schedule)).await
        }
        Some(database) => {
            let settings =
                postgres::Settings { postgres: database.clone(), terms, audit: audit_key(config)? };
            let (journal, clock) = Postgres::open(&settings).await?;
            serve_from(config, doors, stop, (journal, clock, schedule)).await
        }
    }
}

/// Who comes in, and where.
struct Doors {
    callers: CallersFile,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    /// For health alone.
    health: Option<TcpListener>,
    /// For metrics.
    scraped: Option<TcpListener>,
    webhook: Option<TcpListener>,
}

async fn bind(key: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, Error> {
    let Some(address) = address else { return Ok(None) };
    let bound = TcpListener::bind(address).await;
    bound.map(Some).map_err(|error| Error::Listen(key, address, error))
}

async fn serve_from<J: Journal>(
    config: &Config,
    Doors { callers, listener, tls, health: probed, scraped, webhook }: Doors,
    stop: CancellationToken,
    (journal, clock, schedule): (J, Clock, Schedule),
) -> Result<(), Error> {
    // Stopped after the server: what it still answers may need them.
    let background = CancellationToken::new();
    let (metrics, tracer, exporting) = telemetry(&background).map_err(Error::Telemetry)?;
    let inbound = InboundLayer::new(config.server.message_timeout, &metrics, &tracer);
    let (audit, notes) = Audit::new(clock.clone(), metrics.clone());
    let journal = Metered::new(journal, metrics.clone(), tracer.clone());
    let dintero = dintero(config, &metrics, &tracer, &clock)?;
    let psp = guarded(config, dintero.clone(), &clock);

    let tasks = TaskTracker::new();
    let conclude = Conclude { journal: journal.clone(), psp: psp.clone(), clock, schedule };
    let limits = limits(config);
    let read_back = ReadBack::new(
        conclude.clone(),
        rules(&config.exactly_once),
        limits.resend(&conclude),
        config.read_back.in_flight_max,
        tracer,
    );
    let reviews = Reviews::new(conclude.clone(), config.exactly_once.settles(), stop.clone());
    let operations =
        Operations::new(conclude.clone(), read_back.clone(), &limits, tasks.clone(), stop.clone());
    let mut health = Health::new(&[SERVICE, REVIEW_SERVICE], stop.clone());
    if let Some(standby) = journal.has_standby() {
        health = health.with_standby(standby);
    }

    let hints = Hints::new(read_back.clone(), config.read_back.in_flight_max, background.clone());
    let receiving = webhook.map(|listener| receive(config, listener, &hints, &background, &stop));
    let reconciling = tokio::spawn(read_back.run(background.clone()));
    let forgetting = retention::run(journal.clone(), config.journal.retention, background.clone());
    let forgetting = tokio::spawn(forgetting);
    let sweeping = sweep(config, &conclude, &background);
    let noting = tokio::spawn(notes.run(journal.clone(), background.clone()));
    follow(config, &callers, tls.as_ref(), &audit, &background);
    if let Some(listener) = probed {
        let routes = Routes::new(HealthServer::new(health.clone()));
        // Until after the drain, so that those who ask hear that it is not ready.
        tokio::spawn(serve_on(
            listener,
            None,
            probes(&config.server),
            routes,
            inbound.clone(),
            background.clone(),
        ));
    }
    if let Some(listener) = scraped {
        tokio::spawn(metrics.clone().serve(listener, background.clone()));
    }
    let watched = watch::Watched {
        journal: journal.clone(),
        dintero,
        guarded: psp.clone(),
        clock: conclude.clock.clone(),
        tasks: tasks.clone(),
    };
    tokio::spawn(watched.clone().readiness(health.clone(), metrics.clone(), stop.clone()));
    tokio::spawn(watched.show(metrics.clone(), background.clone()));

    let routes = routes(config, operations, reviews, (&callers, &audit, &metrics), health.clone())?;
    let bounds = Bounds::from(&config.server);
    let server = serve_on(listener, tls, bounds, routes, inbound, stop.clone());
    let mut server = std::pin::pin!(server);
    // An idle server may have ended before we hear of the stop.
    let served = tokio::select! {
        () = &mut server => true,
        () = stop.cancelled() => false,
        () = broken(&journal) => {
            return Err(crate::journal::Error::Unconfirmed("see the log".to_owned()).into());
        }
    };
    health.set_ready(false);
    tracing::info!("draining");
    tasks.close();
    let drained = tokio::time::timeout(config.server.drain_timeout, async {
        // Calls first, then what runs on without them.
        if !served {
            server.await;
        }
        tasks.wait().await;
    });
    if drained.await.is_err() {
        tracing::warn!(operations = tasks.len(), "the drain limit passed; the journal has what was cut off");
    }
    background.cancel();
    // The journal keeps whatever a read was about to find out.
    let reading = async {
        drop(reconciling.await);
        if let Some(receiving) = receiving {
            drop(receiving.await);
        }
        drop(forgetting.await);
        drop(noting.await);
        if let Some(sweeping) = sweeping {
            drop(sweeping.await);
        }
        hints.ended().await;
    };
    drop(tokio::time::timeout(Duration::from_secs(1), reading).await);
    exporting.ended().await;
    tracing::info!("stopped");
    Ok(())
}

/// What is counted and traced, and for whom: the environment says so.
fn telemetry(stop: &CancellationToken) -> Result<(Metrics, Tracer, Exporting), String> {
    let otlp = Otlp::from_variables(&config::variables().collect())?;
    let metrics = Metrics::new(otlp.metric_exporter()?, otlp.resource.clone())?;
    let (tracer, exporting) = trace::start(&otlp, &metrics.spans(), stop.clone())?;
    Ok((metrics, tracer, exporting))
}

/// Follows the files that change while payops runs, and tells the audit what is
/// in force.
fn follow(
    config: &Config,
    callers: &CallersFile,
    tls: Option<&Arc<Tls>>,
    audit: &Audit,
    background: &CancellationToken,
) {
    let judged = |what: &'static str| {
        let audit = audit.clone();
        move |sha256: &[u8], refused| audit.configured(what, sha256, refused)
    };
    let settings = config.describe().iter().fold(Sha256::new(), |hash, Setting { key, value, .. }| {
        hash.chain_update(key).chain_update("=").chain_update(value).chain_update("\n")
    });
    audit.configured("configuration", &settings.finalize(), None);
    audit.configured("callers.file", &callers.sha256(), None);
    tokio::spawn(callers.clone().follow(background.clone(), judged("callers.file")));
    if let Some(tls) = tls {
        audit.configured("server.tls", &tls.sha256(), None);
        tokio::spawn(Arc::clone(tls).follow(background.clone(), judged("server.tls")));
    }
}

/// The key that is in use.
fn audit_key(config: &Config) -> Result<Key, Error> {
    if config.audit.key.is_none() {
        tracing::warn!(
            "audit.key_file is not set: who knows payops can change the audit so that it does not show"
        );
    }
    let keys = Key::configured(&config.audit)?;
    Ok(keys.into_iter().next().unwrap_or_else(Key::none))
}

fn dintero(
    config: &Config,
    metrics: &Metrics,
    tracer: &Tracer,
    clock: &Clock,
) -> Result<Dintero<Transport>, Error> {
    let http = Http::new(&config.psp).map_err(Error::Client)?;
    let transport = MeasuredTransport::new(http, metrics.clone(), tracer.clone());
    let life_min = config.exactly_once.token_life_min;
    Ok(Dintero::new(&config.psp, &config.accounts, life_min, &transport, clock))
}

/// The PSP, spared where it is in trouble.
fn guarded(config: &Config, dintero: Dintero<Transport>, clock: &Clock) -> Client {
    // Alone, an account has nobody to leave room for.
    let most = if config.accounts.len() > 1 { config.psp.account_in_flight_max } else { usize::MAX };
    let settings = guard::Settings {
        in_flight_max: most.min(config.psp.in_flight_max),
        circuit: circuit::Settings {
            failures: config.psp.circuit_failures,
            open_for: config.psp.circuit_open_for,
        },
        attempt_timeout: config.psp.attempt_timeout,
    };
    let accounts = config.accounts.iter().map(|account| account.id.clone());
    Guarded::new(dintero, accounts, settings, clock.clone())
}

fn limits(config: &Config) -> Limits {
    Limits {
        in_flight_max: config.psp.in_flight_max,
        attempt_timeout: config.psp.attempt_timeout,
        send_window: config.exactly_once.send_window,
        lease_grace: config.exactly_once.lease_grace,
    }
}

/// Receives webhooks until `stop`, and has what they are about read back.
fn receive<J: Journal>(
    config: &Config,
    listener: TcpListener,
    hints: &Hints<J, Client>,
    background: &CancellationToken,
    stop: &CancellationToken,
) -> JoinHandle<Option<()>> {
    let accounts = config.accounts.iter().map(|account| account.id.clone()).collect();
    let hints = hints.clone();
    let receiver = webhook::Receiver::new(config.webhook.clone(), accounts, move |transaction| {
        hints.take(transaction);
    });
    if let Ok(address) = listener.local_addr() {
        tracing::info!(listen = %address, path = config.webhook.path, "receiving webhooks");
    }
    tokio::spawn(background.clone().run_until_cancelled_owned(receiver.serve(listener, stop.clone())))
}

/// Compares the journal with the PSP's list, unless that is switched off.
fn sweep<J: Journal>(
    config: &Config,
    conclude: &Conclude<J, Client>,
    background: &CancellationToken,
) -> Option<JoinHandle<()>> {
    let Config { sweep, exactly_once, .. } = config;
    if sweep.every.is_zero() {
        tracing::warn!("sweep.every is zero: the journal is not compared with the PSP");
        return None;
    }
    let settings = sweep::Settings {
        accounts: config.accounts.iter().map(|account| account.id.clone()).collect(),
        every: sweep.every,
        look_back: sweep.look_back,
        look_back_after_loss: sweep.look_back_after_loss,
        settles: exactly_once.settles(),
        open_max: exactly_once.accepted_review_after,
        // In a database there is no place beside the journal: each start looks
        // back as far as it is told.
        mark: config.journal.postgres.is_none().then(|| config.journal.directory.join("sweep.done")),
    };
    Some(tokio::spawn(Sweep::new(conclude.clone(), settings).run(background.clone())))
}

fn routes<J: Journal>(
    config: &Config,
    operations: Operations<J, Client>,
    reviews: Reviews<J, Client>,
    (callers, audit, metrics): (&CallersFile, &Audit, &Metrics),
    health: Health,
) -> Result<Routes, Error> {
    let server = &config.server;
    let waits = Waits { default: server.wait_default, max: server.wait_max };
    let adapter = Adapter::new(operations, (audit.clone(), metrics.clone()), waits, server.watch_max);
    let service =
        PaymentOperationsServiceServer::new(adapter).max_decoding_message_size(server.message_bytes_max);
    let review = ReviewAdapter::new(reviews, waits, server.watch_max);
    let review =
        OperationReviewServiceServer::new(review).max_decoding_message_size(server.message_bytes_max);
    let admit = |may| ServiceBuilder::new().layer(AuthLayer::new(callers.clone(), may, audit.clone()));
    let service = admit(Permission::Rule).service(service);
    let review = admit(Permission::Review).service(review);
    let mut routes = Routes::new(service).add_service(review).add_service(HealthServer::new(health));
    if server.reflection {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        };
        routes = routes.add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);
    }
    Ok(routes)
}

/// Health is asked for without TLS, by probes that speak none.
fn probes(server: &config::Server) -> Bounds {
    Bounds { connections_max: HEALTH_CONNECTIONS_MAX, ..Bounds::from(server) }
}

/// Serves gRPC, with what is the same for every listener.
fn serve_on(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    bounds: Bounds,
    routes: Routes,
    inbound: InboundLayer,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    let service = ServiceBuilder::new()
        .layer(inbound)
        .map_response(|answer: http::Response<_>| answer.map(tonic::body::Body::new))
        .layer(CatchPanicLayer::custom(PanicAnswer))
        .service(routes.prepare());
    listener::serve(listener, tls, bounds, service, stop)
}

/// A panic is a defect; the caller still gets an answer, and the server serves
/// the next call.
#[derive(Clone, Copy)]
struct PanicAnswer;

impl tower_http::catch_panic::ResponseForPanic for PanicAnswer {
    type ResponseBody = tonic::body::Body;

    fn response_for_panic(&mut self, _: Box<dyn std::any::Any + Send>) -> http::Response<Self::ResponseBody> {
        tracing::error!("a call panicked: a defect");
        crate::grpc::status::money(&crate::failure::Failure::Internal, None, "").into_http()
    }
}

async fn broken<J: Journal>(journal: &J) {
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    while !journal.is_broken() {
        tick.tick().await;
    }
}

fn terms(config: &Config) -> Terms {
    let Config { journal, exactly_once, .. } = config;
    Terms {
        new: journal.new,
        generation: journal.generation,
        retention: journal.retention,
        loss_quiet: exactly_once.loss_quiet,
        loss_fence: exactly_once.loss_fence,
        key_clock_leeway: exactly_once.key_clock_leeway,
    }
}

fn schedule(read_back: &config::ReadBack) -> Schedule {
    Schedule {
        first: read_back.schedule.clone(),
        then: read_back.then_every,
        jitter_percent: read_back.jitter_percent,
    }
}

fn rules(times: &config::ExactlyOnce) -> Rules {
    Rules {
        settle_max: times.settle_max,
        read_lag_max: times.read_lag_max,
        absent_reads_apart: times.absent_reads_apart,
        failed_event_settles_after: times.failed_event_settles_after,
        partial_review_after: times.partial_review_after,
        accepted_review_after: times.accepted_review_after,
        unreadable_review_after: times.unreadable_review_after,
        resend_after: times.resend_after,
        resend_captures: times.resend_captures,
    }
}
