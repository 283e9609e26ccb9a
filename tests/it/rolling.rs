//! Replicas that are replaced one after the other, and callers who do not notice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use payops::{
    app::SERVICE,
    grpc::pb::health::{HealthCheckRequest, health_client::HealthClient},
};
use serde_json::json;
use tokio::task::JoinSet;
use tonic::Status;

use crate::database::shared;
use crate::place::{self, Place};
use crate::published::Retries;
use crate::sandbox::world::World;
use crate::support::{Caller, capture};

const REPLICAS: usize = 3;
const CALLERS: usize = 6;
const ROUNDS: usize = 10;
/// Far below `server.drain_timeout`: nothing is waited for but what is under way.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Captures until told to stop; says how often, how often it had to repeat, and what failed.
async fn call(
    replicas: Vec<Caller>,
    nth: usize,
    card: String,
    stop: Arc<AtomicBool>,
) -> (String, usize, usize, Vec<String>) {
    let retries = Retries::published();
    let (mut done, mut repeated, mut failed) = (0, 0, Vec::new());
    while !stop.load(SeqCst) {
        let key = format!("rolling-{nth}-{done}");
        match retries.capture(&replicas, nth + done, &key, &capture(&card, 1)).await {
            Ok((_, repeats)) => repeated += usize::from(repeats > 0),
            Err(why) => failed.push(format!("{why:?}")),
        }
        done += 1;
    }
    (card, done, repeated, failed)
}

/// A stream that stays open for as long as its process lets it.
fn watch_health(place: &Place) {
    let mut health = HealthClient::new(place.channel());
    tokio::spawn(async move {
        let request = HealthCheckRequest { service: SERVICE.to_owned() };
        let mut states = health.watch(request).await?.into_inner();
        while states.message().await?.is_some() {}
        Ok::<_, Status>(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_replaced_one_after_the_other_and_no_caller_notices() {
    let world = Arc::new(World::start().await);
    let slow = json!({"operation": "capture", "fault": "delayed_answer", "probability": 1, "delay_ms": 60});
    world.fault(slow).await;
    let database = shared().database();
    let places: Vec<Place> = (0..REPLICAS).map(|_| Place::in_front_of(Arc::clone(&world))).collect();
    let mut lives = Vec::new();
    for place in &places {
        place.on(&database);
        lives.push(place.serve().await);
        place.no_longer_new();
        watch_health(place);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for nth in 0..CALLERS {
        let replicas = places.iter().map(Place::orders).collect();
        callers.spawn(call(replicas, nth, world.card().await, Arc::clone(&stop)));
    }
    let mut longest = Duration::ZERO;
    for _ in 0..ROUNDS {
        for (place, life) in places.iter().zip(&mut lives) {
            let began = Instant::now();
            place::signal(life, rustix::process::Signal::TERM);
            assert_eq!(place::ended(life).await.code(), Some(0));
            longest = longest.max(began.elapsed());
            *life = place.serve().await;
            watch_health(place);
        }
    }
    stop.store(true, SeqCst);
    let (mut done, mut repeated) = (0, 0);
    for (card, of_caller, repeats, failed) in callers.join_all().await {
        assert_eq!(failed, Vec::<String>::new());
        // Every answer was true, and nothing moved twice.
        assert_eq!(world.ledger(&card).await.len(), of_caller);
        done += of_caller;
        repeated += repeats;
    }
    println!(
        "{} replicas replaced, {done} captures, {repeated} of them repeated by their client, the longest drain {longest:.1?}",
        ROUNDS * REPLICAS
    );
    assert!(longest < DRAIN_MAX, "{longest:?}");
    assert!(done > CALLERS * ROUNDS * REPLICAS / 2, "{done} captures: there was no load");
}
