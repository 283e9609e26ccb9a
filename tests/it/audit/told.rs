//! What the audit tells of refusals, of the configuration, and of those who decide.

use std::{fs, path::Path};

use payops::config::{Config, Source};
use payops::grpc::pb::OperationState::{Declined, Succeeded};
use payops::journal::audit::{Operation, Record, Refusal};
use serde_json::json;

use super::{SECRET, records, verified};
use crate::policy::let_orders;
use crate::support::{TestApp, eventually};

const AMOUNT: i64 = 29_990;

async fn start() -> TestApp {
    start_with(|_| ()).await
}

async fn start_with(adjust: impl FnOnce(&mut Config)) -> TestApp {
    TestApp::start_with(|config| {
        let secret = String::from_utf8(SECRET.to_vec()).unwrap();
        config.audit.key = Some(Source::Value(secret.into()));
        adjust(config);
    })
    .await
}

fn refusals(directory: &Path) -> Vec<Refusal> {
    let records = records(directory);
    records
        .into_iter()
        .filter_map(|record| if let Record::Refusal(told) = record { Some(*told) } else { None })
        .collect()
}

fn operations(app: &TestApp) -> Vec<Operation> {
    let records = records(&app.config.journal.directory);
    records
        .into_iter()
        .filter_map(|record| if let Record::Operation(told) = record { Some(*told) } else { None })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_by_policy_is_told_with_what_was_asked_and_why() {
    let rules = "{ rpcs = ['Capture'], accounts = ['*'], currencies = ['NOK'], amount_max = { NOK = 20000 } }, \
                 { rpcs = ['GetOperation'], accounts = ['*'] }";
    let mut app = start_with(|config| let_orders(config, rules)).await;
    let card = app.world.card().await;
    let orders = app.orders().await;
    assert_eq!(orders.capture("k", &card, AMOUNT).await.unwrap_err().reason(), "AMOUNT_LIMIT");
    assert_eq!(orders.refund("r", &card, 1).await.unwrap_err().reason(), "RPC_NOT_ALLOWED");
    assert_eq!(orders.transaction(&card).await.unwrap_err().reason(), "RPC_NOT_ALLOWED");
    let stranger = app.caller("token-of-nobody").await;
    for _ in 0..50 {
        assert_eq!(stranger.capture("k", &card, 1).await.unwrap_err().reason(), "CREDENTIALS_INVALID");
    }
    let directory = app.config.journal.directory.clone();
    let told = |reason: &str| -> Vec<Refusal> {
        refusals(&directory).into_iter().filter(|refusal| refusal.reason == reason).collect()
    };
    let count = |reason: &str| told(reason).iter().map(|refusal| refusal.count).sum::<u64>();
    // The first of each kind at once, and whatever was like it at the end of the minute, or of payops.
    eventually("each kind is told", async || {
        count("AMOUNT_LIMIT") == 1 && count("RPC_NOT_ALLOWED") == 2 && count("CREDENTIALS_INVALID") > 0
    })
    .await;
    app.drain().await;
    assert_eq!(count("CREDENTIALS_INVALID"), 50);
    let Refusal { caller, rpc, transaction_id, account, amount, why, trace_id, .. } =
        told("AMOUNT_LIMIT").remove(0);
    assert_eq!(caller.unwrap().as_str(), "orders");
    assert_eq!((rpc.as_str(), amount), ("Capture", Some(AMOUNT)));
    assert_eq!(transaction_id.unwrap().as_str(), card);
    assert_eq!(account.unwrap().as_str(), "T12345678");
    assert!(why.contains("20000") && trace_id.is_some(), "{why}");
    let strangers = told("CREDENTIALS_INVALID");
    assert!(strangers.len() <= 2, "alike ones are told together: {}", strangers.len());
    assert!(strangers.iter().all(|refusal| refusal.caller.is_none() && refusal.rpc == "Capture"));
    assert_eq!(verified(&app.config.journal.directory).findings, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_configuration_became_is_told_by_its_sha256() {
    let app = start().await;
    let told = || -> Vec<(String, Option<String>, bool)> {
        let records = records(&app.config.journal.directory);
        let told = records.into_iter().filter_map(|record| match record {
            Record::Configuration { what, sha256, refused, .. } => Some((what, sha256, refused.is_some())),
            _ => None,
        });
        told.filter(|(what, ..)| what == "callers.file").collect()
    };
    let sha256 = || {
        use sha2::Digest as _;
        let digest = sha2::Sha256::digest(fs::read(&app.config.callers.file).unwrap());
        let (high, low) = digest.split_at(16);
        let digits = |half: &[u8]| format!("{:032x}", u128::from_be_bytes(half.try_into().unwrap()));
        Some(digits(high) + &digits(low))
    };
    let expected = |refused| ("callers.file".to_owned(), sha256(), refused);
    eventually("the start is told", async || told() == [expected(false)]).await;
    let good = fs::read_to_string(&app.config.callers.file).unwrap();
    fs::write(&app.config.callers.file, "caller = 7").unwrap();
    eventually("the wrong one is told", async || told().last() == Some(&expected(true))).await;
    fs::write(&app.config.callers.file, format!("{good}\n# changed\n")).unwrap();
    eventually("the new one is told", async || told().last() == Some(&expected(false))).await;
    assert_eq!(told().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_of_an_operation_tells_who_what_and_why() {
    let app = start().await;
    let card = app.world.card().await;
    let orders = app.orders().await;
    let answer = orders.capture("k", &card, AMOUNT).await.unwrap();
    assert_eq!(answer.operation.state(), Succeeded);
    app.world.fault(json!({"operation": "refund", "fault": "declined"})).await;
    let declined = orders.refund("r", &card, 100).await.unwrap_err();
    assert_eq!(orders.operation("r").await.unwrap().state(), Declined);
    let told = operations(&app);
    let steps: Vec<_> = told
        .iter()
        .map(|told| (told.key.as_str(), told.before.as_deref(), told.after.as_str(), told.event.as_str()))
        .collect();
    assert_eq!(
        steps,
        [
            ("k", None, "started", "begun"),
            ("k", Some("started"), "succeeded", "proven"),
            ("r", None, "started", "begun"),
            ("r", Some("started"), "declined", "refused"),
        ]
    );
    let trace = declined.details.request_info().unwrap().request_id.clone();
    for told in &told[2..] {
        assert_eq!(told.trace_id.as_deref(), Some(trace.as_str()));
        assert_eq!((told.amount, told.account.as_str()), (Some(100), "T12345678"));
    }
    assert!(told[3].why.as_deref().unwrap().starts_with("DECLINED"), "{:?}", told[3].why);
    assert!(told[1].psp_event_id.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_persons_of_a_review_are_told_with_their_reasons() {
    let app = start().await;
    let (_, id) = app.doubled("k").await;
    let (anna, ben) = (app.anna().await, app.ben().await);
    let proposed =
        anna.propose(&id, payops::grpc::pb::OperationDecision::Succeeded, "seen twice").await.unwrap();
    ben.confirm(&id, &proposed, "so it is").await.unwrap();
    let told = operations(&app);
    let steps: Vec<_> = told.iter().filter_map(|told| Some((told.by.as_ref()?.as_str(), told))).collect();
    let [(first, proposal), (second, resolution)] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!(
        (*first, proposal.event.as_str(), proposal.after.as_str()),
        ("anna", "proposed upon", "review")
    );
    assert!(proposal.why.as_deref().unwrap().contains("seen twice"));
    assert_eq!(
        (*second, resolution.event.as_str(), resolution.after.as_str()),
        ("ben", "resolved", "succeeded")
    );
    let why = resolution.why.as_deref().unwrap();
    assert!(why.contains("anna: seen twice") && why.contains("so it is"), "{why}");
    assert_ne!(proposal.trace_id, resolution.trace_id);
}
