//! The simulator from the command line: it starts as documented, and what it prints can be pasted.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

const DOCS: &str = include_str!("../../../docs/sandbox.md");

/// Runs a documented command line, on free ports, and reads what it prints until it says how to end it.
async fn start(line: &str) -> (Child, String) {
    let line = line.replace("127.0.0.1:50052", "127.0.0.1:0");
    let mut arguments: Vec<_> = line.split(' ').skip(1).collect();
    if arguments.contains(&"--sandbox") {
        arguments.extend(["--listen", "127.0.0.1:0", "--sandbox-listen", "127.0.0.1:0"]);
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_payops"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut printed = String::new();
    while !printed.contains("Ctrl-C") {
        printed += &lines.next_line().await.unwrap().expect("it says how to end it");
        printed += "\n";
    }
    (child, printed)
}

fn base(printed: &str) -> String {
    let address = printed.split("http://").nth(1).unwrap();
    let end = address.find(|letter: char| !(letter.is_ascii_digit() || ".:".contains(letter))).unwrap();
    format!("http://{}", address[..end].trim_end_matches('.'))
}

/// Each documented command line starts a simulator.
#[tokio::test]
async fn every_documented_command_starts_a_simulator() {
    let lines: Vec<_> = DOCS.lines().filter(|line| line.starts_with("payops ")).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in lines {
        let (_child, printed) = start(line).await;
        let health = reqwest::Client::new().get(format!("{}/sandbox/v1/health", base(&printed))).send().await;
        assert!(health.is_ok_and(|answer| answer.status().is_success()), "{line}: {printed}");
    }
}

/// What is printed names the admin API and the documentation, and every command in it works.
#[tokio::test]
async fn what_the_command_prints_can_be_pasted() {
    let (_child, printed) = start("payops sandbox --listen 127.0.0.1:50052 --seed 1").await;
    assert!(printed.contains("/sandbox/v1/") && printed.contains("docs/sandbox.md"), "{printed}");
    let commands: Vec<_> = printed.lines().filter(|line| line.trim_start().starts_with("curl ")).collect();
    assert_eq!(commands.len(), 4, "{printed}");
    let client = reqwest::Client::new();
    for line in commands {
        let url = line.split(' ').find(|word| word.starts_with("http://")).unwrap();
        let body = line.split_once("-d '").map(|(_, rest)| rest.trim_end_matches('\'').to_owned());
        let mut request = if body.is_some() { client.post(url) } else { client.get(url) };
        if let Some((_, rest)) = line.split_once("-u ") {
            let (user, password) = rest.split(' ').next().unwrap().split_once(':').unwrap();
            request = request.basic_auth(user, Some(password));
        }
        let answer = request.body(body.unwrap_or_default()).send().await.unwrap();
        assert!(answer.status().is_success(), "{line}: {}", answer.status());
    }
}

/// An address that is taken is told, and the exit code says that something outside is the matter.
#[tokio::test]
async fn an_address_that_is_taken_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_payops"));
    command.args(["sandbox", "--listen", &address]).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).await.unwrap();
    assert!(told.contains(&address), "{told}");
    assert_eq!(child.wait().await.unwrap().code(), Some(69));
}
