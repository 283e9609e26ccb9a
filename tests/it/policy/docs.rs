//! docs/policy.md is true: its file, its reasons, its commands.

use std::collections::BTreeSet;

use payops::callers::Callers;

use crate::console::run_console_blocks;
use crate::started::path_with_tools;

const PAGE: &str = include_str!("../../../docs/policy.md");

/// The callers file that it shows.
fn file() -> &'static str {
    PAGE.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0
}

#[test]
fn the_file_that_it_shows_is_one() {
    let callers = Callers::parse(file()).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!(callers.names().collect::<Vec<_>>(), ["orders", "returns"]);
    assert_eq!(callers.rights("returns", None).rules.len(), 2);
    assert_eq!(callers.rights("shop/till", Some("cluster")).rules.len(), 1);
}

/// Every key that the parser takes, and no other, is in the table of keys.
#[test]
fn its_keys_are_those_of_the_code() {
    let source = include_str!("../../../src/callers/parse/rules.rs");
    let rule = source.split_once("let rule = Rule {").unwrap().1;
    let rule = rule.split_once("impl Callers").unwrap().0;
    let taken: BTreeSet<&str> =
        rule.split("remove(\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let table = PAGE.split_once("| Key | Says |").unwrap().1.split_once("\n\n").unwrap().0;
    let told: BTreeSet<&str> = table.lines().filter_map(|row| row.split('`').nth(1)).collect();
    assert_eq!(told, taken);
}

#[test]
fn its_reasons_are_those_of_the_code() {
    let source = include_str!("../../../src/grpc/status/policy.rs");
    let reasons: BTreeSet<&str> = source
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|word| word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
        .collect();
    let told: BTreeSet<&str> =
        PAGE.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert!(reasons.len() >= 4 && reasons.is_subset(&told), "{reasons:?}");
}

#[test]
fn its_command_prints_what_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("callers.toml");
    std::fs::write(&path, file()).unwrap();
    let page = PAGE.replace("--callers-file callers.toml", &format!("--callers-file {}", path.display()));
    let commands = run_console_blocks(&page, &[("PATH".to_owned(), path_with_tools())]);
    assert_eq!(commands.unwrap_or_else(|difference| panic!("{difference}")), 2);
}
