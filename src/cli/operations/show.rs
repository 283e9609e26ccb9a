//! Our record, the PSP's side and the verdict, within a hundred columns.

use crate::cli::operations::table::{
    Style, age, amount, decision, duration, kind, line, state, utc, verdict, wrap,
};
use crate::clock::Timestamp;
use crate::grpc::pb;

/// The whole.
const WIDTH: usize = 100;
/// Each half; " | " stands between them.
const LEFT: usize = 48;
const RIGHT: usize = WIDTH - LEFT - 3;
/// The names in front of values.
const NAME: usize = 12;

/// Everything that a person needs to decide.
pub(super) fn text(evidence: &pb::GetOperationEvidenceResponse, now: Timestamp, style: Style) -> String {
    let record = evidence.record.clone().unwrap_or_default();
    let operation = record.operation.clone().unwrap_or_default();
    let currency = evidence.psp.as_ref().map_or("", |psp| psp.currency_code.as_str());
    let mut lines = beside(&ours(&record, &operation, currency, now), &theirs(evidence, now), style);
    lines.push(String::new());
    let (word, why) = (verdict(evidence.verdict()), &evidence.verdict_reason);
    let word = if evidence.psp.is_none() { "UNREAD" } else { word };
    lines.extend(hanging("VERDICT", &format!("{word}: {why}"), style));
    if let Some(proposal) = &record.proposal {
        let waits = format!(
            "{} proposes {}, {} ago: {}",
            proposal.proposed_by,
            decision(proposal.decision()),
            age(proposal.propose_time.as_ref(), now),
            proposal.reason
        );
        lines.extend(hanging("PROPOSAL", &waits, style));
    }
    lines.extend(next(&record, operation.state(), &operation.operation_id, style));
    lines.push(String::new());
    lines.push(style.bold("HISTORY (UTC)"));
    for change in &record.history {
        let head = format!(
            "{}  {:<2} {:9}  ",
            utc(change.change_time.as_ref()),
            change.attempt,
            state(change.state())
        );
        let note = line(&[&change.changed_by, &change.note], ": ");
        let indent = " ".repeat(head.chars().count());
        for (index, part) in wrap(&note, WIDTH - head.chars().count()).iter().enumerate() {
            let before = if index == 0 { &head } else { &indent };
            lines.push(format!("{before}{part}").trim_end().to_owned());
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// What this person, or the next one, does now.
fn next(record: &pb::OperationRecord, state: pb::OperationState, id: &str, style: Style) -> Vec<String> {
    if state != pb::OperationState::InReview {
        return Vec::new();
    }
    let mut lines = vec![String::new(), style.bold("NEXT")];
    lines.push(format!("payops operations resolve {id} \\"));
    lines.push(match &record.proposal {
        None => "  --decision succeeded|declined|released --reason '…'".to_owned(),
        Some(proposal) => format!("  --confirm {} --reason '…'", proposal.proposal_id),
    });
    lines
}

fn ours(
    record: &pb::OperationRecord,
    operation: &pb::Operation,
    currency: &str,
    now: Timestamp,
) -> Vec<String> {
    let reading = record.read_back.clone().unwrap_or_default();
    let since = age(operation.update_time.as_ref(), now);
    let quiet = record.quiet_time.map_or(0, |time| time.seconds.saturating_sub(now.0.div_euclid(1000)));
    let ahead = |time: Option<&prost_types::Timestamp>| {
        time.map(|time| duration(time.seconds.saturating_sub(now.0.div_euclid(1000))))
    };
    let mut lines = vec!["OUR RECORD".to_owned()];
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            lines.extend(named(name, value, LEFT));
        }
    };
    put("operation", &operation.operation_id);
    put("asked", &line(&[kind(operation.kind()), &amount(operation, currency)], " "));
    put("transaction", &operation.transaction_id);
    put("caller", &record.caller);
    put("key", &record.idempotency_key);
    put("state", &format!("{}, for {since}", state(operation.state())));
    put("why", &operation.note);
    if let Some(decline) = &operation.decline {
        put("why", &decline.message);
    }
    put("recorded", &format!("{} UTC", utc(operation.create_time.as_ref())));
    let resent =
        if record.resends > 0 { format!(", {} while in doubt", record.resends) } else { String::new() };
    put("attempts", &format!("{}{resent}", operation.attempt));
    put("reference", &operation.event_reference);
    put("tag", &record.tag);
    put("accepted as", &record.accepted_request_id);
    put("token dead", &format!("{} UTC", utc(record.fence_time.as_ref())));
    put(
        "can arrive",
        &if quiet >= 0 { format!("for another {}", duration(quiet)) } else { "no more".to_owned() },
    );
    let next = ahead(reading.next_read_time.as_ref()).map(|wait| format!(", next in {wait}"));
    put("reads", &format!("{}{}", reading.reads, next.unwrap_or_default()));
    if !reading.finding.is_empty() {
        put("they show", &format!("{} ({} in a row)", reading.finding, reading.equal_reads));
    }
    lines
}

fn theirs(evidence: &pb::GetOperationEvidenceResponse, now: Timestamp) -> Vec<String> {
    let mut lines = vec!["THE PSP".to_owned()];
    let Some(psp) = &evidence.psp else {
        lines.extend(named("not read", &evidence.psp_unread_reason, RIGHT));
        return lines;
    };
    let sums = psp.sums.unwrap_or_default();
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            lines.extend(named(name, value, RIGHT));
        }
    };
    put("read", &format!("{} ago", age(psp.read_time.as_ref(), now)));
    put("status", &psp.status_raw);
    put("paid by", &psp.payment_product_type);
    put("order", &psp.merchant_reference);
    let money = |minor: i64| line(&[&minor.to_string(), &psp.currency_code], " ");
    put("authorized", &money(sums.authorized));
    put("captured", &money(sums.captured));
    put("refunded", &money(sums.refunded));
    put("by this key", &money(psp.moved));
    lines.push(String::new());
    lines.push("THE PSP'S EVENTS (* ours)".to_owned());
    for shown in &psp.events {
        let event = shown.event.clone().unwrap_or_default();
        let outcome = match (shown.undecided, event.success) {
            (true, _) => "undecided",
            (false, true) => "done",
            (false, false) => "FAILED",
        };
        let earlier = if shown.of_earlier_attempt { "of an earlier attempt" } else { "" };
        let head = line(&[&event.event, &event.amount.to_string(), outcome, earlier], " ");
        lines.extend(wrapped(if shown.ours { "* " } else { "  " }, &head));
        let error = line(&[&event.error_types.join(","), &event.error_message], ": ");
        let below = line(&[&utc(event.event_time.as_ref()), &error, &shown.why], ", ");
        lines.extend(wrapped("    ", &below));
    }
    lines
}

fn wrapped(before: &str, text: &str) -> Vec<String> {
    wrap(text, RIGHT - before.len()).iter().map(|part| format!("{before}{part}")).collect()
}

fn named(name: &str, value: &str, width: usize) -> Vec<String> {
    let parts = wrap(value, width - NAME);
    let first = std::iter::once(name).chain(std::iter::repeat(""));
    parts.iter().zip(first).map(|(part, name)| format!("{name:NAME$}{part}")).collect()
}

fn hanging(name: &str, text: &str, style: Style) -> Vec<String> {
    let parts = wrap(text, WIDTH - NAME);
    let names = std::iter::once(name).chain(std::iter::repeat(""));
    let bold = |name: &str| style.bold(&format!("{name:NAME$}"));
    parts.iter().zip(names).map(|(part, name)| format!("{}{part}", bold(name))).collect()
}

/// Two columns, the first line of each a heading.
fn beside(left: &[String], right: &[String], style: Style) -> Vec<String> {
    let rows = left.len().max(right.len());
    let part = |column: &[String], row: usize| column.get(row).cloned().unwrap_or_default();
    let heading = |text: String| {
        let is_heading = text.starts_with("OUR RECORD") || text.starts_with("THE PSP");
        if is_heading { style.bold(&text) } else { text }
    };
    let row = |row: usize| {
        let left = heading(format!("{:LEFT$}", part(left, row)));
        format!("{left} | {}", heading(part(right, row))).trim_end().to_owned()
    };
    (0..rows).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the parts are, nobody's terminal breaks the lines.
    #[test]
    fn nothing_is_wider_than_a_hundred_columns() {
        let long = "x".repeat(300);
        let words = "some words and ".repeat(40);
        let operation = pb::Operation {
            operation_id: "0".repeat(36),
            transaction_id: format!("T12345678.{}", "a".repeat(64)),
            state: pb::OperationState::InReview.into(),
            amount: i64::from(i32::MAX),
            note: words.clone(),
            ..pb::Operation::default()
        };
        let change =
            pb::OperationChange { note: words.clone(), changed_by: long.clone(), ..Default::default() };
        let proposal = pb::OperationProposal {
            reason: words.clone(),
            proposal_id: "0".repeat(36),
            ..Default::default()
        };
        let event = pb::EvidenceEvent {
            event: Some(pb::TransactionEvent {
                event: long.clone(),
                error_message: words.clone(),
                ..Default::default()
            }),
            ours: true,
            why: words.clone(),
            ..Default::default()
        };
        let record = pb::OperationRecord {
            operation: Some(operation),
            idempotency_key: "k".repeat(128),
            caller: "c".repeat(255),
            history: vec![change],
            proposal: Some(proposal),
            ..Default::default()
        };
        let psp = pb::PspEvidence { events: vec![event], status_raw: long, ..Default::default() };
        for psp in [Some(psp), None] {
            let evidence = pb::GetOperationEvidenceResponse {
                record: Some(record.clone()),
                psp,
                psp_unread_reason: words.clone(),
                verdict: 0,
                verdict_reason: words.clone(),
            };
            let shown = text(&evidence, Timestamp(0), Style::plain());
            for shown in shown.lines() {
                assert!(shown.chars().count() <= WIDTH, "{shown}");
            }
        }
    }
}
