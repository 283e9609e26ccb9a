//! What an operation costs the database, as the database itself counts it.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt as _};
use payops::config::Postgres;
use payops::grpc::pb::OperationState;
use serde_json::json;

use super::{another, on};
use crate::database::{Cluster, name, shared};
use crate::sandbox::world::AMOUNT;
use crate::support::{Caller, TestApp, eventually};

/// A primary of one's own, which counts.
struct Counter {
    cluster: Cluster,
    database: Postgres,
}

/// How often which kind of statement about operations was run, and how many transactions wrote anything.
#[derive(Debug)]
struct Counted {
    statements: BTreeMap<String, u64>,
    writes: u64,
}

impl Counter {
    fn start() -> Self {
        let cluster = Cluster::start();
        let database = cluster.database();
        let this = Self { cluster, database };
        this.sql("CREATE EXTENSION pg_stat_statements");
        // It writes as well, the more the longer a test takes.
        this.cluster.primary.sql("postgres", "ALTER SYSTEM SET autovacuum = off");
        this.cluster.primary.sql("postgres", "SELECT pg_reload_conf()");
        this
    }

    fn sql(&self, sql: &str) -> String {
        self.cluster.primary.sql(name(&self.database), sql)
    }

    fn now(&self) -> Counted {
        // What is due is looked for, and what is open is counted, whether or not anybody asks for anything.
        let statements = self.sql(
            "SELECT coalesce(substring(query FROM '(INSERT) INTO payops.operations'),
                             substring(query FROM '(UPDATE) payops.operations'),
                             substring(ltrim(query, E' \\n') FROM '^\\w+')), sum(calls)
             FROM pg_stat_statements
             WHERE (query ~ 'payops.operations|pg_notify')
               AND query !~ 'next_read_at <=|GROUP BY state|pg_stat_statements'
             GROUP BY 1",
        );
        let statements = statements.lines().map(|line| {
            let (verb, calls) = line.split_once('|').unwrap();
            (verb.to_owned(), calls.parse().unwrap())
        });
        // A transaction has a number if it writes; a sign of life is one, too, and so is what else the audit tells.
        let writes = self.sql("SELECT pg_snapshot_xmax(pg_current_snapshot())").parse::<u64>().unwrap();
        let beats = self.sql(
            "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query ~ 'INTO payops.replicas'
                OR (query ~ 'INTO payops.audit' AND query !~ 'payops.operations')",
        );
        Counted { statements: statements.collect(), writes: writes - beats.parse::<u64>().unwrap() }
    }

    /// What `work` cost.
    async fn during(&self, work: impl Future<Output = ()>) -> Counted {
        let before = self.now();
        work.await;
        let Counted { statements, writes } = self.now();
        let more = |(verb, calls): (String, u64)| {
            let more = calls - before.statements.get(&verb).unwrap_or(&0);
            (more > 0).then_some((verb, more))
        };
        let statements = statements.into_iter().filter_map(more).collect();
        let counted = Counted { statements, writes: writes - before.writes };
        println!("{counted:?}");
        counted
    }
}

impl Counted {
    fn is(&self, statements: &[(&str, u64)]) -> bool {
        self.statements.iter().map(|(verb, calls)| (verb.as_str(), *calls)).eq(statements.iter().copied())
    }

    fn all(&self) -> u64 {
        self.statements.values().sum()
    }
}

async fn capture(caller: &Caller, key: &str, transaction: &str) {
    let answer = caller.capture(key, transaction, AMOUNT).await.unwrap();
    assert_eq!(answer.operation.state(), OperationState::Succeeded);
}

async fn cards(app: &TestApp, count: usize) -> Vec<String> {
    stream::iter(0..count).then(|_| app.world.card()).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_two_statements_and_two_commits_and_under_load_fewer() {
    let counter = Counter::start();
    let app = TestApp::start_with(on(counter.database.clone())).await;
    let (one, (other, _guard)) = (app.orders().await, another(&app).await);

    let some = cards(&app, 30).await;
    let alone = counter.during(async {
        for (nth, card) in some.iter().enumerate() {
            capture(&one, &format!("key-{nth}"), card).await;
        }
    });
    let alone = alone.await;
    assert!(alone.is(&[("INSERT", 30), ("UPDATE", 30)]), "{alone:?}");
    // The server's own housekeeping writes now and then.
    assert!((60..70).contains(&alone.writes), "{alone:?}");

    let many = cards(&app, 600).await;
    let loaded = counter.during(async {
        let all = many.iter().enumerate().map(|(nth, card)| {
            let (one, key) = (one.clone(), format!("loaded-{nth}"));
            async move { capture(&one, &key, card).await }
        });
        stream::iter(all).buffer_unordered(50).collect::<Vec<()>>().await;
    });
    let loaded = loaded.await;
    assert!(loaded.all() * 2 < 600 * 2 && loaded.writes * 2 < 600 * 2, "{loaded:?}");

    // A key that has run elsewhere: the first write finds that out, and is no commit.
    let again = counter.during(async {
        for _ in 0..5 {
            capture(&other, "key-0", &some[0]).await;
        }
    });
    let again = again.await;
    assert!(again.is(&[("INSERT", 1), ("SELECT", 1), ("WITH", 1)]) && again.writes < 10, "{again:?}");

    // What is read at the PSP before is looked up before.
    let voided = cards(&app, 10).await;
    let voids = counter.during(async {
        for (nth, card) in voided.iter().enumerate() {
            one.void(&format!("void-{nth}"), card).await.unwrap();
        }
    });
    let voids = voids.await;
    assert!(voids.is(&[("INSERT", 10), ("SELECT", 10), ("UPDATE", 10)]), "{voids:?}");
    assert!((20..30).contains(&voids.writes), "{voids:?}");
}

/// Where the first write does not come about, the key is looked up all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_has_run_elsewhere_is_answered_also_by_a_full_house() {
    let app = TestApp::start_with(|config| {
        on(shared().database())(config);
        config.psp.in_flight_max = 1;
    })
    .await;
    let (one, (other, _guard)) = (app.orders().await, another(&app).await);
    let cards = cards(&app, 3).await;
    capture(&one, "done", &cards[0]).await;
    app.world.fault(json!({"operation": "capture", "fault": "delayed_answer", "delay_ms": 2_000})).await;
    let slow = tokio::spawn({
        let (other, card) = (other.clone(), cards[1].clone());
        async move { other.capture("slow", &card, AMOUNT).await }
    });
    eventually("it is under way", async || app.posts(&cards[1]).await == 1).await;
    let refused = other.capture("new", &cards[2], AMOUNT).await.unwrap_err();
    assert_eq!((refused.reason(), refused.metadata("safe_to_use_new_key")), ("OVERLOADED", Some("true")));
    let reused = other.capture("done", &cards[0], AMOUNT - 1).await.unwrap_err();
    assert_eq!(reused.reason(), "IDEMPOTENCY_KEY_REUSED");
    capture(&other, "done", &cards[0]).await;
    assert!(!slow.is_finished(), "the house is full still");
    slow.await.unwrap().unwrap();
}

/// What is counted towards a day is looked up first, and is two commits as any other.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_is_counted_is_two_commits() {
    let counter = Counter::start();
    let database = counter.database.clone();
    let app = TestApp::start_with(|config| {
        let rule =
            "{ rpcs = [\"*\"], accounts = [\"*\"], currencies = [\"NOK\"], day_max = { NOK = 9_000_000 } }";
        crate::policy::let_orders(config, rule);
        on(database)(config);
    })
    .await;
    let orders = app.orders().await;
    let some = cards(&app, 30).await;
    let counted = counter.during(async {
        for (nth, card) in some.iter().enumerate() {
            capture(&orders, &format!("key-{nth}"), card).await;
        }
    });
    let counted = counted.await;
    assert!(counted.is(&[("INSERT", 30), ("SELECT", 30), ("UPDATE", 30)]), "{counted:?}");
    assert!((60..70).contains(&counted.writes), "{counted:?}");
}
