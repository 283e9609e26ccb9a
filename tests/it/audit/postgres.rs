//! The same in PostgreSQL: written by many, changed by nobody.

use std::time::Duration;

use payops::journal::audit::verify::{Report, Verifier};
use payops::journal::entry::Event;
use payops::journal::postgres::{self, Postgres, Settings};
use payops::journal::{Error, Journal as _, Written};

use super::{edits::note, key};
use crate::database::{Cluster, name, shared};
use crate::journal::postgres::settings as terms;
use crate::journal::{after, not_sent, proven, started};
use crate::support::eventually;

async fn verified(settings: &Settings) -> Report {
    postgres::verify(&settings.postgres, Verifier::new(vec![key()])).await.unwrap()
}

/// Two processes, with operations in several states.
async fn written(cluster: &Cluster) -> Settings {
    let settings = Settings { audit: key(), ..terms(cluster.database()) };
    let (one, clock) = Postgres::open(&settings).await.unwrap();
    let (other, _) = Postgres::open(&settings).await.unwrap();
    let now = clock.now();
    let entries: Vec<_> = (0..6).map(|number| started(&format!("k-{number}"), now)).collect();
    // Of one key only one is written, and told.
    let inserts = entries.iter().map(|entry| one.insert(entry.clone()));
    let inserted = futures::future::join_all(inserts).await;
    assert!(inserted.iter().all(|written| *written == Ok(Written::Done)), "{inserted:?}");
    let rival = other.insert(started("k-0", now)).await;
    assert!(matches!(rival, Ok(Written::KeyTaken(_))), "{rival:?}");
    for (entry, event) in entries.iter().zip([proven(), not_sent(), Event::doubted("no answer")]) {
        assert_eq!(other.update(after(entry, &event, now)).await.unwrap(), Written::Done);
        assert_eq!(one.update(after(entry, &event, now)).await.unwrap(), Written::Stale);
    }
    one.note(vec![note(), note()]).await.unwrap();
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_processes_wrote_is_sound_and_each_edit_is_found() {
    let settings = written(shared()).await;
    let report = verified(&settings).await;
    assert_eq!((report.findings, report.chains, report.operations), (Vec::new(), 2, 6));
    let primary = &shared().primary;
    let sql = |sql: &str| primary.sql(name(&settings.postgres), sql);
    // As somebody who owns the database.
    sql("ALTER TABLE payops.audit DISABLE TRIGGER audit_stays");
    for (table, columns) in [
        (
            "audit",
            "chain = gen_random_uuid()|batch = batch + 1000|place = place + 1000|link = sha256(link)|\
                   body = replace(body, '29990', '19990')",
        ),
        (
            "operations",
            "caller = 'others'|key = 'another'|transaction_id = 'T12345678.a'|state = 'declined'|\
                        open = NOT open|attempt = attempt + 1|revision = revision + 1|nonce = gen_random_uuid()|\
                        lease_until = 0|created_at = 0|updated_at = 0|next_read_at = 7|checksum = sha256(checksum)|\
                        record = replace(record, '29990', '19990')|id = gen_random_uuid()|forgotten = true|\
                        minted_at = 7",
        ),
    ] {
        for change in columns.split('|') {
            sql(&format!("CREATE TABLE kept AS SELECT * FROM payops.{table}"));
            let place = if table == "audit" {
                "body LIKE '%\"after\":\"succeeded\"%'"
            } else {
                "state = 'succeeded'"
            };
            sql(&format!("UPDATE payops.{table} SET {change} WHERE {place}"));
            let found = verified(&settings).await.findings;
            assert!(!found.is_empty(), "{table}: {change}");
            sql(&format!(
                "DELETE FROM payops.{table}; INSERT INTO payops.{table} SELECT * FROM kept; DROP TABLE kept"
            ));
        }
    }
    assert_eq!(verified(&settings).await.findings, Vec::<String>::new());
    for place in ["state = 'succeeded'", "state = 'started' AND key = 'k-5'"] {
        sql(&format!(
            "CREATE TABLE kept AS SELECT * FROM payops.operations; DELETE FROM payops.operations WHERE {place}"
        ));
        assert!(verified(&settings).await.findings[0].contains("is not in the journal"));
        sql(
            "DELETE FROM payops.operations; INSERT INTO payops.operations SELECT * FROM kept; DROP TABLE kept",
        );
    }
    sql("DELETE FROM payops.audit WHERE body LIKE '%\"after\":\"succeeded\"%'");
    assert!(verified(&settings).await.found > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_of_payops_may_add_to_the_audit_and_change_nothing_in_it() {
    let settings = written(shared()).await;
    let primary = &shared().primary;
    for change in ["UPDATE payops.audit SET body = ''", "DELETE FROM payops.audit", "TRUNCATE payops.audit"] {
        // The owner, by mistake.
        let told = primary.try_sql(name(&settings.postgres), change).unwrap_err();
        assert!(told.contains("payops.audit is added to, and never changed"), "{told}");
    }
    let service = format!("service{}", uuid::Uuid::new_v4().simple());
    let page = include_str!("../../../docs/journal-postgres.md");
    let grants = page.split("```sql\n").nth(2).unwrap().split("```").next().unwrap();
    primary.sql(name(&settings.postgres), &format!("CREATE ROLE {service}"));
    primary.sql(name(&settings.postgres), &grants.replace("payops_service", &service));
    let may = |what: &str| {
        let sql = format!("SELECT has_table_privilege('{service}', 'payops.audit', '{what}')");
        primary.sql(name(&settings.postgres), &sql).trim() == "t"
    };
    let all = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"];
    assert_eq!(all.map(may), [true, true, false, false, false]);
}

/// What a write came to is unknown: its chain ends before it, and the next one goes on from there, also on another server.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_write_whose_outcome_is_unknown_the_audit_goes_on_in_another_chain() {
    let mut cluster = Cluster::start();
    let mut settings = Settings { audit: key(), ..terms(cluster.database()) };
    settings.postgres.commit_wait = Duration::from_secs(1);
    let (journal, clock) = Postgres::open(&settings).await.unwrap();
    let entry = started("before", clock.now());
    assert_eq!(journal.insert(entry.clone()).await.unwrap(), Written::Done);
    let head = journal.head().unwrap();
    cluster.standby.as_mut().unwrap().stop();
    let unknown = journal.update(after(&entry, &proven(), clock.now())).await;
    assert!(matches!(unknown, Err(Error::Unconfirmed(_))), "{unknown:?}");
    cluster.standby.as_mut().unwrap().start();
    cluster.until_in_step();
    let write_again = async || {
        let entry = journal.get(entry.id).await.ok().flatten();
        let next = entry.filter(|entry| !entry.state.is_final());
        match next {
            Some(entry) => drop(journal.update(after(&entry, &proven(), clock.now())).await),
            None => drop(journal.note(vec![note()]).await),
        }
        journal.head().is_some_and(|later| later.chain != head.chain)
    };
    eventually("it is written again", write_again).await;
    cluster.fail_over();
    let settings = Settings { postgres: cluster.at(name(&settings.postgres)), ..settings };
    eventually("it is written on the other server", async || journal.note(vec![note()]).await.is_ok()).await;
    let mut verifier = Verifier::new(vec![key()]);
    verifier.expect(head, "the log");
    verifier.expect(journal.head().unwrap(), "the log");
    let report = postgres::verify(&settings.postgres, verifier).await.unwrap();
    assert_eq!((report.findings, report.operations), (Vec::new(), 1));
    assert!(report.chains >= 2, "{}", report.chains);
}
