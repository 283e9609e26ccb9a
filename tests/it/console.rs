//! Runs what a document shows and compares what it prints.
//!
//! A block fenced as `console` holds commands and their output:
//!
//! ```text
//! $ payops --version
//! payops …
//! $ grpcurl -plaintext \
//!     "$PAYOPS_ADDRESS" list
//! grpc.health.v1.Health
//! …
//! ```
//!
//! A command goes on in the next line after a backslash and within single quotes. In the output `…` stands for any
//! characters of a line, and a line of only `…` for any lines. All commands of a document run in one bash, in order, so
//! that variables and folders last. A command that fails must show it: one without output has to succeed.

use std::{fmt::Write as _, fs, process::Command};

/// All commands of one document together may take this long.
const SECONDS_MAX: u32 = 120;

/// Stands for anything.
const ANY: &str = "…";

/// A command as the document shows it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    /// The line of the document, from 1.
    line: usize,
    command: String,
    output: Vec<String>,
}

/// One line of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line<'a> {
    Same(&'a str),
    Missing(&'a str),
    Unexpected(&'a str),
}

/// Runs the commands of every `console` block with `env` added to the environment, and returns how many there were.
///
/// The first command whose output differs ends the comparison; the error shows its line, what differs, and its status.
pub fn run_console_blocks(markdown: &str, env: &[(String, String)]) -> Result<usize, String> {
    let steps = steps(markdown)?;
    if steps.is_empty() {
        return Ok(0);
    }
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (script, printed) = (folder.path().join("script"), folder.path().join("printed"));
    let output = |file| fs::File::create(file).map_err(|error| error.to_string());
    // What ends a step in the output: no README prints it by chance.
    let mark = format!("end of step {}", folder.path().display());
    fs::write(&script, bash(&steps, &mark)).map_err(|error| error.to_string())?;
    // Into a file: a pipe would stay open for as long as what a command leaves in the background.
    Command::new("timeout")
        .args(["--kill-after=5", &SECONDS_MAX.to_string(), "bash"])
        .arg(&script)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(std::process::Stdio::null())
        .stdout(output(&printed)?)
        .status()
        .map_err(|error| format!("bash does not run: {error}"))?;
    let printed =
        String::from_utf8_lossy(&fs::read(&printed).map_err(|error| error.to_string())?).into_owned();
    let mut rest = printed.as_str();
    for step in &steps {
        let Some((output, after)) = rest.split_once(&format!("\n{mark} ")) else {
            return Err(report(
                step,
                rest,
                &format!("did not end within {SECONDS_MAX} s, or ended the shell"),
            ));
        };
        let (status, after) = after.split_once('\n').unwrap_or((after, ""));
        if !matches(step, output) {
            return Err(report(step, output, &format!("ended with status {status}")));
        }
        if status != "0" && step.output.is_empty() {
            return Err(report(step, output, &format!("failed with status {status}")));
        }
        rest = after;
    }
    Ok(steps.len())
}

/// The commands of all `console` blocks with the output that they show.
fn steps(markdown: &str) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = (1..).zip(markdown.lines());
    while let Some((_, line)) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let fence: String = line.trim_start().chars().take_while(|c| *c == '`').collect();
        if fence.len() < 3 {
            continue;
        }
        let console = line.trim_start_matches([' ', '`']).split_whitespace().next() == Some("console");
        let block: Vec<(usize, &str)> = lines
            .by_ref()
            .take_while(|(_, line)| {
                !(line.trim().starts_with(&fence) && line.trim().chars().all(|c| c == '`'))
            })
            .map(|(number, line)| (number, line.get(indent..).unwrap_or(line.trim_start())))
            .collect();
        if console {
            steps.extend(block_steps(&block)?);
        }
    }
    Ok(steps)
}

fn block_steps(block: &[(usize, &str)]) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = block.iter().copied();
    while let Some((line, text)) = lines.next() {
        if let Some(first) = text.strip_prefix("$ ") {
            let mut command = first.to_owned();
            while is_open(&command)
                && let Some((_, more)) = lines.next()
            {
                command.push('\n');
                command.push_str(more);
            }
            steps.push(Step { line, command, output: Vec::new() });
        } else if let Some(step) = steps.last_mut() {
            step.output.push(text.trim_end().to_owned());
        } else {
            return Err(format!("line {line}: a console block begins with a command, \"$ …\""));
        }
    }
    for step in &mut steps {
        while step.output.last().is_some_and(String::is_empty) {
            step.output.pop();
        }
    }
    Ok(steps)
}

/// Whether a command goes on in the next line: after a backslash, or within single quotes.
fn is_open(command: &str) -> bool {
    command.ends_with('\\') || command.matches('\'').count() % 2 == 1
}

/// A script that runs each command in the same shell, and ends each with the mark and its status.
fn bash(steps: &[Step], mark: &str) -> String {
    let mut script = "exec 2>&1\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n".to_owned();
    for step in steps {
        // `eval`, so that a command that bash cannot parse fails alone.
        let quoted = step.command.replace('\'', r"'\''");
        writeln!(script, "eval '{quoted}'\nprintf '\\n%s %s\\n' '{mark}' \"$?\"").unwrap();
    }
    script
}

fn matches(step: &Step, output: &str) -> bool {
    diff(step, output).iter().all(|line| matches!(line, Line::Same(_)))
}

/// What was expected beside what came, with the fewest differences.
fn diff<'a>(step: &'a Step, output: &'a str) -> Vec<Line<'a>> {
    let expected: Vec<&str> = step.output.iter().map(String::as_str).collect();
    let actual: Vec<&str> = output.trim_end().lines().map(str::trim_end).collect();
    // fewest[i][j]: the differences between expected[i..] and actual[j..].
    let mut fewest = vec![vec![0_usize; actual.len() + 1]; expected.len() + 1];
    for i in (0..=expected.len()).rev() {
        for j in (0..=actual.len()).rev() {
            fewest[i][j] = match (expected.get(i), actual.get(j)) {
                (None, _) => actual.len() - j,
                (Some(&ANY), None) => fewest[i + 1][j],
                (Some(&ANY), Some(_)) => fewest[i + 1][j].min(fewest[i][j + 1]),
                (Some(_), None) => fewest[i + 1][j] + 1,
                (Some(pattern), Some(line)) if line_matches(pattern, line) => fewest[i + 1][j + 1],
                (Some(_), Some(_)) => fewest[i + 1][j].min(fewest[i][j + 1]) + 1,
            };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < expected.len() || j < actual.len() {
        match (expected.get(i), actual.get(j)) {
            (Some(&ANY), Some(line)) if fewest[i][j] == fewest[i][j + 1] => {
                lines.push(Line::Same(line));
                j += 1;
            }
            (Some(&ANY), _) => i += 1,
            (Some(pattern), Some(line)) if line_matches(pattern, line) => {
                lines.push(Line::Same(line));
                (i, j) = (i + 1, j + 1);
            }
            (Some(pattern), _) if fewest[i][j] == fewest[i + 1][j] + 1 => {
                lines.push(Line::Missing(pattern));
                i += 1;
            }
            (_, line) => {
                lines.extend(line.map(|line| Line::Unexpected(line)));
                j += 1;
            }
        }
    }
    lines
}

/// Whether a line fits a pattern in which `…` stands for any characters.
fn line_matches(pattern: &str, line: &str) -> bool {
    let Some((first, rest)) = pattern.split_once(ANY) else { return pattern == line };
    let Some(mut line) = line.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once(ANY).unwrap_or(("", rest));
    for part in middle.split(ANY) {
        match line.split_once(part) {
            Some((_, after)) => line = after,
            None => return false,
        }
    }
    line.ends_with(last)
}

fn report(step: &Step, output: &str, end: &str) -> String {
    let mut report =
        format!("line {}: $ {}\n{end}; - is missing, + was not expected:\n", step.line, step.command);
    for line in diff(step, output) {
        match line {
            Line::Same(text) => writeln!(report, "  {text}").unwrap(),
            Line::Missing(text) => writeln!(report, "- {text}").unwrap(),
            Line::Unexpected(text) => writeln!(report, "+ {text}").unwrap(),
        }
    }
    report
}

/// A document with one console block.
fn document(block: &str) -> String {
    format!("# Title\n\n```console\n{block}```\n")
}

fn run(block: &str) -> Result<usize, String> {
    run_console_blocks(&document(block), &[("GREETING".to_owned(), "good day".to_owned())])
}

#[test]
fn what_is_shown_is_what_is_printed() {
    assert_eq!(run("$ echo \"$GREETING\"\ngood day\n$ printf 'a\\n\\nb'\na\n\nb\n\n$ true\n"), Ok(3));
}

#[test]
fn a_difference_is_shown_with_its_place() {
    let report = run("$ true\n$ printf 'a\\nB\\nc\\n'; (exit 3)\na\nb\nc\n").unwrap_err();
    assert!(report.starts_with("line 5: $ printf"), "{report}");
    assert!(report.contains("ended with status 3"), "{report}");
    assert!(report.ends_with("  a\n- b\n+ B\n  c\n"), "{report}");
    assert!(run("$ echo a\n").unwrap_err().ends_with("+ a\n"));
    assert!(run("$ true\na\n").unwrap_err().ends_with("- a\n"));
}

#[test]
fn a_command_goes_on_after_a_backslash_and_within_quotes() {
    assert_eq!(run("$ echo one \\\n    two \\\n    three\none two three\n"), Ok(1));
    assert_eq!(run("$ echo 'one\ntwo' three\none\ntwo three\n"), Ok(1));
}

#[test]
fn an_ellipsis_stands_for_characters_of_a_line_or_for_lines() {
    assert_eq!(run("$ printf 'id: 42, at noon\\nx\\ny\\nend\\n'\nid: …, at …\n…\nend\n"), Ok(1));
    assert_eq!(run("$ printf 'begin\\nend\\n'\nbegin\n…\nend\n…\n"), Ok(1));
    let report = run("$ printf 'a\\nb\\nlast\\n'\n…\nend\n").unwrap_err();
    assert!(report.contains("- end"), "{report}");
    assert!(run("$ echo 'id: 42'\nid: …, at …\n").is_err());
}

#[test]
fn ellipses_of_a_line_match_in_order() {
    for (pattern, line) in [
        ("…", ""),
        ("…", "x"),
        ("a…", "a"),
        ("a…b", "ab"),
        ("a…b", "a1b1b"),
        ("…1…2…", "x1y2z"),
        ("a…b…c", "abc"),
    ] {
        assert!(line_matches(pattern, line), "{pattern} {line}");
    }
    for (pattern, line) in
        [("", "x"), ("a…", "ba"), ("a…a", "a"), ("…2…1…", "x1y2z"), ("a…b…b", "ab"), ("a…b", "abc")]
    {
        assert!(!line_matches(pattern, line), "{pattern} {line}");
    }
}

#[test]
fn the_shell_lasts_from_block_to_block() {
    let markdown = format!(
        "{}text\n{}",
        document("$ NAME=payops\n$ cd /\n"),
        document("$ echo \"$NAME in $PWD\"\npayops in /\n")
    );
    assert_eq!(run_console_blocks(&markdown, &[]), Ok(3));
}

#[test]
fn a_failure_without_output_is_told() {
    assert!(run("$ false\n").unwrap_err().contains("failed with status 1"));
    assert_eq!(run("$ echo no; false\nno\n"), Ok(1), "a failure that is shown is part of the document");
    assert!(run("$ exit 4\n$ true\n").unwrap_err().contains("ended the shell"));
    assert!(run("$ echo 'open\n").is_err(), "what bash cannot parse fails alone");
}

#[test]
fn what_runs_in_the_background_holds_nothing_up() {
    assert_eq!(run("$ sleep 1000 &\n$ echo on\non\n"), Ok(2));
}

#[test]
fn only_console_blocks_run() {
    let other = "```sh\n$ false\n```\n\n````text\n```console\n$ false\n```\n````\n";
    assert_eq!(run_console_blocks(other, &[]), Ok(0));
    assert_eq!(run_console_blocks("1. First:\n\n   ```console\n   $ echo a\n   a\n   ```\n", &[]), Ok(1));
    let report = run_console_blocks(&document("echo a\n"), &[]).unwrap_err();
    assert!(report.starts_with("line 4: a console block begins with a command"), "{report}");
}
