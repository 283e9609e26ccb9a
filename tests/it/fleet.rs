//! Three processes of the program on one PostgreSQL with a synchronous standby, killed, stopped and restarted at random
//! moments under load, while their database is restarted, cut off, left without its standby and taken over by it. The
//! PSP fails, and callers retry wherever they come to, as in [`crate::kills`]. docs/guarantees.md has the command for
//! the long one.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use payops::grpc::pb::OperationState;
use payops::journal::audit::{Key, verify::Verifier};
use payops::journal::postgres;
use rustix::process::Signal;
use tokio::{process::Child, task::block_in_place};

use crate::database::{Cluster, name};
use crate::ordeal::{Dice, Least, Run, books, median};
use crate::place::{ended, signal};

const REPLICAS: usize = 3;
/// A token's life, what follows it, and the leases of those who died, by a database that is dated three seconds later;
/// twice.
const SETTLES: Duration = Duration::from_secs(40);
/// The longest that a process may take to serve: as long as a database may be out of reach.
const SERVES: Duration = Duration::from_mins(1);
/// What a process ends with that finds no database at its start.
const UNAVAILABLE: i32 = 69;

/// What was done to the processes.
#[derive(Default)]
struct Toll {
    kills: usize,
    /// Of them, before it served.
    at_start: usize,
    restarts: usize,
    stops: usize,
    /// Of them, beyond its lease, and beyond all that it had begun: the token, the fence, the reads.
    beyond_lease: usize,
    beyond_all: usize,
    /// Starts that found no database.
    refused: usize,
    starts: Vec<Duration>,
    /// For each kill of a process that served: operations under way in all of them.
    under_way: Vec<usize>,
}

impl Toll {
    fn add(&mut self, other: Self) {
        self.kills += other.kills;
        self.at_start += other.at_start;
        self.restarts += other.restarts;
        self.stops += other.stops;
        self.beyond_lease += other.beyond_lease;
        self.beyond_all += other.beyond_all;
        self.refused += other.refused;
        self.starts.extend(other.starts);
        self.under_way.extend(other.under_way);
    }
}

/// Ends and stops one life of a replica after the other, until all is done. Gives the last life, which is left alone.
async fn torment(run: Arc<Run>, replica: usize) -> (Child, Toll) {
    let place = &run.places[replica];
    let mut dice = Dice::new(run.seed, 1 << 15 | u64::try_from(replica).unwrap());
    let mut toll = Toll::default();
    loop {
        let is_last = run.enough();
        let began = Instant::now();
        let mut life = place.begin(&mut place.command());
        if !is_last && dice.one_in(10) {
            dice.pause(0, 200).await;
            if life.try_wait().unwrap().is_some() {
                toll.refused += 1;
                continue;
            }
            signal(&life, Signal::KILL);
            assert!(!ended(&mut life).await.success(), "it was killed");
            run.kills.fetch_add(1, Relaxed);
            toll.kills += 1;
            toll.at_start += 1;
            continue;
        }
        if !serves(&run, replica, &mut life).await {
            toll.refused += 1;
            dice.pause(100, 500).await;
            continue;
        }
        toll.starts.push(began.elapsed());
        if is_last {
            return (life, toll);
        }
        if dice.one_in(3) {
            dice.pause(20, 300).await;
            signal(&life, Signal::STOP);
            toll.stops += 1;
            match dice.between(0, 8) {
                0 => {
                    toll.beyond_all += 1;
                    dice.pause(10_000, 12_000).await;
                }
                1..4 => {
                    toll.beyond_lease += 1;
                    dice.pause(4_000, 5_000).await;
                }
                _ => dice.pause(5, 500).await,
            }
            signal(&life, Signal::CONT);
        }
        dice.pause(300, 2_500).await;
        while run.is_ahead(run.kills.load(Relaxed)) && !run.enough() {
            dice.pause(50, 100).await;
        }
        assert!(life.try_wait().unwrap().is_none(), "it ended by itself: {}", place.log());
        if dice.one_in(6) {
            signal(&life, Signal::TERM);
            assert!(ended(&mut life).await.success(), "it was told to end: {}", place.log());
            toll.restarts += 1;
            continue;
        }
        signal(&life, Signal::KILL);
        assert!(!ended(&mut life).await.success(), "it was killed");
        run.kills.fetch_add(1, Relaxed);
        toll.kills += 1;
        toll.under_way.extend(under_way(&run, (replica + 1) % REPLICAS).await);
    }
}

/// Waits until a process serves. False if it ended because there is no database.
async fn serves(run: &Run, replica: usize, life: &mut Child) -> bool {
    let (place, began) = (&run.places[replica], Instant::now());
    while place.health().await.is_none() {
        if let Some(status) = life.try_wait().unwrap() {
            assert_eq!(status.code(), Some(UNAVAILABLE), "{}", place.log());
            return false;
        }
        assert!(began.elapsed() < SERVES, "it does not serve: {}", place.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    place.no_longer_new();
    true
}

/// How many operations are under way; nothing, where nobody says so.
async fn under_way(run: &Run, asked: usize) -> Option<usize> {
    let started = books::records(&run.places[asked], &[OperationState::Started]);
    Some(tokio::time::timeout(Duration::from_secs(1), started).await.ok()??.len())
}

/// What was done to the database.
#[derive(Default)]
struct Troubles {
    cuts: usize,
    restarts: usize,
    standby_restarts: usize,
    failovers: usize,
    /// From the end of one server to the acknowledgement of the next one's standby.
    longest: Duration,
}

/// Does to the database what happens to databases, until all is done.
async fn trouble(run: Arc<Run>, mut cluster: Cluster) -> (Cluster, Troubles) {
    let mut dice = Dice::new(run.seed, 1 << 13);
    let mut troubles = Troubles::default();
    for number in 0.. {
        dice.pause(300, 2_000).await;
        while run.is_ahead(number) && !run.enough() {
            dice.pause(50, 100).await;
        }
        if run.enough() && number > 5 {
            break;
        }
        let pause = Duration::from_millis(dice.between(0, 1_500));
        let began = Instant::now();
        block_in_place(|| match number % 6 {
            1 => {
                cluster.primary.stop();
                std::thread::sleep(pause);
                cluster.primary.start();
                cluster.until_in_step();
                troubles.restarts += 1;
            }
            3 => {
                cluster.fail_over();
                troubles.failovers += 1;
            }
            5 => {
                let standby = cluster.standby.as_mut().unwrap();
                standby.stop();
                std::thread::sleep(pause);
                standby.start();
                cluster.until_in_step();
                troubles.standby_restarts += 1;
            }
            _ => {
                let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                           WHERE usename = 'payops' AND random() < 0.7";
                troubles.cuts += cluster.primary.sql("postgres", cut).parse::<usize>().unwrap();
            }
        });
        troubles.longest = troubles.longest.max(began.elapsed());
    }
    (cluster, troubles)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_answer_as_one_whatever_becomes_of_them_and_of_their_database() {
    let least = Least { kills: 8, operations: 300, callers: 48, settles: SETTLES };
    let run = Arc::new(Run::new(REPLICAS, least).await);
    let cluster = block_in_place(Cluster::start);
    let mut database = cluster.database();
    // A sender whose commit is not confirmed is not waited for any longer.
    database.commit_wait = Duration::from_millis(500);
    let began = Instant::now();
    run.prepare().await;
    for place in &run.places {
        place.on(&database);
    }
    let replicas = (0..REPLICAS).map(|replica| tokio::spawn(torment(Arc::clone(&run), replica)));
    let tormented = try_join_all(replicas);
    let troubled = tokio::spawn(trouble(Arc::clone(&run), cluster));
    // The first that fails ends it.
    let (asked, tormented, (cluster, troubles)) =
        tokio::try_join!(async { Ok(run.ask().await) }, tormented, troubled).unwrap();
    run.world().clear_faults().await;
    let journal = books::settled(&run).await;
    let effects = books::compare(&run, &asked, &journal).await;
    let (mut lives, mut toll) = (Vec::new(), Toll::default());
    for (life, of_replica) in tormented {
        lives.push(life);
        toll.add(of_replica);
    }

    // Whichever server it is by now, it knows them all.
    let rows = cluster.primary.sql(name(&database), "SELECT count(*) FROM payops.operations");
    assert_eq!(rows.parse::<usize>().unwrap(), journal.len());
    // Whoever was killed, and whatever was undone: each write is told, and none that is not there.
    let verifier = Verifier::new(vec![Key::none()]);
    let audited = postgres::verify(&cluster.at(name(&database)), verifier).await.unwrap();
    assert_eq!(audited.findings, Vec::<String>::new());
    assert_eq!(audited.operations, u64::try_from(journal.len()).unwrap());
    let alarms = run.alarms();
    // What a database in trouble is to be told of.
    let foreseen = ["the database is not fit", "a result could not be recorded"];
    let unforeseen: Vec<_> =
        alarms.iter().filter(|line| !foreseen.iter().any(|told| line.contains(told))).collect();
    assert!(unforeseen.is_empty(), "{unforeseen:#?}");

    let busy = toll.under_way.iter().filter(|count| **count > 0).count();
    println!(
        "{} kills ({} while starting), {} restarts, {} stops ({} beyond the lease, {} beyond everything), {} starts \
         without a database; at {busy} of {} kills operations were under way (median {})",
        toll.kills,
        toll.at_start,
        toll.restarts,
        toll.stops,
        toll.beyond_lease,
        toll.beyond_all,
        toll.refused,
        toll.under_way.len(),
        median(&toll.under_way),
    );
    println!(
        "{} failovers, {} database restarts, {} standby restarts, {} connections cut; the longest trouble {:?}",
        troubles.failovers, troubles.restarts, troubles.standby_restarts, troubles.cuts, troubles.longest
    );
    println!(
        "{} operations, {effects} effects, {} recorded, in {:?}; from start to first answer {:?} (median), {:?} (longest)",
        asked.len(),
        journal.len(),
        began.elapsed(),
        median(&toll.starts),
        toll.starts.iter().max().unwrap(),
    );
    run.print_answers();
    assert!(toll.kills >= run.kills_wanted && asked.len() >= run.operations_wanted);
    // Of a few that says nothing.
    let few = toll.under_way.len() < 10;
    assert!(few || busy * 2 > toll.under_way.len(), "most were killed idle: nothing was tried");
    assert!(effects * 3 > asked.len(), "little moved: nothing was tried");
}
