//! L4: what a failure left in doubt is worked off at nearly the rate at which
//! reads are allowed. In virtual time, so that the figure is no machine's.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::journal::entry::{Entry, Event};
use crate::payment::{Action, Amount, Capture, Command, Guards, Operation};

use super::plan::Plan;
use super::proof::say;
use super::psp::Post;
use super::world::{READS_MAX, Sim, alone, now, wall};

/// Operations in doubt.
const BACKLOG: usize = 2_000;
/// Of 1000 parts of the time that the places for reads have, so many go into
/// reads that are needed.
const WORKED: u64 = 850;

#[test]
fn a_backlog_is_worked_off_at_nearly_the_rate_at_which_reads_are_allowed() {
    for replicas in [1, 3] {
        let plan = Plan { replicas, transactions: BACKLOG, intentions: 0, ..Plan::calm(7) };
        let (took, reads, spent) = alone(plan, |sim| async move {
            sim.with(|world| (0..BACKLOG).for_each(|number| in_doubt(world, number)));
            let began = now();
            let read_before = read(&sim);
            sim.serve();
            while sim.with(|world| world.store.rows.values().any(|row| row.state.is_open())) {
                tokio::time::sleep(Duration::from_millis(100)).await;
                assert!(now() < 3_600_000, "it is never worked off");
            }
            let (reads, spent) = read(&sim);
            (now() - began, reads - read_before.0, spent - read_before.1)
        });
        let places = took * u64::try_from(READS_MAX * replicas).unwrap();
        // Per thousand: of their time, and of the reads.
        let worked = spent * 1_000 / places;
        let needed = BACKLOG as u64 * 1_000 / reads;
        say(&format!(
            "backlog: {BACKLOG} operations, {replicas} replicas: {took} ms, {reads} reads; of 1000 parts of the \
             places' time {worked} were spent reading, of 1000 reads {needed} were needed"
        ));
        assert!(worked * needed >= WORKED * 1_000, "{replicas} replicas: {worked}, {needed}");
    }
}

/// An operation that happened and of which nothing was heard.
fn in_doubt(world: &mut super::world::World, number: usize) {
    let command = Command {
        caller: "orders".parse().unwrap(),
        key: format!("backlog-{number}").parse().unwrap(),
        operation: Operation {
            transaction: format!("T12345678.sim{number}").parse().unwrap(),
            action: Action::Capture(Capture {
                amount: Amount::new(100).unwrap(),
                items: Vec::new(),
                reference: None,
                metadata: BTreeMap::new(),
                final_capture: false,
            }),
        },
        guards: Guards::default(),
        permit: crate::payment::permit::Permit::default(),
        traced: None,
    };
    let at = wall();
    let started = Entry::start(&command, at, at + Duration::from_mins(1), at);
    let event = Event::doubted("nothing was heard");
    let mut entry = started.after(&event, at, &super::world::schedule()).unwrap().unwrap();
    entry.reading.next_at = Some(Timestamp(at.0));
    let post = Post {
        transaction: command.operation.transaction.to_string(),
        kind: "capture",
        amount: 100,
        reference: Some(command.tag().to_string()),
        tag: command.tag().to_string(),
        agent: "payops".to_owned(),
        bearer: String::new(),
        written_at: now(),
    };
    world.psp.apply(now(), &post, 100, None, true);
    world.store.put(entry);
}

/// Reads so far, and the milliseconds that they took together.
fn read(sim: &Sim) -> (u64, u64) {
    let of = |name| sim.with(|world| world.stats.get(name).copied().unwrap_or_default());
    (of("reads"), of("reads: ms"))
}
