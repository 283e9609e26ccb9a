//! What HTTP/2 lets a client do to a server: while it does, another caller is served as if nothing were, and the
//! server's memory stays where it is. The server is a process of its own; each attack prints its figures.

mod attacks;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit};
use tokio::process::Child;

use crate::place::Place;
use crate::support::{Caller, eventually};

use attacks::Sent;

const DEMO: &str = "T12345678.demoCard00000000000001";

/// How long each attack goes on.
const LASTS: Duration = Duration::from_millis(1_500);

/// How much the process may grow meanwhile: connections with what they may make us hold, in a build without
/// optimisation.
const GROWTH_MAX_KIB: usize = 96 * 1024;

/// How long a call of somebody else may take, on a machine that has other things to do as well.
const CALL_MAX: Duration = Duration::from_secs(10);

/// So many calls have to be answered while an attack goes on; it is begun again until they are.
const CALLS_MIN: usize = 3;

/// The idle connections: ten times as many as there are places.
const IDLE: usize = 10_000;

/// Somebody else, who just calls.
struct Neighbour {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    calls: tokio::task::JoinHandle<Calls>,
}

#[derive(Default)]
struct Calls {
    answered: usize,
    slowest: Duration,
    /// Calls whose new connection ended before they arrived there, and that were made on another one.
    repeated: usize,
    failures: Vec<String>,
}

impl Neighbour {
    /// Calls again and again, each time on a new connection or always on the same.
    fn begin(place: &Place, anew: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, first) = (Arc::clone(&stop), place.orders());
        let answered = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&answered);
        let channel = place.address;
        let calls = tokio::spawn(async move {
            let mut calls = Calls::default();
            while !ended.load(Ordering::SeqCst) {
                let begun = Instant::now();
                let caller = async || if anew { another(channel).await } else { Ok(first.clone()) };
                let call = async || match caller().await {
                    Ok(caller) => {
                        caller.transaction(DEMO).await.map(drop).map_err(|why| why.status.to_string())
                    }
                    Err(why) => Err(why),
                };
                let mut answer = call().await;
                // Where every place is taken, the longest idle connection goes: at times one whose first call is
                // still on its way. Its client connects anew.
                let is_gone =
                    |why: &String| why.contains("transport error") || why.contains("connection closed");
                if anew && answer.as_ref().is_err_and(is_gone) {
                    calls.repeated += 1;
                    answer = call().await;
                }
                match answer {
                    Ok(()) => calls.answered = count.fetch_add(1, Ordering::SeqCst) + 1,
                    Err(why) => calls.failures.push(why),
                }
                calls.slowest = calls.slowest.max(begun.elapsed());
                // Nobody's load: it is the attack that is measured.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            calls
        });
        Self { stop, answered, calls }
    }

    async fn end(self) -> Calls {
        self.stop.store(true, Ordering::SeqCst);
        self.calls.await.unwrap()
    }
}

async fn another(address: std::net::SocketAddr) -> Result<Caller, String> {
    let endpoint = tonic::transport::Channel::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint.connect().await.map_err(|error| format!("{error:?}"))?;
    let client =
        payops::grpc::pb::payment_operations_service_client::PaymentOperationsServiceClient::new(channel);
    Ok(Caller { token: crate::place::TOKEN.to_owned(), client })
}

/// What the process holds in memory, in KiB.
fn resident(child: &Child) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id().expect("it runs"))).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Runs an attack, and looks that nobody else notices.
async fn withstand<A: Future<Output = Sent>>(
    place: &Place,
    child: &Child,
    name: &str,
    anew: bool,
    attack: impl Fn() -> A,
) {
    let before = resident(child);
    let peak = AtomicUsize::new(before);
    let neighbour = Neighbour::begin(place, anew);
    let watching = async {
        loop {
            peak.fetch_max(resident(child), Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let begun = Instant::now();
    let attacking = async {
        let mut sent = attack().await;
        while neighbour.answered.load(Ordering::SeqCst) < CALLS_MIN && begun.elapsed() < CALL_MAX {
            sent = sent.and(attack().await);
        }
        sent
    };
    let sent = tokio::select! {
        sent = attacking => sent,
        () = watching => unreachable!("it watches for ever"),
    };
    let took = begun.elapsed();
    let Calls { answered, slowest, repeated, failures } = neighbour.end().await;
    let (peak, Sent { frames, connections, ended }) = (peak.into_inner(), sent);
    println!(
        "{name}: {frames} frames on {connections} connections in {took:.1?}, {ended} of them ended by the server; \
         {answered} calls of another caller answered, {repeated} of them on a second connection, the slowest in \
         {slowest:.0?}; memory {before} KiB, {peak} at most"
    );
    assert_eq!(failures, Vec::<String>::new(), "{name}");
    assert!(
        repeated * 50 <= answered,
        "{name}: {repeated} of {answered} connections ended before their first call"
    );
    assert!(answered >= CALLS_MIN, "{name}: {answered} calls were answered");
    assert!(slowest < CALL_MAX, "{name}: a call took {slowest:?}");
    assert!(peak.saturating_sub(before) < GROWTH_MAX_KIB, "{name}: from {before} to {peak} KiB");
}

/// As many files as this process may have; the server inherits that.
fn many_files() -> u64 {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    maximum.unwrap_or(u64::MAX)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_abuse_of_http2_takes_the_service_from_others() {
    let files = many_files();
    let place = Place::new().await;
    let child = place.serve().await;
    let address = place.address;
    // What it needs once is there before anything is measured.
    place.orders().transaction(DEMO).await.unwrap();
    withstand(&place, &child, "nothing", false, || attacks::nothing(LASTS)).await;
    withstand(&place, &child, "rapid reset", false, || attacks::rapid_reset(address, LASTS)).await;
    withstand(&place, &child, "ping flood", false, || attacks::pings(address, LASTS)).await;
    withstand(&place, &child, "settings flood", false, || attacks::settings(address, LASTS)).await;
    withstand(&place, &child, "CONTINUATION flood", false, || attacks::continuations(address, LASTS)).await;
    withstand(&place, &child, "slow headers", false, || attacks::slow_headers(address, LASTS)).await;
    withstand(&place, &child, "slow bodies", false, || attacks::slow_bodies(address, LASTS)).await;
    withstand(&place, &child, "answers that nobody takes", false, || attacks::deaf(address, LASTS)).await;
    let idle = IDLE.min(usize::try_from(files).unwrap_or(IDLE).saturating_sub(500));
    withstand(&place, &child, "idle connections", true, || attacks::idle(address, idle)).await;
    // All of it is over, and forgotten.
    eventually("it serves as before", async || place.orders().capture("k", DEMO, 1).await.is_ok()).await;
    assert!(!place.log().contains("panicked"), "{}", place.log());
}
