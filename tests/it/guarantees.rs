//! The pages that tell figures name commands that there are.

use std::{path::Path, process::Command};

const GUARANTEES: &str = include_str!("../../docs/guarantees.md");
const SCALING: &str = include_str!("../../docs/scaling.md");

/// Where the tests are that a filter may name.
const TESTS: &[&str] =
    &["tests/it", "tests", "src/journal/entry/tests", "src/psp/judge/tests", "src/reconcile/decide/tests"];

/// What stands between backquotes and begins with `program`.
fn commands(page: &'static str, program: &str) -> Vec<&'static str> {
    let quoted = page.split('`').skip(1).step_by(2);
    quoted.filter(|text| text.split(' ').any(|word| word == program)).collect()
}

#[test]
fn the_program_knows_every_command_that_checks_a_guarantee() {
    let commands = commands(GUARANTEES, "payops");
    assert!(commands.len() >= 2, "{commands:?}");
    for command in commands {
        let run = Command::new(env!("CARGO_BIN_EXE_payops"))
            .args(command.split(' ').skip(1))
            .env_clear()
            .output()
            .unwrap();
        // There is no boundary and no journal here: that is another code than wrong arguments.
        assert!(matches!(run.status.code(), Some(69 | 78)), "{command}: {run:?}");
    }
}

/// A filter that names no test would run none, and look green.
#[test]
fn every_command_that_repeats_a_figure_names_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let commands = [GUARANTEES, SCALING].map(|page| commands(page, "cargo"));
    assert!(commands.iter().all(|commands| commands.len() >= 4), "{commands:?}");
    for command in commands.concat() {
        let of = |verb| command.split_once(verb).map(|(_, arguments)| arguments);
        let (arguments, places) = match (of("cargo test "), of("cargo bench ")) {
            (Some(arguments), _) => (arguments, TESTS),
            (None, bench) => (bench.unwrap(), ["benches"].as_slice()),
        };
        let arguments = arguments.replace("--profile simulation ", "");
        let words = arguments.split(' ').filter(|word| !word.starts_with('-'));
        let filters: Vec<_> = words.filter(|word| !["it", "1"].contains(word)).collect();
        for filter in filters.iter().filter(|word| !word.is_empty()) {
            let found = places.iter().any(|place| root.join(place).join(format!("{filter}.rs")).is_file());
            assert!(found, "{command}: there is no {filter}");
        }
        assert!(!filters.is_empty(), "{command}");
    }
}
