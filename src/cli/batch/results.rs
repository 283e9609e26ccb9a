//! What became of each row, as a file, and of all of them, as a summary.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use serde_json::json;

use crate::cli::batch::{
    call::{End, Outcome},
    rows::Row,
};
use crate::cli::{EXIT_UNAVAILABLE, Failed, Output};

const HEADINGS: [&str; 12] = [
    "line",
    "operation",
    "reference",
    "transaction_id",
    "amount",
    "outcome",
    "reason",
    "operation_id",
    "key",
    "calls",
    "replayed",
    "message",
];

/// Sees to it that the file can be written.
pub(super) fn prepare(file: &Path) -> Result<(), Failed> {
    let probe = partial(file);
    fs::write(&probe, "").map_err(|error| unwritable(&probe, &error))
}

/// Writes the file whole, or leaves the one that was there.
pub(super) fn write(file: &Path, rows: &[Row], ends: &[End]) -> Result<(), Failed> {
    let partial = partial(file);
    let told = |error: &dyn std::fmt::Display| unwritable(&partial, error);
    let mut writer = csv::Writer::from_path(&partial).map_err(|error| told(&error))?;
    writer.write_record(HEADINGS).map_err(|error| told(&error))?;
    for (row, end) in rows.iter().zip(ends) {
        let amount = row.call.amount().map(|amount| amount.to_string()).unwrap_or_default();
        let (line, calls) = (row.line.to_string(), end.calls.to_string());
        let (reference, message, key) = (plain(&row.reference), plain(&end.message), row.key());
        let record: [&str; HEADINGS.len()] = [
            &line,
            row.call.operation(),
            &reference,
            row.call.transaction(),
            &amount,
            end.outcome.word(),
            &end.reason,
            &end.operation_id,
            &key,
            &calls,
            if end.replayed { "true" } else { "false" },
            &message,
        ];
        writer.write_record(record).map_err(|error| told(&error))?;
    }
    let inner = writer.into_inner().map_err(|error| told(&error))?;
    inner.sync_all().map_err(|error| told(&error))?;
    fs::rename(&partial, file).map_err(|error| unwritable(file, &error))
}

fn partial(file: &Path) -> std::path::PathBuf {
    let mut name = file.to_owned().into_os_string();
    name.push(".part");
    name.into()
}

fn unwritable(file: &Path, error: &dyn std::fmt::Display) -> Failed {
    Failed::new(
        format!("{}: cannot be written: {error}; name another by --result", file.display()),
        EXIT_UNAVAILABLE,
    )
}

/// A spreadsheet takes what begins like a formula for one.
fn plain(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}

/// How many rows came to which end, and why.
pub(super) struct Summary {
    rows: usize,
    /// By outcome and reason: how many rows, and how much.
    ends: BTreeMap<(Outcome, String), (usize, i64)>,
    replayed: usize,
}

impl Summary {
    pub(super) fn of(rows: &[Row], ends: &[End]) -> Self {
        let mut counted = BTreeMap::new();
        for (row, end) in rows.iter().zip(ends) {
            let (count, amount) = counted.entry((end.outcome, end.reason.clone())).or_insert((0, 0_i64));
            *count += 1;
            *amount = amount.saturating_add(row.call.amount().unwrap_or_default());
        }
        let replayed = ends.iter().filter(|end| end.replayed).count();
        Self { rows: rows.len(), ends: counted, replayed }
    }

    pub(super) fn text(&self, output: Output, file: &Path) -> Result<String, Failed> {
        if output == Output::Json {
            let ends = self.ends.iter().map(|((outcome, reason), (count, amount))| {
                json!({"outcome": outcome.word(), "reason": reason, "rows": count, "amount": amount.to_string()})
            });
            let summary = json!({
                "rows": self.rows, "ends": ends.collect::<Vec<_>>(), "replayed": self.replayed,
                "result_file": file.display().to_string(),
            });
            return crate::cli::json_text(&summary);
        }
        // Writing to a String cannot fail.
        let mut text = format!("{:<10} {:>7}  {:>15}  REASON\n", "OUTCOME", "ROWS", "AMOUNT");
        for ((outcome, reason), (count, amount)) in &self.ends {
            let line = format!("{:<10} {count:>7}  {amount:>15}  {reason}", outcome.word());
            text.push_str(line.trim_end());
            text.push('\n');
        }
        if self.replayed > 0 {
            _ = writeln!(text, "{} of {} rows had their end before this run", self.replayed, self.rows);
        }
        _ = writeln!(text, "each row: {}", file.display());
        Ok(text)
    }
}
