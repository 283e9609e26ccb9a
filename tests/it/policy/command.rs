//! `payops policy check`.

use serde_json::Value;

use crate::place::{Place, run, text};

const CALLERS: &str = r#"[[caller]]
name = "orders"
certificate_names = ["orders.example"]

[[caller.allow]]
rpcs = ["Capture"]
accounts = ["T12345678"]
currencies = ["NOK"]
amount_max = { NOK = 1_000 }

[[caller.allow]]
rpcs = ["Void"]
accounts = ["*"]

[[issuer]]
name = "cluster"
kubernetes = true
url = "https://cluster.example"
audiences = ["payops"]
admit = "all"

[[group]]
name = "readers"
callers = ["orders"]
issuers = ["cluster"]

[[group.allow]]
rpcs = ["GetTransaction"]
accounts = ["T12345678"]
"#;

/// What it prints and says, and how it ends.
async fn check(place: &Place, arguments: &str) -> (String, String, Option<i32>) {
    let callers = place.path("callers.toml");
    let mut all = vec!["policy", "check", "--callers-file", callers.to_str().unwrap()];
    all.extend(arguments.split_whitespace());
    let done = run(&all).await;
    (text(&done.stdout), text(&done.stderr), done.status.code())
}

#[tokio::test]
async fn it_explains_which_rule_decides() {
    let place = Place::new().await;
    place.write("callers.toml", CALLERS);
    let capture = "--caller orders --rpc Capture --account T12345678 --currency NOK --amount";
    let (printed, said, code) = check(&place, &format!("{capture} 1000")).await;
    assert_eq!((said.as_str(), code), ("", Some(0)), "{printed}");
    assert_eq!(
        printed,
        "allowed by caller \"orders\", allow 1 (line 5)\n  caller \"orders\", allow 1 (line 5): covers it\n  \
         caller \"orders\", allow 2 (line 11): is not about Capture\n  \
         group \"readers\", allow 1 (line 27): is not about Capture\n"
    );
    let (printed, said, code) = check(&place, &format!("{capture} 1001")).await;
    assert_eq!(code, Some(1));
    assert!(printed.starts_with("denied: ") && said == "payops: denied\n");
    assert!(
        printed.contains("(line 5): allows at most 1000 minor units of NOK in one operation"),
        "{printed}"
    );

    let (printed, _, code) = check(&place, "--caller orders --rpc Void --account P99999999").await;
    assert!(
        code == Some(0) && printed.starts_with("allowed by caller \"orders\", allow 2 (line 11)"),
        "{printed}"
    );
    let (printed, _, code) =
        check(&place, "--caller shop/till --rpc GetTransaction --account T12345678").await;
    assert!(
        code == Some(0) && printed.starts_with("allowed by group \"readers\", allow 1 (line 27)"),
        "{printed}"
    );
    let (printed, _, code) =
        check(&place, "--caller shop/till --rpc GetTransaction --account T87654321").await;
    assert!(code == Some(1) && printed.contains("(line 27): is not about account T87654321"), "{printed}");
}

#[tokio::test]
async fn programs_read_it_too() {
    let place = Place::new().await;
    place.write("callers.toml", CALLERS);
    let asked = "--caller orders --rpc Capture --account T12345678 --currency NOK --output json --amount";
    for (amount, code) in [(1_000, 0), (1_001, 1)] {
        let (printed, _, ended) = check(&place, &format!("{asked} {amount}")).await;
        let told: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!((told["allowed"].as_bool(), ended), (Some(code == 0), Some(code)));
        let line = told["rule"]["line"].as_u64();
        assert_eq!(line, (code == 0).then_some(5), "{told}");
        assert_eq!(told["denied"].is_null(), code == 0);
        assert_eq!(told["rules"].as_array().unwrap().len(), 3);
    }
}

#[tokio::test]
async fn what_is_missing_or_wrong_is_told() {
    let place = Place::new().await;
    place.write("callers.toml", CALLERS);
    for (arguments, code, due) in [
        ("--caller orders --rpc Capture --account T12345678 --amount 1", 2, "--currency: is missing"),
        ("--caller nobody --rpc GetOperation", 2, "nobody is called \"nobody\""),
        ("--caller orders --rpc Steal", 2, "must be one of Capture, Void, Refund"),
        ("--caller orders --rpc Capture --amount 1", 2, "--account"),
        ("--caller orders --rpc Capture --account T12345678 --currency NOK", 2, "--amount"),
        (
            "--caller orders --rpc Capture --account T1 --currency NOK --amount 1",
            2,
            "T or P and eight digits",
        ),
    ] {
        let (_, said, ended) = check(&place, arguments).await;
        assert!(ended == Some(code) && said.contains(due), "{arguments}: {said}");
    }
    // Every mistake of the file at once, as payops config check does.
    place.write("callers.toml", &CALLERS.replace("\"Void\"", "\"void\"").replace("\"*\"", "7"));
    let (_, said, ended) = check(&place, "--caller orders --rpc GetOperation").await;
    assert_eq!(ended, Some(78));
    assert!(
        said.contains("caller[0].allow[1].rpcs[0]: ") && said.contains("caller[0].allow[1].accounts[0]: "),
        "{said}"
    );
    // By the configuration, too.
    let config = place.path("payops.toml");
    let done = run(&[
        "policy",
        "check",
        "--config",
        config.to_str().unwrap(),
        "--caller",
        "orders",
        "--rpc",
        "GetOperation",
    ])
    .await;
    assert_eq!(done.status.code(), Some(78));
}
