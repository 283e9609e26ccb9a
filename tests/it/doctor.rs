//! `payops doctor`: what is well, what is not, and the remedy.

use std::process::Output;

use serde_json::{Value, json};

use crate::database::{Cluster, shared};
use crate::place::{Place, payops, run, text};

async fn doctor(place: &Place, options: &[&str]) -> Output {
    let config = place.path("payops.toml");
    run(&[&["doctor", "--config", config.to_str().unwrap()], options].concat()).await
}

/// Each thing that was looked at, and whether it is well.
async fn findings(place: &Place) -> Vec<(String, bool)> {
    let output = doctor(place, &["--output", "json"]).await;
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = told["findings"].as_array().unwrap().iter();
    let findings: Vec<_> =
        findings.map(|one| (one["what"].as_str().unwrap().to_owned(), one["ok"] == json!(true))).collect();
    let all_well = findings.iter().all(|(_, well)| *well);
    assert_eq!(output.status.code(), Some(i32::from(!all_well)), "{told}");
    findings
}

fn with(unwell: &[&str]) -> Vec<(String, bool)> {
    ["configuration", "callers", "certificate", "journal", "psp", "clock", "account T12345678"]
        .iter()
        .map(|what| ((*what).to_owned(), !unwell.contains(what)))
        .collect()
}

#[tokio::test]
async fn all_is_well_before_the_first_start_and_beside_a_boundary_that_runs() {
    let place = Place::new().await;
    assert_eq!(findings(&place).await, with(&[]));
    let _life = place.serve().await;
    place.no_longer_new();
    assert_eq!(findings(&place).await, with(&[]));
    let told = text(&doctor(&place, &[]).await.stdout);
    assert!(told.contains("0 operations, in use") && !told.contains('\u{1b}'), "{told}");
}

#[tokio::test]
async fn each_thing_that_is_not_well_is_told_with_its_remedy() {
    let place = Place::new().await;
    place.no_longer_new();
    assert_eq!(findings(&place).await, with(&["journal"]));
    let told = doctor(&place, &[]).await;
    assert!(text(&told.stdout).contains("journal.new = true"), "{}", text(&told.stdout));
    assert!(text(&told.stderr).contains("one thing is not well"), "{}", text(&told.stderr));

    place.write("client_secret", "wrong");
    assert_eq!(findings(&place).await, with(&["journal", "account T12345678"]));
    place.write("callers.toml", "nonsense");
    assert_eq!(findings(&place).await, with(&["journal", "account T12345678", "callers"]));

    place.write("payops.toml", "[server]\nlisten = 7\n");
    assert_eq!(findings(&place).await, [("configuration".to_owned(), false)]);
}

#[tokio::test]
async fn a_psp_out_of_reach_and_a_database_without_a_standby_are_told() {
    let place = Place::new().await;
    place.on(&shared().database());
    assert_eq!(findings(&place).await, with(&[]));
    place.no_longer_new();
    assert_eq!(findings(&place).await, with(&["journal"]), "it has no tables");

    let alone = Cluster::start_alone();
    let far = Place::new().await;
    far.on(&alone.database());
    far.no_longer_new();
    let config = std::fs::read_to_string(far.path("payops.toml")).unwrap();
    far.write("payops.toml", &config.replace(&far.world.base, "http://127.0.0.1:9"));
    let output =
        payops(&["doctor", "--config", far.path("payops.toml").to_str().unwrap()]).output().await.unwrap();
    let told = text(&output.stdout);
    assert!(told.contains("FAILED  journal") && told.contains("FAILED  psp"), "{told}");
    assert!(told.contains("network policy"), "{told}");
    assert!(told.contains("FAILED  account T12345678"), "{told}");
}
