//! Words, times and columns for people.

use prost_types::Timestamp as WireTime;

use crate::cli::colours;
use crate::clock::Timestamp;
use crate::grpc::pb;

/// How text looks.
#[derive(Clone, Copy)]
pub(super) struct Style {
    colours: bool,
}

/// One cell of a table.
pub(super) struct Cell {
    text: String,
    right: bool,
    state: Option<pb::OperationState>,
}

/// Rows under headings, in columns as wide as they have to be.
pub(super) struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Style {
    /// As the terminal wants it.
    pub(super) fn now() -> Self {
        Self { colours: colours() }
    }

    /// None at all.
    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self { colours: false }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// A state's word, at least that wide, so that colours do not move columns.
    pub(super) fn state(self, of: pb::OperationState, width: usize) -> String {
        let word = state(of);
        let text = format!("{word:width$}");
        match of {
            pb::OperationState::InReview => self.paint("1;31", &text),
            pb::OperationState::InDoubt | pb::OperationState::Pending => self.paint("33", &text),
            pb::OperationState::Succeeded => self.paint("32", &text),
            _ => text,
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

impl Cell {
    pub(super) fn plain(text: &str) -> Self {
        Self { text: visible(text), right: false, state: None }
    }

    /// For numbers.
    pub(super) fn right(text: String) -> Self {
        Self { text, right: true, state: None }
    }

    pub(super) fn state(of: pb::OperationState) -> Self {
        Self { text: state(of).to_owned(), right: false, state: Some(of) }
    }
}

impl Table {
    pub(super) fn new(headings: Vec<String>) -> Self {
        Self { headings, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    pub(super) fn text(&self, style: Style) -> String {
        let length = |text: &String| text.chars().count();
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| length(&cell.text));
                cells.chain(self.headings.get(column).map(length)).max().unwrap_or_default()
            })
            .collect();
        let rights = self.rows.first().map(|row| row.iter().map(|cell| cell.right).collect::<Vec<bool>>());
        let rights = rights.unwrap_or_default();
        let headings = self.headings.iter().zip(&widths).enumerate().map(|(column, (heading, width))| {
            pad(heading, *width, rights.get(column).copied().unwrap_or_default())
        });
        let headings = headings.collect::<Vec<String>>().join("  ");
        let mut lines = vec![style.bold(headings.trim_end())];
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| match cell.state {
                Some(state) => style.state(state, *width),
                None => pad(&cell.text, *width, cell.right),
            });
            lines.push(cells.collect::<Vec<String>>().join("  ").trim_end().to_owned());
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

fn pad(text: &str, width: usize, right: bool) -> String {
    if right { format!("{text:>width$}") } else { format!("{text:width$}") }
}

/// The contract's word without its prefix.
pub(super) fn state(state: pb::OperationState) -> &'static str {
    word(state.as_str_name(), "OPERATION_STATE_")
}

pub(super) fn kind(kind: pb::OperationKind) -> &'static str {
    word(kind.as_str_name(), "OPERATION_KIND_")
}

pub(super) fn decision(decision: pb::OperationDecision) -> &'static str {
    word(decision.as_str_name(), "OPERATION_DECISION_")
}

pub(super) fn verdict(verdict: pb::EvidenceVerdict) -> &'static str {
    word(verdict.as_str_name(), "EVIDENCE_VERDICT_")
}

fn word(name: &'static str, prefix: &str) -> &'static str {
    name.strip_prefix(prefix).unwrap_or(name)
}

/// What was asked for, in minor units; a void has none.
pub(super) fn amount(operation: &pb::Operation, currency: &str) -> String {
    match operation.amount {
        0 => "-".to_owned(),
        minor => line(&[&minor.to_string(), currency], " "),
    }
}

/// The parts that are not empty.
pub(super) fn line(parts: &[&str], between: &str) -> String {
    let parts = parts.iter().copied().filter(|part| !part.is_empty());
    parts.map(visible).collect::<Vec<String>>().join(between)
}

/// To the second.
pub(super) fn utc(time: Option<&WireTime>) -> String {
    let time = time.and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok());
    time.map_or_else(|| "-".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// How long ago, in one unit: "3m".
pub(super) fn age(time: Option<&WireTime>, now: Timestamp) -> String {
    time.map_or_else(|| "-".to_owned(), |time| duration(now.0.div_euclid(1000).saturating_sub(time.seconds)))
}

/// Seconds in their largest whole unit; none are negative.
pub(super) fn duration(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// At most so many characters, with a sign that some are missing.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// Lines of at most `width` characters, broken between words where possible.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let (mut lines, mut current) = (Vec::new(), String::new());
    for word in text.split_whitespace() {
        let mut rest = visible(word);
        loop {
            let used = current.chars().count();
            let gap = usize::from(used > 0);
            if used + gap + rest.chars().count() <= width {
                if gap == 1 {
                    current.push(' ');
                }
                current.push_str(&rest);
                break;
            }
            if used > 0 {
                lines.push(std::mem::take(&mut current));
                continue;
            }
            lines.push(rest.chars().take(width.max(1)).collect());
            rest = rest.chars().skip(width.max(1)).collect();
        }
    }
    lines.push(current);
    lines
}

/// Words of others must not move the cursor.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_one_unit() {
        for (seconds, due) in [
            (-5, "0s"),
            (59, "59s"),
            (60, "1m"),
            (239, "3m"),
            (3600, "1h"),
            (172_799, "47h"),
            (172_800, "2d"),
        ] {
            assert_eq!(duration(seconds), due);
        }
        assert_eq!(age(None, Timestamp(0)), "-");
    }

    #[test]
    fn columns_are_aligned_and_numbers_stand_to_the_right() {
        let mut table = Table::new(vec!["A".to_owned(), "AMOUNT".to_owned(), "C".to_owned()]);
        table.row(vec![Cell::plain("long"), Cell::right("1".to_owned()), Cell::plain("x")]);
        table.row(vec![Cell::plain("å"), Cell::right("1000000".to_owned()), Cell::plain("")]);
        assert_eq!(table.text(Style::plain()), "A      AMOUNT  C\nlong        1  x\nå     1000000\n");
    }

    #[test]
    fn lines_are_no_wider_than_they_may_be_and_lose_nothing() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("", 3), [""]);
        assert_eq!(wrap("\u{1b}[31mred", 20), ["?[31mred"]);
    }

    #[test]
    fn colours_are_for_terminals_and_change_no_width() {
        let painted = Style { colours: true }.state(pb::OperationState::InReview, 12);
        assert_eq!(painted, "\u{1b}[1;31mIN_REVIEW   \u{1b}[0m");
        assert_eq!(Style::plain().state(pb::OperationState::InReview, 12), "IN_REVIEW   ");
    }

    #[test]
    fn what_is_cut_shows_it() {
        assert_eq!((cut("abc", 3).as_str(), cut("abcd", 3).as_str()), ("abc", "ab…"));
    }
}
