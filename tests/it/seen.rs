//! What a real Prometheus sees: every query of every dashboard and alert has data, labels have few values, and each alert
//! rings when it should.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use payops::grpc::pb::OperationState::{Declined, Succeeded};
use serde_json::{Value, json};

use crate::collector::Collector;
use crate::metrics::scraped;
use crate::pictures;
use crate::place::Place;
use crate::sandbox::world::World;
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
    _child: tokio::process::Child,
    base: String,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn of(target: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Those rules, looked at oftener.
        fs::write(folder.path().join("alerts.yaml"), ALERTS.replace("interval: 30s", "interval: 1s"))
            .unwrap();
        let config = format!(
            "global: {{ scrape_interval: 1s }}\nrule_files: [alerts.yaml]\nscrape_configs:\n- job_name: payops\n  \
             static_configs: [{{ targets: ['{target}'] }}]\n"
        );
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let address = free_address();
        let child = tokio::process::Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--enable-feature=exemplar-storage")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus is there: tests/run installs it");
        Self { _child: child, base: format!("http://{address}/api/v1"), _folder: folder }
    }

    /// The series that a query finds, or what is wrong with it.
    async fn query(&self, world: &World, query: &str) -> Result<Vec<Value>, String> {
        let answer = self.ask(world, "query", &[("query", query)]).await?;
        Ok(answer["result"].as_array().unwrap().clone())
    }

    /// The answer's data, or what is wrong.
    async fn ask(&self, world: &World, what: &str, with: &[(&str, &str)]) -> Result<Value, String> {
        let url = reqwest::Url::parse_with_params(&format!("{}/{what}", self.base), with).unwrap();
        let answer = world.client.get(url).send().await.map_err(|error| error.to_string())?;
        let answer = answer.bytes().await.map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].clone()),
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
    let prometheus = Prometheus::of(app.config.metrics.listen.unwrap());
    eventually("it is scraped", async || {
        prometheus.query(&app.world, "up").await.is_ok_and(|found| found.len() == 1)
    })
    .await;
    script(&app).await;
    let mut queries = dashboards();
    queries.extend(selectors().into_iter().map(|selector| ("alerts".to_owned(), selector)));
    for (name, query) in &queries {
        eventually(&format!("{name}: {query} has data"), async || {
            let found =
                prometheus.query(&app.world, query).await.unwrap_or_else(|why| panic!("{query}: {why}"));
            !found.is_empty()
        })
        .await;
    }
    for alert in ["PayopsReviewWaits", "PayopsCircuitOpen"] {
        let pending = format!("ALERTS{{alertname=\"{alert}\"}}");
        eventually(alert, async || {
            prometheus.query(&app.world, &pending).await.is_ok_and(|found| !found.is_empty())
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

/// The picture of a dashboard in the documents.
#[tokio::test(flavor = "multi_thread")]
async fn the_picture_shows_the_dashboard_of_money_in_doubt() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/payops/dashboards/money-in-doubt.json");
    let board: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let title = board["title"].as_str().unwrap();
    let panels = board["panels"].as_array().unwrap();
    let drawn =
        if pictures::wanted() { pictures::dashboard(title, &drawn(panels).await) } else { String::new() };
    let mut words: Vec<&str> = panels.iter().map(|panel| panel["title"].as_str().unwrap()).collect();
    words.extend([title, "in_doubt", "review", "in doubt -> succeeded"]);
    pictures::keep("money-in-doubt.svg", || drawn, &words);
}

/// What the panels show of a run in which one answer in ten is lost, and for half a minute nothing can be read.
async fn drawn(panels: &[Value]) -> Vec<pictures::Panel> {
    let app = TestApp::start_with(|config| config.metrics.listen = Some(free_address())).await;
    let prometheus = Prometheus::of(app.config.metrics.listen.unwrap());
    let lost = json!({"operation": "capture", "fault": "answer_lost_after_applying", "probability": 0.1});
    app.world.fault(lost.clone()).await;
    let orders = app.orders().await;
    let began = std::time::Instant::now();
    let mut unread = false;
    for nth in 0.. {
        let second = began.elapsed().as_secs();
        if second >= 110 {
            break;
        }
        if (40..70).contains(&second) != unread {
            unread = !unread;
            app.world.clear_faults().await;
            app.world.fault(lost.clone()).await;
            if unread {
                app.world
                    .fault(json!({"operation": "get", "fault": "internal_error", "probability": 1}))
                    .await;
            } else {
                app.doubled("reviewed").await;
            }
        }
        drop(orders.capture(&format!("drawn-{nth}"), &app.world.card().await, AMOUNT).await);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (start, end) = ((now - 110).to_string(), now.to_string());
    let mut shown = Vec::new();
    for panel in panels {
        let mut lines = Vec::new();
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "10s");
            let range = [("query", query.as_str()), ("start", &start), ("end", &end), ("step", "1")];
            let found = prometheus.ask(&app.world, "query_range", &range).await.unwrap();
            let legend = target["legendFormat"].as_str().unwrap();
            lines.extend(pictures::lines(found["result"].as_array().unwrap(), legend));
        }
        shown.push(pictures::Panel { title: panel["title"].as_str().unwrap().to_owned(), lines });
    }
    shown
}

/// From the bucket of a call to its trace, and on to what it did.
#[tokio::test]
async fn an_exemplar_leads_from_a_metric_to_a_trace() {
    let collector = Collector::start().await;
    let place = Place::new().await;
    let scrape = free_address();
    place.set("metrics", &format!("listen = \"{scrape}\"\n"));
    let mut command = place.command();
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.http));
    let _life = place.serve_by(command.env("OTEL_BSP_SCHEDULE_DELAY", "50")).await;
    place
        .orders()
        .capture_with("k", crate::support::capture(&place.world.card().await, AMOUNT))
        .await
        .unwrap();
    let prometheus = Prometheus::of(scrape);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (start, end) = ((now - 60).to_string(), (now + 60).to_string());
    for histogram in [
        "rpc_server_call_duration_seconds",
        "payops_psp_request_duration_seconds",
        "payops_journal_duration_seconds",
    ] {
        let query = format!("{histogram}_bucket");
        let range = [("query", query.as_str()), ("start", &start), ("end", &end)];
        let mut found = Vec::new();
        eventually(histogram, async || {
            let answer = prometheus.ask(&place.world, "query_exemplars", &range).await;
            found = answer.ok().and_then(|answer| answer.as_array().cloned()).unwrap_or_default();
            !found.is_empty()
        })
        .await;
        for exemplar in found.iter().flat_map(|series| series["exemplars"].as_array().unwrap()) {
            let trace = exemplar["labels"]["trace_id"].as_str().unwrap();
            assert!(!collector.trace(trace, 1).await.is_empty());
        }
    }
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
