//! `payops journal export` and `import`: from a folder to PostgreSQL, without losing a key.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use payops::clock::Clock;
use payops::grpc::pb::OperationState::{Pending, Succeeded};
use payops::journal::embedded::{self, Embedded, Settings};
use payops::journal::entry::{Entry, Event};
use payops::journal::postgres::{self, Postgres, import};
use payops::journal::transfer::Sum;
use payops::journal::{Error, Filter, Journal, Terms, Tombstone, Written};
use rustix::process::Signal;
use serde_json::json;

use super::{DAY, Place, change, insert, minted, not_sent, once_free, proven, schedule, started};
use crate::database::{name, shared};
use crate::process::{self, ended, run, signal, text};
use crate::sandbox::world::AMOUNT;
use crate::support::{eventually, outcome, refund};

/// What a command of the journal says, and its exit code.
async fn journal(arguments: &[&str]) -> (String, i32) {
    let output = run(&[&["journal"], arguments].concat()).await;
    (text(&output.stdout) + &text(&output.stderr), output.status.code().unwrap())
}

/// Every entry, the youngest first.
async fn everything(journal: &impl Journal) -> Vec<Entry> {
    journal.list(&Filter::default(), None, 10_000).await.unwrap()
}

/// What was over long ago, under such a key, is forgotten.
async fn forget(journal: &Embedded, clock: &Clock, keys: &[&str]) {
    let old = clock.now() - 91 * DAY;
    for key in keys {
        let entry = started(key, old);
        insert(journal, &entry).await;
        change(journal, &entry, &proven(), old).await;
    }
    assert_eq!(journal.forget(64).await.unwrap(), keys.len());
}

/// The procedure of docs/journal-postgres.md, with an operation of each kind under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_moved_to_postgresql_knows_every_key_and_goes_on() {
    let place = process::Place::new().await;
    place.no_longer_new();
    place.set("journal", "new = true\n");
    // Nothing is read back before somebody asks again.
    place.set("read_back", "schedule = [\"5m\"]\nthen_every = \"5m\"\n");
    let (config, file) = (place.path("payops.toml"), place.path("journal.jsonl"));
    let (config, file) = (config.to_str().unwrap(), file.to_str().unwrap());
    let world = &place.world;
    let mut cards = Vec::new();
    for _ in 0..5 {
        cards.push(world.card().await);
    }
    let [done, declined, doubted, reviewed, dead] = &cards[..] else { panic!("five cards") };
    let swish = "T12345678.demoSwish0000000000001";

    let mut life = place.serve().await;
    let orders = place.orders();
    let first = orders.capture("done", done, AMOUNT).await.unwrap().operation;
    world.fault(json!({"operation": "capture", "fault": "declined"})).await;
    orders.capture("declined", declined, AMOUNT).await.unwrap_err();
    world.fault(json!({"operation": "capture", "fault": "answer_lost_after_applying"})).await;
    assert_eq!(orders.capture("doubted", doubted, AMOUNT).await.unwrap_err().reason(), "OUTCOME_UNKNOWN");
    world.fault(json!({"operation": "capture", "fault": "duplicate_application"})).await;
    assert_eq!(orders.capture("reviewed", reviewed, 100).await.unwrap_err().reason(), "IN_REVIEW");
    world.fault(json!({"operation": "refund", "fault": "accepted_then", "outcome": "done"})).await;
    let mut message = refund(swish, 1_000);
    message.r#async = true;
    assert_eq!(orders.refund_with("accepted", message).await.unwrap().operation.state(), Pending);

    let (told, code) = journal(&["export", file, "--config", config]).await;
    assert!(code == 69 && told.contains("a payops runs on it: stop it first"), "{told}");
    signal(&life, Signal::TERM);
    assert!(ended(&mut life).await.success());

    // What takes longer than a test: keys of long ago, and an attempt whose sender died without a word.
    let clock = Clock::system();
    let terms = Terms { new: false, ..Terms::beginning() };
    let settings =
        Settings { directory: place.path("journal"), terms, audit: payops::journal::audit::Key::none() };
    let folder = once_free(|| Embedded::open(&settings, &clock, &schedule())).unwrap();
    let (old_key, dated_key) = ("order-of-long-ago", minted(clock.now() - 91 * DAY));
    forget(&folder, &clock, &[old_key, &dated_key]).await;
    let mut died = crate::replicas::recorded("orders", "died", dead, AMOUNT, clock.now());
    died.lease_until = clock.now();
    died.reading.next_at = Some(clock.now());
    insert(&folder, &died).await;
    let before = everything(&folder).await;
    assert_eq!(before.len(), 6);
    drop(folder);

    let (told, code) = journal(&["export", file, "--config", config]).await;
    assert!(code == 0 && told.contains("6 operations and 1 tombstones"), "{told}");
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let refused = run(&["serve", "--config", config]).await;
    assert_eq!(refused.status.code(), Some(69));
    assert!(text(&refused.stderr).contains("it was exported"), "{}", text(&refused.stderr));

    let database = shared().database();
    place.no_longer_new();
    place.on(&database);
    let (told, code) = journal(&["import", file, "--config", config]).await;
    assert!(code == 0 && told.contains("6 operations and 1 tombstones are in the journal"), "{told}");
    let (told, code) = journal(&["import", file, "--config", config]).await;
    assert!(code == 0 && told.contains("had been imported before"), "{told}");
    {
        let settings =
            postgres::Settings { postgres: database, terms, audit: payops::journal::audit::Key::none() };
        let (moved, _) = Postgres::open(&settings).await.unwrap();
        assert_eq!(everything(&moved).await, before, "with every revision and every history");
        assert_eq!(moved.loss(), None);
    }

    let _life = place.serve().await;
    assert!(!place.log().contains("was lost"), "{}", place.log());
    let orders = place.orders();
    let again = orders.capture("done", done, AMOUNT).await.unwrap();
    assert_eq!((again.operation, again.replayed), (first, true));
    assert_eq!(orders.capture("declined", declined, AMOUNT).await.unwrap_err().reason(), "DECLINED");
    for key in [old_key, &dated_key] {
        let expired = orders.capture(key, done, AMOUNT).await.unwrap_err();
        assert_eq!(expired.reason(), "IDEMPOTENCY_KEY_EXPIRED", "{key}");
    }
    // What was open goes on: it is read back, stays reserved, and ends.
    assert_eq!(orders.capture("reviewed", reviewed, 100).await.unwrap_err().reason(), "IN_REVIEW");
    assert_eq!(orders.capture("other", reviewed, 1).await.unwrap_err().reason(), "TRANSACTION_BUSY");
    assert_eq!(orders.capture("doubted", doubted, AMOUNT).await.unwrap().operation.state(), Succeeded);
    eventually("what was accepted is done", async || {
        let mut asked = orders.keyed("accepted", refund(swish, 1_000));
        asked.set_timeout(Duration::from_millis(500));
        let answer = outcome(orders.client.clone().refund(asked).await, |m| m.operation);
        answer.is_ok_and(|answer| answer.operation.state() == Succeeded)
    })
    .await;
    eventually("the dead one's attempt is looked at", async || {
        orders.capture("died", dead, AMOUNT).await.is_err_and(|told| told.reason() == "OUTCOME_UNKNOWN")
    })
    .await;
    for card in [done, declined, doubted, reviewed] {
        assert_eq!(place.posts(card).await, 1, "nothing is sent a second time");
    }
    assert_eq!(place.posts(dead).await, 0);
    // A new key is sent at once, without a look: nothing was lost.
    let fresh = world.card().await;
    orders.capture("new", &fresh, AMOUNT).await.unwrap();
    assert_eq!(world.requests(&fresh).await.len(), 1);
}

/// Exports it once nobody has it.
fn export(place: &Place, file: &Path) -> Result<Sum, Error> {
    once_free(|| embedded::export(place.directory(), file))
}

/// A journal of today.
fn place() -> Place {
    Place { clock: Clock::manual(Clock::system().now()), ..Place::new() }
}

/// A folder with an entry of each of some kinds, exported.
async fn exported(place: &Place) -> (PathBuf, Vec<Entry>) {
    let journal = place.open();
    let now = place.clock.now();
    let (open, over) = (started("open", now), started("over", now));
    insert(&journal, &open).await;
    insert(&journal, &over).await;
    change(&journal, &over, &proven(), now).await;
    forget(&journal, &place.clock, &["forgotten", &minted(now - 91 * DAY)]).await;
    let all = everything(&journal).await;
    drop(journal);
    let file = place.folder.path().join("journal.jsonl");
    let sum = export(place, &file).unwrap();
    assert_eq!((sum.entries, sum.tombstones), (2, 1));
    (file, all)
}

fn settings() -> postgres::Settings {
    let terms = Terms { new: false, ..Terms::beginning() };
    postgres::Settings { postgres: shared().database(), terms, audit: payops::journal::audit::Key::none() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_whole_leaves_the_database_as_it_was() {
    let place = place();
    let (file, all) = exported(&place).await;
    let settings = settings();
    let whole = fs::read_to_string(&file).unwrap();
    let without = |nth: usize| -> String {
        whole.split_inclusive('\n').enumerate().filter(|(at, _)| *at != nth).map(|(_, line)| line).collect()
    };
    let wrong = [
        String::new(),
        whole[..whole.len() / 2].to_owned(),
        whole[..whole.len() - 1].to_owned(),
        without(1),
        without(3),
        whole.split_inclusive('\n').take(4).collect(),
        whole.replacen("29990", "29991", 1),
    ];
    for text in wrong {
        fs::write(&file, text).unwrap();
        let why = import(&settings.postgres, &settings.audit, &file).await.unwrap_err().to_string();
        assert!(why.contains("journal.jsonl, line "), "{why}");
    }
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'payops'";
    assert_eq!(shared().primary.sql(name(&settings.postgres), tables), "0", "the database was not asked");
    fs::write(&file, whole).unwrap();
    assert!(!import(&settings.postgres, &settings.audit, &file).await.unwrap().again);
    let (journal, _) = Postgres::open(&settings).await.unwrap();
    assert_eq!(everything(&journal).await, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_empty_journal_takes_another_one_in_and_that_one_again() {
    let place = place();
    let (file, all) = exported(&place).await;
    let settings = settings();
    let imported = import(&settings.postgres, &settings.audit, &file).await.unwrap();
    let (journal, clock) = Postgres::open(&settings).await.unwrap();
    let open = all.iter().find(|entry| entry.state.is_open()).unwrap();
    let next = super::after(open, &Event::doubted("no answer"), clock.now());
    assert_eq!(journal.update(next.clone()).await.unwrap(), Written::Done);
    // The same file again changes nothing, and disturbs nobody.
    let again = import(&settings.postgres, &settings.audit, &file).await.unwrap();
    assert_eq!((again.sum, imported.again, again.again), (imported.sum, false, true));
    assert_eq!(journal.get(open.id).await.unwrap(), Some(next));
    journal.check().await.unwrap();
    // Another one is refused, and so is one into a journal that was begun here.
    let other = self::place();
    let (other, _) = exported(&other).await;
    let begun = postgres::Settings { terms: Terms::beginning(), ..self::settings() };
    let (journal, clock) = Postgres::open(&begun).await.unwrap();
    assert_eq!(journal.insert(started("k", clock.now())).await.unwrap(), Written::Done);
    for database in [&settings.postgres, &begun.postgres] {
        let why = import(database, &settings.audit, &other).await.unwrap_err().to_string();
        assert!(why.contains("not empty") && why.contains("journal.postgres.url"), "{why}");
    }
    journal.check().await.unwrap();
}

/// A process that was started too early on the empty database must not run a key that is imported.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_ran_on_the_empty_journal_ends_with_the_import() {
    let place = place();
    let (file, _) = exported(&place).await;
    let mut early = settings();
    early.terms.new = true;
    let (journal, clock) = Postgres::open(&early).await.unwrap();
    // The import stands still just before its end.
    let (primary, database) = (&shared().primary, name(&early.postgres).to_owned());
    let locks =
        format!("FROM pg_locks WHERE database = (SELECT oid FROM pg_database WHERE datname = '{database}')");
    let holding = std::thread::spawn(move || {
        let hold = "LOCK TABLE payops.imports IN EXCLUSIVE MODE; SELECT pg_sleep(2)";
        shared().primary.sql(&database, hold)
    });
    let held = format!("SELECT count(*) {locks} AND mode = 'ExclusiveLock' AND granted");
    eventually("it is held", async || primary.sql("postgres", &held) != "0").await;
    let inserting = async {
        let waits = format!("SELECT count(*) {locks} AND NOT granted");
        eventually("the import waits", async || primary.sql("postgres", &waits) != "0").await;
        journal.insert(started("new", clock.now())).await
    };
    let (imported, inserted) = futures::join!(import(&early.postgres, &early.audit, &file), inserting);
    assert!(!imported.unwrap().again);
    assert!(matches!(inserted, Err(Error::Unavailable(_))), "it waits, and is not written: {inserted:?}");
    assert!(journal.is_broken());
    holding.join().unwrap();
    let count = "SELECT count(*) FROM payops.operations";
    assert_eq!(primary.sql(name(&early.postgres), count), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_forgotten_before_the_move_is_never_run() {
    let place = place();
    let (file, _) = exported(&place).await;
    let mut settings = settings();
    import(&settings.postgres, &settings.audit, &file).await.unwrap();
    // What a longer retention would have kept is gone all the same.
    settings.terms.retention = 365 * DAY;
    let (journal, clock) = Postgres::open(&settings).await.unwrap();
    let tombstone = Tombstone { state: "succeeded".to_owned() };
    let again = started("forgotten", clock.now());
    assert_eq!(journal.tombstone(&again.caller, &again.key).await.unwrap(), Some(tombstone.clone()));
    assert_eq!(journal.insert(again.clone()).await.unwrap(), Written::Forgotten(tombstone));
    assert_eq!(journal.find(&again.caller, &again.key).await.unwrap(), None);
    let stranger = Entry { caller: "stranger".parse().unwrap(), ..again };
    assert_eq!(journal.insert(stranger).await.unwrap(), Written::Done, "another caller's key is another one");
    assert!(journal.remembers_since() >= place.clock.now() - 90 * DAY);
}

/// Two journals of one account would each send.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_exported_is_no_journal_any_more_unless_that_is_taken_back() {
    let mut place = place();
    place.settings.terms.new = true;
    let (file, all) = exported(&place).await;
    place.settings.terms.new = false;
    let why = place.refused();
    assert!(
        why.contains("it was exported") && why.contains("--undo") && why.contains("generation = 2"),
        "{why}"
    );
    // The file was lost on its way: it can be written again.
    assert!(
        matches!(export(&place, &file), Err(Error::Unavailable(why)) if why.contains("is there already"))
    );
    let first = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    export(&place, &file).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), first);
    embedded::check(place.directory()).unwrap();
    // It was imported nowhere.
    let directory = place.directory().to_str().unwrap();
    let (told, code) = journal(&["export", "--undo", "--directory", directory]).await;
    assert!(code == 0 && told.contains("may be used again"), "{told}");
    let journal = place.open();
    assert_eq!(journal.loss(), None);
    assert_eq!(everything(&journal).await.len(), all.len());
    drop(journal);
    once_free(|| embedded::take_back(place.directory())).unwrap();
    // It was, and somebody goes back all the same: what came in between is lost.
    fs::remove_file(&file).unwrap();
    export(&place, &file).unwrap();
    place.settings.terms.generation = 2;
    assert!(place.open().loss().is_some());
    assert!(place.open().loss().is_some(), "and it is a journal again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_moves_with_its_journal_and_one_that_nobody_has_seen_is_not_moved() {
    let mut place = place();
    let journal = place.open();
    let entry = started("k", place.clock.now());
    insert(&journal, &entry).await;
    change(&journal, &entry, &not_sent(), place.clock.now()).await;
    drop(journal);
    let backup = place.folder.path().join("backup.sqlite");
    embedded::backup(place.directory(), &backup).unwrap();
    fs::remove_dir_all(place.directory()).unwrap();
    fs::create_dir(place.directory()).unwrap();
    fs::copy(&backup, place.directory().join("journal.sqlite")).unwrap();
    let file = place.folder.path().join("journal.jsonl");
    let why = export(&place, &file).unwrap_err().to_string();
    assert!(why.contains("a backup was restored") && why.contains("start payops on it once"), "{why}");
    place.settings.terms.new = false;
    let loss = place.open().loss().unwrap();
    export(&place, &file).unwrap();
    let settings = settings();
    import(&settings.postgres, &settings.audit, &file).await.unwrap();
    let (journal, _) = Postgres::open(&settings).await.unwrap();
    assert_eq!(journal.loss(), Some(loss));
}

/// A payops of before that would not know of the tombstones.
#[tokio::test(flavor = "multi_thread")]
async fn tables_of_the_first_version_are_brought_forward_and_an_older_payops_is_refused_after_an_import() {
    let settings = postgres::Settings { terms: Terms::beginning(), ..settings() };
    let (primary, database) = (&shared().primary, name(&settings.postgres));
    let first = include_str!("../../../src/journal/postgres/0001_operations.sql");
    let sql = format!(
        "SET ROLE payops; CREATE SCHEMA payops; CREATE TABLE payops.migrations (version integer PRIMARY KEY,
         name text NOT NULL, works_from integer NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());
         {first} INSERT INTO payops.migrations VALUES (1, 'operations', 1)"
    );
    primary.sql(database, &sql);
    drop(Postgres::open(&settings).await.unwrap());
    let works_from =
        || primary.sql(database, "SELECT max(works_from) FROM payops.migrations WHERE version < 3");
    assert_eq!(works_from(), "1");
    let place = place();
    let (file, _) = exported(&place).await;
    import(&settings.postgres, &settings.audit, &file).await.unwrap();
    assert_eq!(works_from(), "2");
}

/// Many, in more than one statement.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_of_many_operations_moves_whole() {
    const OPERATIONS: usize = 3_000;
    let place = place();
    let journal = place.open();
    let now = place.clock.now();
    let all = (0..OPERATIONS).map(|nth| {
        let (journal, entry) =
            (&journal, started(&format!("k-{nth}"), if nth % 3 == 0 { now - 91 * DAY } else { now }));
        async move {
            insert(journal, &entry).await;
            let event = if nth % 2 == 0 { proven() } else { not_sent() };
            change(journal, &entry, &event, entry.created_at).await;
        }
    });
    futures::future::join_all(all).await;
    while journal.forget(64).await.unwrap() > 0 {}
    let all = everything(&journal).await;
    drop(journal);
    let file = place.folder.path().join("journal.jsonl");
    let sum = export(&place, &file).unwrap();
    assert_eq!((sum.entries, sum.tombstones), (2_000, 1_000));
    let settings = settings();
    let began = Instant::now();
    import(&settings.postgres, &settings.audit, &file).await.unwrap();
    println!("{OPERATIONS} operations taken in within {:?}", began.elapsed());
    let (moved, clock) = Postgres::open(&settings).await.unwrap();
    assert_eq!(everything(&moved).await, all);
    for nth in (0..OPERATIONS).step_by(300) {
        let forgotten = moved.insert(started(&format!("k-{nth}"), clock.now())).await.unwrap();
        assert!(matches!(forgotten, Written::Forgotten(_)), "{forgotten:?}");
    }
}
