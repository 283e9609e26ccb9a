//! The threat model claims nothing that no test shows.

use std::{collections::BTreeSet, fs, path::Path};

const PAGE: &str = include_str!("../../docs/threat-model.md");

/// The names of all tests in a folder.
fn tests(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests(&path, names);
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let mut lines = text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                let Some(function) = lines.find(|line| line.contains("fn ")) else { break };
                let name = function.split("fn ").nth(1).unwrap().split('(').next().unwrap();
                names.insert(name.to_owned());
            }
        }
    }
}

#[test]
fn every_control_of_the_threat_model_is_shown_by_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut there = BTreeSet::new();
    for folder in ["tests", "src"] {
        tests(&root.join(folder), &mut there);
    }
    let mut rows = 0;
    for row in PAGE.lines().filter(|line| line.starts_with("| ") && line.matches('|').count() == 4) {
        let shown_by = row.split('|').nth(3).unwrap();
        if shown_by.contains("---") || shown_by.trim() == "Shown by" {
            continue;
        }
        let named: Vec<_> = shown_by.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "nothing shows: {row}");
        for test in named {
            assert!(there.contains(test), "there is no test {test}");
        }
        rows += 1;
    }
    assert!(rows >= 25, "{rows} rows");
}
