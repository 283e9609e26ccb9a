//! The journal in PostgreSQL: what a second machine, a second process and a
//! failing database mean to it.

use std::time::{Duration, Instant};

use payops::config::Postgres as Connection;
use payops::journal::audit::Key;
use payops::journal::entry::{Event, State};
use payops::journal::postgres::{Postgres, Settings, migrate};
use payops::journal::{Error, Journal as _, Terms, Written};

use super::{DAY, PATIENCE, after, conformance, proven, started};
use crate::database::{Cluster, PASSWORD, name, shared};
use crate::support::eventually;

const PAGE: &str = include_str!("../../../docs/journal-postgres.md");

pub fn settings(database: Connection) -> Settings {
    let retention = conformance::RETENTION_DAYS * DAY;
    Settings { postgres: database, terms: Terms { retention, ..Terms::beginning() }, audit: Key::none() }
}

async fn open(settings: &Settings) -> (Postgres, payops::clock::Clock) {
    Postgres::open(settings).await.unwrap()
}

/// What a refusal says.
async fn refused(settings: &Settings) -> String {
    Postgres::open(settings).await.err().expect("it is refused").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_in_postgresql_is_a_journal() {
    let (journal, clock) = open(&settings(shared().database())).await;
    conformance::all(&journal, clock.now()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_have_one_journal() {
    let settings = settings(shared().database());
    let (one, clock) = open(&settings).await;
    let (other, _) = open(&settings).await;
    let now = clock.now();
    // One key, and one slot, between many writers of two processes.
    let first = started("k", now);
    let rivals: Vec<_> = (0..40)
        .map(|nth| {
            let key = if nth < 20 { "k".to_owned() } else { format!("k-{nth}") };
            payops::journal::entry::Entry { operation: first.operation.clone(), ..started(&key, now) }
        })
        .collect();
    let writes = rivals.iter().enumerate().map(|(nth, entry)| {
        let journal = if nth % 2 == 0 { one.clone() } else { other.clone() };
        async move { journal.insert(entry.clone()).await.unwrap() }
    });
    let written = futures::future::join_all(writes).await;
    assert_eq!(written.iter().filter(|written| **written == Written::Done).count(), 1, "{written:?}");
    let open = one.open_on(&first.operation.transaction).await.unwrap().unwrap();
    assert_eq!(other.open_on(&first.operation.transaction).await.unwrap(), Some(open.clone()));
    // What one process changes wakes whoever waits in another.
    let mut changes = other.changes(open.id);
    changes.borrow_and_update();
    let next = after(&open, &Event::doubted("no answer"), now);
    let began = Instant::now();
    assert_eq!(one.update(next.clone()).await.unwrap(), Written::Done);
    tokio::time::timeout(PATIENCE, async {
        while *changes.borrow_and_update() < next.revision {
            changes.changed().await.unwrap();
        }
    })
    .await
    .expect("it is told");
    println!("told after {:?}", began.elapsed());
    // One of two changes of a revision.
    let written =
        futures::join!(one.update(after(&next, &proven(), now)), other.update(after(&next, &proven(), now)));
    let mut written = [written.0.unwrap(), written.1.unwrap()];
    written.sort_by_key(|written| *written != Written::Done);
    assert_eq!(written, [Written::Done, Written::Stale]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_under_way_stays_so_when_another_process_starts() {
    let settings = settings(shared().database());
    let (one, clock) = open(&settings).await;
    let entry = started("k", clock.now());
    assert_eq!(one.insert(entry.clone()).await.unwrap(), Written::Done);
    let (other, clock) = open(&settings).await;
    assert_eq!(other.get(entry.id).await.unwrap(), Some(entry));
    assert_eq!(other.due(clock.now(), 10).await.unwrap(), [], "not before its lease is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_migrate_at_once_do_it_once() {
    let database = shared().database();
    let both = futures::join!(migrate(&database), migrate(&database));
    let steps = both.0.unwrap() + both.1.unwrap();
    let applied = shared().primary.sql(name(&database), "SELECT max(version) FROM payops.migrations");
    assert_eq!(applied, steps.to_string());
    assert_eq!(migrate(&database).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_too_new_are_refused_and_those_that_still_fit_are_not() {
    let database = shared().database();
    let known = migrate(&database).await.unwrap();
    let settings = settings(database);
    let apply = |version: usize, name_and_from: &str| {
        let sql = format!("INSERT INTO payops.migrations VALUES ({version}, {name_and_from})");
        shared().primary.sql(name(&settings.postgres), &sql);
    };
    apply(known + 1, "'adds a column', 1");
    drop(open(&settings).await);
    apply(known + 2, &format!("'drops a column', {}", known + 2));
    let why = refused(&settings).await;
    assert!(why.contains(&format!("version {}", known + 2)) && why.contains("use a newer one"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_services_role_needs_to_make_no_tables() {
    let mut database = shared().database();
    let owner = database.clone();
    let service = format!("s{}", uuid::Uuid::new_v4().simple());
    let primary = &shared().primary;
    primary.sql(
        "postgres",
        &format!("CREATE ROLE {service} LOGIN PASSWORD '{PASSWORD}'; GRANT pg_read_all_stats TO {service}"),
    );
    database.url = database.url.replace("payops@", &format!("{service}@"));
    database.migrate = false;
    let settings = settings(database);
    let why = refused(&settings).await;
    assert!(why.contains("payops migrate"), "{why}");
    migrate(&owner).await.unwrap();
    let grants = PAGE.split("```sql\n").nth(2).unwrap().split("```").next().unwrap();
    primary.sql(name(&owner), &grants.replace("payops_service", &service));
    let (journal, clock) = open(&settings).await;
    conformance::all(&journal, clock.now()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_a_synchronous_standby_is_refused_unless_that_is_wanted() {
    let cluster = Cluster::start_alone();
    let mut settings = settings(cluster.database());
    let why = refused(&settings).await;
    assert!(why.contains("synchronous_standby_names is empty"), "{why}");
    assert!(why.contains("journal.postgres.without_standby = true"), "{why}");
    settings.postgres.without_standby = true;
    let (journal, clock) = open(&settings).await;
    // Each key is looked up before it is sent, however young it is.
    let loss = journal.loss().expect("it may be lost at any time");
    let minted = super::minted(clock.now()).parse().unwrap();
    assert!(!loss.is_before(&minted, clock.now()) && loss.quiet_until < clock.now());
    assert_eq!(journal.insert(started("k", clock.now())).await.unwrap(), Written::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_standby_does_not_acknowledge_is_not_confirmed() {
    let mut cluster = Cluster::start();
    let mut settings = settings(cluster.database());
    settings.postgres.commit_wait = Duration::from_secs(1);
    let (journal, clock) = open(&settings).await;
    let entry = started("before", clock.now());
    assert_eq!(journal.insert(entry.clone()).await.unwrap(), Written::Done);
    // Before it is noticed that the standby is gone, and after: nothing is begun.
    cluster.standby.as_mut().unwrap().stop();
    let written = journal.insert(started("during", clock.now())).await;
    assert!(matches!(written, Err(Error::Unconfirmed(_) | Error::Unavailable(_))), "{written:?}");
    eventually("it is noticed", async || journal.check().await.is_err()).await;
    let written = journal.insert(started("after", clock.now())).await;
    assert!(matches!(written, Err(Error::Unavailable(_))), "{written:?}");
    cluster.standby.as_mut().unwrap().start();
    eventually("it is fit again", async || journal.check().await.is_ok()).await;
    assert_eq!(journal.insert(started("later", clock.now())).await.unwrap(), Written::Done);
}

/// Somebody ends the wait for the standby: the commit stands, on one machine alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_with_a_warning_is_not_confirmed() {
    let mut cluster = Cluster::start();
    let settings = settings(cluster.database());
    let (journal, clock) = open(&settings).await;
    cluster.standby.as_mut().unwrap().stop();
    let entry = started("k", clock.now());
    let writing = tokio::spawn({
        let (journal, entry) = (journal.clone(), entry.clone());
        async move { journal.insert(entry).await }
    });
    let waits = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%INSERT INTO payops.operations%'";
    eventually("it waits", async || !cluster.primary.sql("postgres", waits).is_empty()).await;
    let written = writing.await.unwrap();
    assert!(matches!(&written, Err(Error::Unconfirmed(why)) if why.contains("standby")), "{written:?}");
    // It is there, and it is ours; once the standby is back that is confirmed.
    assert_eq!(journal.find(&entry.caller, &entry.key).await.unwrap(), Some(entry.clone()));
    cluster.standby.as_mut().unwrap().start();
    eventually("it is confirmed", async || journal.insert(entry.clone()).await == Ok(Written::Done)).await;
}

/// The same with a result: whoever reads it must not tell it, as long as a
/// failover could undo it.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_one_machine_alone_has_is_not_told() {
    let mut cluster = Cluster::start();
    let mut settings = settings(cluster.database());
    settings.postgres.commit_wait = Duration::from_secs(1);
    let (journal, clock) = open(&settings).await;
    let (other, _) = open(&settings).await;
    let entry = started("k", clock.now());
    assert_eq!(journal.insert(entry.clone()).await.unwrap(), Written::Done);
    cluster.standby.as_mut().unwrap().stop();
    let done = after(&entry, &proven(), clock.now());
    assert!(matches!(journal.update(done.clone()).await, Err(Error::Unconfirmed(_))));
    let waits = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%UPDATE payops.operations%'";
    eventually("it waits", async || !cluster.primary.sql("postgres", waits).is_empty()).await;
    let state = format!(
        "SELECT state FROM payops.operations WHERE id = '{}'",
        uuid::Uuid::from_bytes(*entry.id.as_bytes())
    );
    let seen = async || cluster.primary.sql(name(&settings.postgres), &state) == "succeeded";
    eventually("it can be seen", seen).await;
    for found in [other.find(&entry.caller, &entry.key).await, other.get(entry.id).await] {
        assert!(matches!(&found, Err(Error::Unavailable(why)) if why.contains("may not last")), "{found:?}");
    }
    cluster.standby.as_mut().unwrap().start();
    eventually("it is told", async || other.get(entry.id).await == Ok(Some(done.clone()))).await;
}

/// The same, and the other server takes over while it is asked whether the result stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_was_read_before_a_failover_is_told_as_it_is_after_it() {
    let mut cluster = Cluster::start();
    let mut settings = settings(cluster.database());
    let (other, clock) = open(&settings).await;
    settings.postgres.commit_wait = Duration::from_secs(1);
    let (journal, _) = open(&settings).await;
    let entry = started("k", clock.now());
    assert_eq!(journal.insert(entry.clone()).await.unwrap(), Written::Done);
    let standby = cluster.standby.as_mut().unwrap();
    standby.until("SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()");
    standby.stop();
    let done = after(&entry, &proven(), clock.now());
    assert!(matches!(journal.update(done.clone()).await, Err(Error::Unconfirmed(_))));
    let waits = |sql: &str, of: &str| {
        format!("SELECT {sql} FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%{of}%'")
    };
    let ended = waits("pg_terminate_backend(pid)", "UPDATE payops.operations");
    eventually("it waits", async || !cluster.primary.sql("postgres", &ended).is_empty()).await;
    let reading = tokio::spawn(async move { other.get(entry.id).await });
    let asked = waits("pid", "WITH beat");
    eventually("it is asked", async || !cluster.primary.sql("postgres", &asked).is_empty()).await;
    cluster.primary.stop();
    let standby = cluster.standby.as_mut().unwrap();
    standby.start();
    standby.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = ''");
    standby.promote();
    let told = reading.await.unwrap();
    assert!(matches!(&told, Ok(Some(found)) if found.state == State::Started), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_comes_back_is_used_again() {
    let mut cluster = Cluster::start_alone();
    let mut settings = settings(cluster.database());
    settings.postgres.without_standby = true;
    settings.postgres.commit_wait = Duration::from_secs(1);
    let (journal, clock) = open(&settings).await;
    let entry = started("k", clock.now());
    assert_eq!(journal.insert(entry.clone()).await.unwrap(), Written::Done);
    cluster.primary.stop();
    let began = Instant::now();
    assert!(journal.check().await.is_err());
    assert!(matches!(journal.get(entry.id).await, Err(Error::Unavailable(_))));
    let written = journal.insert(started("while-down", clock.now())).await;
    assert!(matches!(written, Err(Error::Unavailable(_) | Error::Unconfirmed(_))), "{written:?}");
    assert!(began.elapsed() < PATIENCE, "every wait has a bound");
    cluster.primary.start();
    eventually("it works again", async || journal.check().await.is_ok()).await;
    assert_eq!(journal.get(entry.id).await.unwrap(), Some(entry));
    assert!(!journal.is_broken());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_takes_over_has_all_that_was_acknowledged() {
    let mut cluster = Cluster::start();
    let (journal, clock) = open(&settings(cluster.database())).await;
    let entry = started("k", clock.now());
    assert_eq!(journal.insert(entry.clone()).await.unwrap(), Written::Done);
    cluster.primary.stop();
    let standby = cluster.standby.as_ref().unwrap();
    standby.promote();
    eventually("it is read", async || journal.get(entry.id).await.is_ok()).await;
    assert_eq!(journal.get(entry.id).await.unwrap(), Some(entry.clone()));
    assert!(!journal.is_broken() && journal.loss().is_none(), "nothing was lost");
    // But the next loss of a machine would be one: nothing is begun without a standby.
    let refused = journal.insert(started("alone", clock.now())).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
}

/// An older state under a process that runs: it ends, and the next one knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_acknowledged_and_is_gone_is_a_loss() {
    let mut cluster = Cluster::start();
    let settings = settings(cluster.database());
    let (journal, clock) = open(&settings).await;
    let kept = started("kept", clock.now());
    assert_eq!(journal.insert(kept.clone()).await.unwrap(), Written::Done);
    // What follows never reaches the server that takes over.
    let standby = cluster.standby.as_mut().unwrap();
    standby.until("SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()");
    standby.stop();
    let primary = &cluster.primary;
    primary.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = ''");
    primary.sql("postgres", "SELECT pg_reload_conf()");
    let lost = after(&kept, &Event::doubted("no answer"), clock.now());
    assert_eq!(journal.update(lost.clone()).await.unwrap(), Written::Done);
    cluster.primary.stop();
    let standby = cluster.standby.as_mut().unwrap();
    standby.start();
    standby.promote();
    eventually("the loss is noticed", async || {
        drop(journal.get(kept.id).await);
        journal.is_broken()
    })
    .await;
    // Nothing that this process knows is written any more.
    assert!(journal.update(after(&kept, &proven(), clock.now())).await.is_err());
    drop(journal);
    let mut settings = settings;
    settings.postgres.without_standby = true;
    let (journal, clock) = open(&settings).await;
    assert!(journal.loss().is_some_and(|loss| loss.quiet_until > clock.now()), "the loss is known");
    let fenced = journal.get(kept.id).await.unwrap().unwrap();
    assert!(fenced.fence_at > kept.fence_at && fenced.follows == kept.revision, "{fenced:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_generation_is_a_loss_and_ends_those_that_knew_the_one_before() {
    let mut settings = settings(shared().database());
    let (old, clock) = open(&settings).await;
    let entry = started("k", clock.now());
    assert_eq!(old.insert(entry.clone()).await.unwrap(), Written::Done);
    settings.terms.new = false;
    settings.terms.generation = 2;
    let (journal, clock) = open(&settings).await;
    let loss = journal.loss().expect("it was lost");
    assert!(loss.quiet_until > clock.now());
    let stale = old.update(after(&entry, &proven(), clock.now())).await;
    assert!(stale.is_err(), "{stale:?}");
    assert!(old.insert(started("new", clock.now())).await.is_err());
    assert!(old.is_broken());
    settings.terms.generation = 1;
    let why = refused(&settings).await;
    assert!(why.contains("Set journal.generation = 2"), "{why}");
    // The same generation again is no further loss.
    settings.terms.generation = 2;
    let (again, _) = open(&settings).await;
    assert_eq!(again.loss(), Some(loss));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_new_installation_finds_no_journal_and_no_loss() {
    let mut settings = settings(shared().database());
    settings.terms.new = false;
    let (journal, _) = open(&settings).await;
    assert!(journal.loss().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_never_shown() {
    let settings = settings(shared().database());
    assert!(!format!("{settings:?}").contains(PASSWORD));
    let mut wrong = settings.clone();
    wrong.postgres.password = Some(payops::config::Source::Value(secrecy::SecretString::from("hunter2")));
    let why = refused(&wrong).await;
    assert!(why.contains("password authentication failed") && !why.contains("hunter2"), "{why}");
}

#[test]
fn every_key_that_the_page_names_exists() {
    let listen = "127.0.0.1:1".parse().unwrap();
    let config = payops::config::Config::sandbox(listen, listen, "folder");
    let keys: Vec<_> = config.describe().iter().map(|setting| setting.key.as_str()).collect();
    let prose = PAGE.split("```").step_by(2);
    let code = prose.flat_map(|text| text.split('`').skip(1).step_by(2));
    let named: Vec<_> = code.map(|word| word.split(' ').next().unwrap()).collect();
    let named: Vec<_> = named
        .into_iter()
        .filter(|word| ["journal.", "exactly_once.", "psp."].iter().any(|section| word.starts_with(section)))
        .collect();
    assert!(named.len() > 8, "{named:?}");
    for word in named {
        assert!(keys.contains(&word), "{word}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_page_runs_and_a_key_takes_the_bytes_that_are_told() {
    let settings = settings(shared().database());
    let (journal, clock) = open(&settings).await;
    let old = clock.now() - 91 * DAY;
    let operations = 2_000;
    let all = (0..operations).map(|_| async {
        let entry = started(&super::minted(old), old);
        assert_eq!(journal.insert(entry.clone()).await.unwrap(), Written::Done);
        assert_eq!(journal.update(after(&entry, &proven(), old)).await.unwrap(), Written::Done);
    });
    futures::future::join_all(all).await;
    let (primary, name) = (&shared().primary, name(&settings.postgres));
    let queries = PAGE.split("```sql\n").nth(3).unwrap().split("```").next().unwrap();
    for query in queries.lines() {
        primary.sql(name, query);
    }
    let bytes = || -> u64 {
        let size = primary.sql(name, "VACUUM FULL payops.operations")
            + &primary.sql(name, "SELECT pg_total_relation_size('payops.operations')");
        size.parse::<u64>().unwrap() / operations
    };
    let full = bytes();
    while journal.forget(64).await.unwrap() > 0 {}
    // What somebody may still see is not taken away at once.
    eventually("the space is free", async || bytes() <= 500).await;
    let forgotten = bytes();
    println!("{full} bytes for an operation, {forgotten} for a key that is left of one");
    assert!(PAGE.contains("some 400 bytes with its indexes"));
    assert!((300..=500).contains(&forgotten), "{forgotten}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_spoken_to_by_tls_and_its_name_is_verified() {
    let cluster = Cluster::start_alone();
    let folder = tempfile::tempdir().unwrap();
    let self_signed = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (ours, another) = (self_signed(), self_signed());
    let files = [("ours", &ours), ("another", &another)].map(|(name, certified)| {
        let file = folder.path().join(name);
        std::fs::write(&file, certified.cert.pem()).unwrap();
        file
    });
    cluster.primary.use_tls(&ours.cert.pem(), &ours.signing_key.serialize_pem());
    let mut settings = settings(cluster.database());
    settings.postgres.without_standby = true;
    let by_address = settings.postgres.url.clone();
    settings.postgres.url = by_address.replace("127.0.0.1", "localhost");
    settings.postgres.ca_file = Some(files[0].clone());
    let (journal, _) = open(&settings).await;
    journal.check().await.unwrap();
    let sessions =
        "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'payops'";
    assert_eq!(cluster.primary.sql("postgres", sessions), "t", "every session");
    for (url, ca_file) in [(&settings.postgres.url, &files[1]), (&by_address, &files[0])] {
        let mut wrong = settings.clone();
        (wrong.postgres.url, wrong.postgres.ca_file) = (url.clone(), Some(ca_file.clone()));
        let why = refused(&wrong).await;
        assert!(why.contains("certificate"), "{url}: {why}");
    }
}
