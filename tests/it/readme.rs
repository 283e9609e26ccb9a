//! The README is true: its commands run, its links lead somewhere, its errors are those of the code. And the guide's own
//! bodies give what the guide says, with the real grpcurl.

use std::{collections::BTreeSet, fs, io::BufRead as _, path::Path, process::Command};

use crate::console::run_console_blocks;
use crate::started::{Started, path_with_tools};

const README: &str = include_str!("../../README.md");

/// A newcomer pastes the commands of the README, from top to bottom, and sees what it shows.
#[test]
fn every_command_of_the_readme_prints_what_it_shows() {
    let path = path_with_tools();
    for tool in ["grpcurl", "curl"] {
        let found =
            Command::new("sh").args(["-c", &format!("command -v {tool}")]).env("PATH", &path).output();
        assert!(found.unwrap().status.success(), "there is no {tool}: tests/run installs it");
    }
    // The first command, as the README has it, is the one that runs here.
    let command = README.lines().find(|line| line.starts_with("cargo run")).unwrap();
    let started = Started::by(command.strip_prefix("cargo run -- ").unwrap());
    let commands = run_console_blocks(&started.adapt(README), &[("PATH".to_owned(), path)]);
    let commands = commands.unwrap_or_else(|difference| panic!("{difference}"));
    assert!(commands >= 12, "only {commands} commands ran");
}

/// What the program tells a newcomer to paste works, twice.
#[test]
fn what_the_program_says_to_paste_works() {
    let mut started = Started::by("serve --sandbox");
    let lines: Vec<String> = (&mut started.printed)
        .lines()
        .map(Result::unwrap)
        .take_while(|line| !line.starts_with("Ctrl-C"))
        .collect();
    let pasted: Vec<&str> = lines.iter().map(String::as_str).filter(|line| line.starts_with("  ")).collect();
    let script = format!("set -e\n{}\n", pasted.join("\n"));
    for round in ["first", "second"] {
        let done =
            Command::new("bash").args(["-c", &script]).env("PATH", path_with_tools()).output().unwrap();
        let printed = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{round}: {printed}{}", String::from_utf8_lossy(&done.stderr));
        assert!(printed.contains("OPERATION_STATE_SUCCEEDED"), "{round}: {printed}");
        assert_eq!(printed.matches("\"kind\":\"capture\"").count(), 1, "{round}: {printed}");
    }
}

/// Every link to a file of the project leads somewhere.
#[test]
fn every_link_leads_to_a_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for document in [
        "README.md",
        "CHANGELOG.md",
        "docs/contributing.md",
        "docs/audit.md",
        "docs/batch.md",
        "docs/clients/README.md",
        "docs/clients/go/README.md",
        "docs/clients/java/README.md",
        "docs/clients/python/README.md",
        "docs/clients/typescript/README.md",
        "docs/identity.md",
        "docs/observability.md",
        "docs/operations.md",
        "docs/policy.md",
        "docs/sandbox.md",
        "docs/runbook.md",
    ] {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let folder = root.join(document).parent().unwrap().to_owned();
        let targets =
            text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let file = target.split('#').next().unwrap();
            assert!(folder.join(file).exists(), "{document} links to {target}");
        }
    }
}

/// The calls that the README shows are those of the examples, which tests/clients runs.
#[test]
fn the_calls_of_the_readme_are_those_of_the_examples() {
    let examples = [
        ("go", include_str!("../../docs/clients/go/cmd/example/main.go")),
        ("java", include_str!("../../docs/clients/java/src/main/java/com/example/shop/Example.java")),
        ("python", include_str!("../../docs/clients/python/example.py")),
        ("ts", include_str!("../../docs/clients/typescript/src/example.ts")),
    ];
    for (language, example) in examples {
        let shown = README.split_once(&format!("```{language}\n")).unwrap().1.split_once("```").unwrap().0;
        let lines: Vec<_> = example.lines().map(str::trim).collect();
        for line in shown.lines() {
            assert!(lines.contains(&line.trim()), "{language}: {line}");
        }
    }
}

/// The README's table of errors has every reason that the code can give, and no other.
#[test]
fn the_readmes_errors_are_those_of_the_code() {
    let sources = [
        include_str!("../../src/grpc/status.rs"),
        include_str!("../../src/grpc/status/credentials.rs"),
        include_str!("../../src/grpc/status/policy.rs"),
        include_str!("../../src/grpc/status/review.rs"),
        include_str!("../../src/grpc/command.rs"),
        include_str!("../../src/grpc/violations.rs"),
        include_str!("../../src/payment/outcome.rs"),
    ];
    let is_reason = |word: &str| {
        word.len() > 5
            && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
            && word != "SCREAMING_SNAKE_CASE"
    };
    let quoted = |text: &'static str, quote: char| text.split(quote).skip(1).step_by(2);
    let in_code: BTreeSet<&str> = sources
        .iter()
        .flat_map(|source| quoted(source.split("#[cfg(test)]").next().unwrap(), '"'))
        .filter(|word| is_reason(word))
        .collect();
    let table = README.split_once("| Code | Reason |").unwrap().1.split_once("\n\n").unwrap().0;
    let in_readme: BTreeSet<&str> = table
        .lines()
        .filter_map(|row| row.split('|').nth(2))
        .flat_map(|cell| quoted(cell, '`'))
        .filter(|word| is_reason(word))
        .collect();
    assert_eq!(in_readme, in_code);
}

/// The bodies of Dintero's guide, with its own amounts and line, as a caller of payops writes them. The guide promises: all
/// is captured, all is refunded, the authorization is voided [SEED].
const GUIDE: &str = r#"
```console
$ call() { key=$1 rpc=$2; grpcurl -plaintext -H 'authorization: Bearer sandbox' -H "idempotency-key: $key" \
    -d "$3" 127.0.0.1:50051 "payops.v1.PaymentOperationsService/$rpc" | grep -E 'state"|StatusRaw|"(captured|refunded)"'; }
$ call guide-capture Capture '{"transaction_id": "T12345678.demoCardOneLine0000001",
    "amount": 29990, "reference": "string", "items": [{"line_id": "1", "amount": 29990}]}'
    "state": "OPERATION_STATE_SUCCEEDED",
      "transactionStatusRaw": "CAPTURED",
        "captured": "29990",
$ call guide-refund Refund '{"transaction_id": "T12345678.demoCardOneLine0000001",
    "amount": 29990, "reason": "string", "items": [{"line_id": "1", "amount": 29990}]}'
    "state": "OPERATION_STATE_SUCCEEDED",
      "transactionStatusRaw": "REFUNDED",
        "captured": "29990",
        "refunded": "29990"
$ call guide-void Void '{"transaction_id": "T12345678.demoCard00000000000005"}'
    "state": "OPERATION_STATE_SUCCEEDED",
      "transactionStatusRaw": "AUTHORIZATION_VOIDED",
```
"#;

#[test]
fn the_guides_own_bodies_give_what_the_guide_says_by_grpcurl() {
    let started = Started::by("serve --sandbox");
    let commands = run_console_blocks(&started.adapt(GUIDE), &[("PATH".to_owned(), path_with_tools())]);
    assert_eq!(commands.unwrap_or_else(|difference| panic!("{difference}")), 4);
}
