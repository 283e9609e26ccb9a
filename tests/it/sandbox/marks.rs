//! Facts and assumptions can be found: in the simulator's code, in its documentation, and in its tests.

use std::collections::BTreeSet;
use std::path::Path;

const DOCS: &str = include_str!("../../../docs/sandbox.md");

/// The sections of the notes on Dintero's API that the simulator embodies.
const SECTIONS: [&str; 25] = [
    "1", "2.1", "2.2", "2.3", "2.4", "2.5", "3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "3.7", "3.8", "4",
    "4.1", "5.1", "5.2", "5.3", "6.1", "6.2", "7", "8", "9", "10.1",
];

/// All Rust files below a directory of the repository.
fn sources(directory: &str) -> String {
    let mut text = String::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &std::fs::read_to_string(&path).unwrap();
        }
    }
    assert!(text.len() > 50_000, "{directory} was not found");
    text
}

/// What stands after `[D ` up to the bracket.
fn citations(text: &str) -> BTreeSet<String> {
    let cited = text.split("[D ").skip(1).filter_map(|rest| rest.split_once(']'));
    cited.map(|(cited, _)| cited.to_owned()).collect()
}

fn assumptions(text: &str) -> BTreeSet<u32> {
    citations(text).iter().filter_map(|cited| cited.strip_prefix("12 #")?.parse().ok()).collect()
}

fn doc_comments(text: &str) -> String {
    let lines: Vec<_> = text.lines().filter(|line| line.trim_start().starts_with("///")).collect();
    lines.join("\n")
}

/// [D 12]: every assumption is marked where it is made, listed in the documentation, and
/// named by a test.
#[test]
fn every_assumption_is_marked_listed_and_tested() {
    let expected: BTreeSet<u32> = (1..=28).collect();
    let section = DOCS.split("## Documented or assumed").last().unwrap().split("## Limits").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok());
    let listed: BTreeSet<u32> = rows.collect();
    assert_eq!(assumptions(&sources("src/sandbox")), expected, "marked in the code");
    assert_eq!(listed, expected, "listed in docs/sandbox.md");
    assert_eq!(assumptions(&sources("tests/it/sandbox")), expected, "named by a test");
}

/// Every section that the simulator embodies is named by the documentation of a test, and the code cites no other.
#[test]
fn every_section_is_named_by_a_test() {
    let named = citations(&doc_comments(&sources("tests/it/sandbox")));
    let untested: Vec<_> = SECTIONS.iter().filter(|section| !named.contains(**section)).collect();
    assert!(untested.is_empty(), "no test names {untested:?}");
    let cited = citations(&sources("src/sandbox"));
    let strange = |cited: &&String| !cited.starts_with("12 #") && !SECTIONS.contains(&cited.as_str());
    let strange: Vec<_> = cited.iter().filter(strange).collect();
    assert!(strange.is_empty(), "the code cites {strange:?}");
}
