//! The program is killed and stopped at random moments, under load, in front of a PSP that loses, delays, refuses and
//! lies, and lives on. Callers retry, hang up, give up and come back. Afterwards every answer that any of them ever got
//! is held against the PSP's ledger and the journal. docs/guarantees.md has the command for the long one.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use payops::journal::audit::{Key, verify::Verifier};
use payops::journal::embedded::{self, stats};
use rustix::process::Signal;
use tokio::process::Child;

use crate::ordeal::{Dice, Least, Run, books, median};
use crate::place::{ended, signal};

/// A token's life and what follows, twice.
const SETTLES: Duration = Duration::from_secs(20);

/// What was done to the program.
#[derive(Default)]
struct Toll {
    kills: usize,
    /// Of them, before it served.
    at_start: usize,
    stops: usize,
    long_stops: usize,
    /// From the start of the process to its first answer.
    starts: Vec<Duration>,
    /// For each kill of a process that served: entries under way, and entries open in any way.
    under_way: Vec<u64>,
    open: Vec<u64>,
}

/// Kills and stops one life after the other, until all is done. Gives the last life, which is left alone.
async fn torment(run: Arc<Run>) -> (Child, Toll) {
    let place = &run.places[0];
    let mut dice = Dice::new(run.seed, 1 << 15);
    let mut toll = Toll::default();
    loop {
        let began = Instant::now();
        let mut life = place.begin(&mut place.command());
        let is_last = run.enough();
        let early = !is_last && toll.kills > 0 && dice.one_in(10);
        if early {
            dice.pause(0, 150).await;
        } else {
            while place.health().await.is_none() {
                assert!(began.elapsed() < Duration::from_secs(30), "it does not serve: {}", place.log());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            toll.starts.push(began.elapsed());
            place.no_longer_new();
        }
        if is_last {
            return (life, toll);
        }
        if !early && dice.one_in(4) {
            dice.pause(20, 200).await;
            signal(&life, Signal::STOP);
            toll.stops += 1;
            // Past the end of attempts and leases, sometimes past the life of a token.
            match dice.between(0, 10) {
                0 => dice.pause(3_500, 4_500).await,
                1..4 => dice.pause(700, 1_500).await,
                _ => dice.pause(5, 300).await,
            }
            toll.long_stops += usize::from(began.elapsed() > Duration::from_secs(3));
            signal(&life, Signal::CONT);
        }
        if !early {
            dice.pause(100, 1_000).await;
        }
        signal(&life, Signal::KILL);
        assert!(!ended(&mut life).await.success(), "it was killed");
        toll.kills = run.kills.fetch_add(1, Relaxed) + 1;
        if early {
            toll.at_start += 1;
            continue;
        }
        let states = stats(&place.path("journal")).unwrap().states;
        let count =
            |states_wanted: &[&str]| states_wanted.iter().filter_map(|state| states.get(*state)).sum::<u64>();
        toll.under_way.push(count(&["started", "resent"]));
        toll.open.push(count(&["started", "resent", "accepted", "in_doubt", "review"]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_every_answer_was_true_and_every_key_had_one_effect_at_most() {
    let least = Least { kills: 25, operations: 1_500, callers: 128, settles: SETTLES };
    let run = Arc::new(Run::new(1, least).await);
    let began = Instant::now();
    run.prepare().await;
    let tormented = tokio::spawn(torment(Arc::clone(&run)));
    // The first that fails ends it.
    let (asked, (mut last, toll)) = tokio::try_join!(async { Ok(run.ask().await) }, tormented).unwrap();
    run.world().clear_faults().await;
    let journal = books::settled(&run).await;
    let effects = books::compare(&run, &asked, &journal).await;

    signal(&last, Signal::KILL);
    assert!(!ended(&mut last).await.success());
    let sound = embedded::check(&run.places[0].path("journal")).unwrap();
    assert_eq!(usize::try_from(sound.entries).unwrap(), journal.len());
    // Each write is told, and none that is not there.
    let audited = embedded::verify(&run.places[0].path("journal"), Verifier::new(vec![Key::none()])).unwrap();
    assert_eq!((audited.findings, audited.operations), (Vec::new(), sound.entries));
    let alarms = run.alarms();
    assert!(alarms.is_empty(), "{alarms:#?}");

    let busy = toll.under_way.iter().filter(|count| **count > 0).count();
    println!(
        "{} kills ({} while starting), {} stops ({} long); {} of {} lives were killed with operations under way \
         (median {}, {} open)",
        toll.kills,
        toll.at_start,
        toll.stops,
        toll.long_stops,
        busy,
        toll.under_way.len(),
        median(&toll.under_way),
        median(&toll.open),
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
    assert!(busy * 2 > toll.under_way.len(), "most were killed idle: nothing was tried");
    assert!(effects * 3 > asked.len(), "little moved: nothing was tried");
}
