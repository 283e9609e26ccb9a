//! The runbook is true: its commands run, and it has every state and every alert.

use std::{fs, path::Path};

use payops::grpc::pb::{
    OperationState,
    health::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient},
};
use tonic::transport::Channel;

use crate::console::run_console_blocks;
use crate::started::{Started, path_with_tools};
use crate::support::eventually;

const RUNBOOK: &str = include_str!("../../docs/runbook.md");

/// Whoever is called pastes the commands from top to bottom, and sees what is shown.
#[tokio::test]
async fn every_command_of_the_runbook_prints_what_it_shows() {
    let started = Started::by("serve --sandbox");
    let lazy = Channel::from_shared(format!("http://{}", started.boundary)).unwrap().connect_lazy();
    let mut health = HealthClient::new(lazy);
    eventually("it is ready", async || {
        let answer = health.check(HealthCheckRequest::default()).await;
        answer.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving)
    })
    .await;
    let commands = run_console_blocks(&started.adapt(RUNBOOK), &[("PATH".to_owned(), path_with_tools())]);
    let commands = commands.unwrap_or_else(|difference| panic!("{difference}"));
    assert!(commands >= 14, "only {commands} commands ran");
}

/// Somebody who is woken up does not read a book.
#[test]
fn it_is_short() {
    assert!(RUNBOOK.lines().count() <= 150);
}

#[test]
fn it_explains_every_state() {
    let table =
        RUNBOOK.split_once("## What each state means").unwrap().1.split_once("## By alert").unwrap().0;
    for state in (1..).map_while(|number| OperationState::try_from(number).ok()) {
        let word = state.as_str_name().trim_start_matches("OPERATION_STATE_");
        // Nothing is recorded of what was only checked.
        assert_eq!(table.contains(&format!("`{word}`")), state != OperationState::Validated, "{word}");
    }
}

/// Whatever the program logs as an error may wake somebody up.
#[test]
fn it_has_every_error_of_the_log() {
    let table = RUNBOOK.split_once("## By alert").unwrap().1.split_once("## A review").unwrap().0;
    let mut errors = 0;
    for (file, text) in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        for call in text.split("tracing::error!(").skip(1) {
            let call = call.split_once(");").unwrap().0;
            // The message is the only text of several words.
            let message = call.split('"').skip(1).step_by(2).find(|text| text.contains(' '));
            let message = message.unwrap_or_else(|| panic!("{file}: no message in {call}"));
            let known = message.split('{').next().unwrap().split(": an assumption").next().unwrap().trim();
            assert!(table.contains(known), "{file} logs what the runbook does not have: {message}");
            errors += 1;
        }
    }
    assert!(errors >= 10, "{errors}");
}

/// Every file of the program, its tests and the simulator apart.
fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("sandbox") || path.ends_with("tests") {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
            found.push((path.display().to_string(), code));
        }
    }
    found
}
