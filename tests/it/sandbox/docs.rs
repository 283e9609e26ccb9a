//! The documentation is true: its examples run, and it leaves nothing out.

use payops::sandbox::{Account, DEMO_TRANSACTIONS};
use reqwest::Method;
use serde_json::{Value, json};

use super::world::{World, send};

const DOCS: &str = include_str!("../../../docs/sandbox.md");

/// What a `curl` line of the documentation asks for.
struct Example {
    line: &'static str,
    method: Method,
    path: &'static str,
    body: String,
    /// The line says what to do when no answer comes.
    lost: bool,
}

impl Example {
    fn read(line: &'static str) -> Self {
        let (line, lost) = line.split_once(" || ").map_or((line, false), |(line, _)| (line, true));
        let path = line.split("$SANDBOX").nth(1).unwrap().split([' ', '"']).next().unwrap();
        let body = line.split_once("-d '").map_or("", |(_, rest)| rest.strip_suffix('\'').unwrap());
        let method = line.split_once("-X ").map_or("GET", |(_, rest)| rest.split(' ').next().unwrap());
        Self { line, method: method.parse().unwrap(), path, body: body.to_owned(), lost }
    }
}

/// Every `curl` line does what it says, from top to bottom.
#[tokio::test]
async fn every_example_runs() {
    let world = World::start().await;
    let examples: Vec<_> = DOCS.lines().filter(|line| line.starts_with("curl ")).map(Example::read).collect();
    assert!(examples.len() >= 20, "the examples were not found");
    for example in examples {
        let request = world.request(example.method, example.path);
        let request =
            if example.line.contains("$TOKEN") { request.bearer_auth(&world.token) } else { request };
        let account = Account::default();
        let basic = format!("-u {}:{} ", account.client_id, account.client_secret);
        let request = if example.line.contains(&basic) {
            request.basic_auth(account.client_id, Some(account.client_secret))
        } else {
            request
        };
        let answer = send(request.body(example.body)).await;
        if example.lost {
            assert!(answer.is_err(), "{}: {answer:?}", example.line);
            continue;
        }
        let answer = answer.unwrap();
        assert!(answer.status.is_success(), "{}: {} {}", example.line, answer.status, answer.text);
    }
}

/// Every fault and every setting is described, and nothing is described that does not exist.
#[tokio::test]
async fn every_fault_and_setting_is_documented() {
    let world = World::start().await;
    let unknown = json!({ "operation": "any", "fault": "?" });
    let error = world.admin(Method::POST, "/faults", unknown).await.expect(400).json();
    let names = error["error"]["remedy"].as_str().unwrap().strip_prefix("send one of ").unwrap().to_owned();
    let mut names: Vec<_> = names.split(", ").map(str::to_owned).collect();
    let section = DOCS.split("### 1. Admission").nth(1).unwrap().split("## Tokens").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut documented: Vec<_> = rows.map(str::to_owned).collect();
    names.sort();
    documented.sort();
    assert_eq!(documented, names);

    let settings = world.admin(Method::GET, "/settings", Value::Null).await.json();
    for name in settings.as_object().unwrap().keys() {
        assert!(DOCS.contains(&format!("\"{name}\":")), "{name}");
    }
}

/// Every demo transaction is described.
#[test]
fn every_demo_transaction_is_documented() {
    for demo in DEMO_TRANSACTIONS {
        assert!(DOCS.contains(&format!("| `{}` | `{}`", demo.id, demo.product_type)), "{}", demo.id);
    }
}

/// The Rust example is the one that the crate's documentation compiles.
#[test]
fn the_rust_example_compiles() {
    let compiled = include_str!("../../../src/sandbox.rs");
    let example = DOCS.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    for line in example.lines().filter(|line| !line.is_empty()) {
        let statement = line.split("//").next().unwrap().trim().trim_end_matches("?;").trim_end_matches(';');
        assert!(compiled.contains(statement), "{line}");
    }
}
