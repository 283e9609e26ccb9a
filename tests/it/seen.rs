//! What a real Prometheus sees: every query of every dashboard and alert has data, labels have few values, and each alert
//! rings when it should.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use payops::grpc::pb::OperationState::{Declined, Succeeded};
use serde_json::{Value, json};

use crate::metrics::scraped;
use crate::support::{TestApp, eventually, free_address};

const ALERTS: &str = include_str!("../../helm/payops/rules/alerts.yaml");
const PAGE: &str = include_str!("../../docs/observability.md");
const AMOUNT: i64 = 29_990;

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/payops/rules")
}

fn promtool(arguments: &[&str]) {
    let run = Command::new("promtool").args(arguments).current_dir(rules()).output();
    let run = run.expect("promtool is there: tests/run installs it");
    let told = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{told}");
}

/// A Prometheus that scrapes one boundary, with our rules.
struct Prometheus {
    child: Child,
    base: String,
    _folder: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Prometheus {
    fn of(app: &TestApp) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Those rules, looked at oftener.
        fs::write(folder.path().join("alerts.yaml"), ALERTS.replace("interval: 30s", "interval: 1s"))
            .unwrap();
        let target = app.config.metrics.listen.unwrap();
        let config = format!(
            "global: {{ scrape_interval: 1s }}\nrule_files: [alerts.yaml]\nscrape_configs:\n- job_name: payops\n  \
             static_configs: [{{ targets: ['{target}'] }}]\n"
        );
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let address = free_address();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is there: tests/run installs it");
        Self { child, base: format!("http://{address}/api/v1"), _folder: folder }
    }

    /// The series that a query finds, or what is wrong with it.
    async fn query(&self, app: &TestApp, query: &str) -> Result<Vec<Value>, String> {
        let url =
            reqwest::Url::parse_with_params(&format!("{}/query", self.base), [("query", query)]).unwrap();
        let answer = app.world.client.get(url).send().await.map_err(|error| error.to_string())?;
        let answer = answer.bytes().await.map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"]["result"].as_array().unwrap().clone()),
            _ => Err(answer.to_string()),
        }
    }
}

/// Each query of each dashboard.
fn dashboards() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/payops/dashboards");
    let mut queries = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let board: Value = serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let name =
                    format!("{}: {}", board["title"].as_str().unwrap(), panel["title"].as_str().unwrap());
                queries.push((name, target["expr"].as_str().unwrap().replace("$__rate_interval", "1m")));
            }
        }
    }
    assert!(queries.len() >= 20, "{} queries", queries.len());
    queries
}

/// The series that the alerts are made from, each as it is asked for: without what it is compared with.
fn selectors() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let starts = |text: &str| ["payops_", "payops:", "rpc_"].iter().any(|start| text.starts_with(start));
    let mut rest = ALERTS;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        rest = &rest[at..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_:".contains(c))).unwrap();
        let (word, after) = rest.split_at(end);
        if starts(word) {
            let labels = after.starts_with('{').then(|| &after[..=after.find('}').unwrap()]);
            found.insert(format!("{word}{}", labels.unwrap_or_default()));
        }
        rest = after;
    }
    assert!(found.len() >= 10, "{found:?}");
    found
}

/// The names of all alerts.
fn alerts() -> Vec<&'static str> {
    ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect()
}

/// Something of everything: success, replay, decline, doubt, review, refusal, an open circuit.
async fn script(app: &TestApp) {
    let orders = app.orders().await;
    let card = app.world.card().await;
    assert_eq!(orders.capture("k", &card, AMOUNT).await.unwrap().operation.state(), Succeeded);
    assert!(orders.capture("k", &card, AMOUNT).await.unwrap().replayed);
    app.world.fault(json!({"operation": "refund", "fault": "declined"})).await;
    orders.refund("r", &card, 100).await.unwrap_err();
    assert_eq!(orders.operation("r").await.unwrap().state(), Declined);
    app.doubled("reviewed").await;
    app.caller("token-of-nobody").await.transaction(&card).await.unwrap_err();
    // In doubt, and out of it.
    app.world.fault(json!({"operation": "capture", "fault": "answer_lost_after_applying"})).await;
    drop(orders.capture("doubted", &app.world.card().await, AMOUNT).await);
    orders.settled("doubted", Succeeded).await;
    // And one that stays: most requests fail, and the circuit opens.
    app.world
        .fault(json!({"operation": "capture", "fault": "answer_lost_before_applying", "probability": 1.0}))
        .await;
    let mut last = String::new();
    for nth in 0..40 {
        let refused = orders.capture(&format!("f-{nth}"), &app.world.card().await, 1).await.unwrap_err();
        refused.reason().clone_into(&mut last);
        if last == "PSP_CIRCUIT_OPEN" {
            break;
        }
    }
    assert_eq!(last, "PSP_CIRCUIT_OPEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_every_dashboard_and_alert_has_data_and_alerts_ring() {
    let database = crate::database::shared().database();
    let app = TestApp::start_with(|config| {
        config.metrics.listen = Some(free_address());
        config.journal.directory = PathBuf::new();
        config.journal.postgres = Some(database);
        config.psp.circuit_open_for = std::time::Duration::from_mins(5);
    })
    .await;
    let prometheus = Prometheus::of(&app);
    eventually("it is scraped", async || {
        prometheus.query(&app, "up").await.is_ok_and(|found| found.len() == 1)
    })
    .await;
    script(&app).await;
    let mut queries = dashboards();
    queries.extend(selectors().into_iter().map(|selector| ("alerts".to_owned(), selector)));
    for (name, query) in &queries {
        eventually(&format!("{name}: {query} has data"), async || {
            let found = prometheus.query(&app, query).await.unwrap_or_else(|why| panic!("{query}: {why}"));
            !found.is_empty()
        })
        .await;
    }
    for alert in ["PayopsReviewWaits", "PayopsCircuitOpen"] {
        let pending = format!("ALERTS{{alertname=\"{alert}\"}}");
        eventually(alert, async || {
            prometheus.query(&app, &pending).await.is_ok_and(|found| !found.is_empty())
        })
        .await;
    }
    // No label has a value that somebody else chose.
    let text = scraped(&app).await;
    let series = text.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket")).count();
    assert!(series < 300, "{series} series:\n{text}");
    for foreign in ["T12345678.", "doubted", "token-of", "orders"] {
        assert!(!text.contains(foreign), "{foreign} is in a metric");
    }
    println!("{} queries have data; {series} series besides buckets", queries.len());
}

#[test]
fn the_alerts_are_rules_and_ring_when_they_should() {
    promtool(&["check", "rules", "alerts.yaml"]);
    promtool(&["test", "rules", "alerts.test.yaml"]);
    let tests = fs::read_to_string(rules().join("alerts.test.yaml")).unwrap();
    for alert in alerts() {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "nothing tries {alert}");
    }
}

#[test]
fn each_alert_has_its_row_and_each_metric_too() {
    assert!(alerts().len() >= 10);
    for alert in alerts() {
        let anchor = alert.to_lowercase();
        let rule = ALERTS.split(&format!("- alert: {alert}\n")).nth(1).unwrap();
        let rule = rule.split("- alert:").next().unwrap();
        assert!(rule.contains(&format!("runbook: docs/observability.md#{anchor}\n")), "{alert}");
        let row = PAGE.lines().find(|line| line.contains(&format!("<a id=\"{anchor}\"></a>`{alert}`")));
        let severity = if rule.contains("severity: page") { "(page)" } else { "(ticket)" };
        assert!(row.is_some_and(|row| row.contains(severity)), "{alert}");
    }
    let source = include_str!("../../src/metrics.rs");
    let mut names = 0;
    for name in source.split("\"payops.").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        let name = format!("payops_{}", name.replace('.', "_"));
        assert!(PAGE.contains(&format!("| `{name}")), "{name}");
        names += 1;
    }
    assert!(names >= 12, "{names} metrics");
}
