//! `payops operations`: list, show, watch and resolve, by the review service.

mod client;
mod json;
mod show;
mod table;

use clap::{Args, Subcommand, ValueEnum};

use crate::cli::boundary::Boundary;
use crate::cli::operations::client::{Reviews, refused};
use crate::cli::operations::table::{Cell, Style, Table, age, amount, decision, kind, line, state, utc};
use crate::cli::{EXIT_UNAVAILABLE, Failed, Output, json_text, print, remark};
use crate::clock::{Clock, Timestamp};
use crate::grpc::pb::{self, resolve_operation_request::Step};

/// Most operations that are asked for at once.
const PAGE: u32 = 200;
/// Longest part of a key that a list shows.
const KEY_SHOWN: usize = 32;

/// Look into operations of all callers, and end reviews
#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  payops operations list --state in-doubt --state in-review
  payops operations list --transaction T12345678.demoCard00000000000001 --output json
  payops operations resolve ID --decision succeeded --reason 'it is in the settlement report'")]
pub enum Command {
    /// List operations of all callers, the youngest first
    List(List),
    /// Show payops' record of an operation beside the PSP's events, and what they prove
    Show(One),
    /// Print each change of an operation until it is over
    Watch(One),
    /// Propose how to end a review, or confirm what another person proposed
    Resolve(Resolve),
}

/// Which boundary is asked, by a person who may review, and how the answer is printed.
#[derive(Args)]
pub struct Asking {
    #[command(flatten)]
    boundary: Boundary,
    /// For people, or for programs
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Which operation.
#[derive(Args)]
pub struct One {
    /// The operation's id
    id: String,
    #[command(flatten)]
    asking: Asking,
}

/// Which operations.
#[derive(Args)]
pub struct List {
    /// In this state; several by repeating it
    #[arg(long, value_enum)]
    state: Vec<StateName>,
    /// On transactions of this account
    #[arg(long)]
    account: Option<String>,
    /// On this transaction
    #[arg(long)]
    transaction: Option<String>,
    /// Of this caller
    #[arg(long)]
    caller: Option<String>,
    /// First recorded then or later: a time such as 2026-08-01T22:00:00Z, or an age such as 30m, 24h, 7d
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<Moment>,
    /// First recorded before then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Moment>,
    /// Most operations
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    asking: Asking,
}

/// What a person decides, or confirms.
#[derive(Args)]
#[command(group(clap::ArgGroup::new("step").required(true)))]
pub struct Resolve {
    /// The operation's id
    id: String,
    /// Propose this; another person has to confirm it
    #[arg(long, value_enum, group = "step")]
    decision: Option<DecisionName>,
    /// Confirm the proposal of this id, which another person made
    #[arg(long, value_name = "PROPOSAL", group = "step")]
    confirm: Option<String>,
    /// Why; stays in the operation's history
    #[arg(long)]
    reason: String,
    /// Confirm although the PSP shows otherwise; stays in the operation's history
    #[arg(long, conflicts_with = "decision")]
    override_evidence: bool,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Clone, Copy, ValueEnum)]
enum StateName {
    Started,
    Pending,
    InDoubt,
    Released,
    Succeeded,
    Declined,
    InReview,
}

#[derive(Clone, Copy, ValueEnum)]
enum DecisionName {
    /// It took effect
    Succeeded,
    /// It did not and will not; the caller may use a new key
    Declined,
    /// It did not and will not; the same key may run again
    Released,
}

/// A time, or how long ago it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    At(Timestamp),
    Ago(i64),
}

/// Runs the command to its end.
pub async fn run(command: Command) -> Result<(), Failed> {
    match command {
        Command::List(list) => self::list(list).await,
        Command::Show(One { id, asking }) => show(id, &asking).await,
        Command::Watch(One { id, asking }) => watch(id, &asking).await,
        Command::Resolve(resolve) => self::resolve(resolve).await,
    }
}

async fn list(list: List) -> Result<(), Failed> {
    let mut reviews = Reviews::connect(&list.asking.boundary).await?;
    let now = Clock::system().now();
    let mut request = pb::ListOperationsRequest {
        states: list.state.iter().map(|state| state.wire().into()).collect(),
        account_id: list.account.unwrap_or_default(),
        transaction_id: list.transaction.unwrap_or_default(),
        caller: list.caller.unwrap_or_default(),
        create_time_from: list.from.map(|moment| moment.wire(now)),
        create_time_until: list.until.map(|moment| moment.wire(now)),
        ..pb::ListOperationsRequest::default()
    };
    let most = usize::try_from(list.limit).unwrap_or(usize::MAX);
    let mut found: Vec<pb::OperationRecord> = Vec::new();
    loop {
        let left = list.limit.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
        request.page_size = i32::try_from(left.min(PAGE)).unwrap_or(i32::MAX);
        let page = reviews.list(request.clone()).await?;
        found.extend(page.operations);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || found.len() >= most {
            break;
        }
    }
    let more = !request.page_token.is_empty();
    if list.asking.output == Output::Json {
        let messages = found.iter().map(|record| json::value("OperationRecord", record));
        let operations = messages.collect::<Result<Vec<_>, _>>()?;
        print(&json_text(&serde_json::json!({ "operations": operations, "more": more }))?)?;
        return Ok(());
    }
    print(&listed(&found, now))?;
    if more {
        remark(&format!("there are more; --limit {} shows as many again", list.limit.saturating_mul(2)));
    }
    Ok(())
}

fn listed(found: &[pb::OperationRecord], now: Timestamp) -> String {
    if found.is_empty() {
        return "no operation fits\n".to_owned();
    }
    let headings = ["OPERATION", "AGE", "STATE", "KIND", "AMOUNT", "TRANSACTION", "CALLER", "KEY"];
    let mut table = Table::new(headings.map(str::to_owned).to_vec());
    for record in found {
        let operation = record.operation.clone().unwrap_or_default();
        table.row(vec![
            Cell::plain(&operation.operation_id),
            Cell::right(age(operation.create_time.as_ref(), now)),
            Cell::state(operation.state()),
            Cell::plain(kind(operation.kind())),
            Cell::right(amount(&operation, "")),
            Cell::plain(&operation.transaction_id),
            Cell::plain(&record.caller),
            Cell::plain(&table::cut(&record.idempotency_key, KEY_SHOWN)),
        ]);
    }
    table.text(Style::now())
}

async fn show(id: String, asking: &Asking) -> Result<(), Failed> {
    let evidence = Reviews::connect(&asking.boundary).await?.evidence(id).await?;
    let text = match asking.output {
        Output::Json => json_text(&json::value("GetOperationEvidenceResponse", &evidence)?)?,
        Output::Table => show::text(&evidence, Clock::system().now(), Style::now()),
    };
    print(&text)?;
    Ok(())
}

async fn watch(id: String, asking: &Asking) -> Result<(), Failed> {
    let mut changes = Reviews::connect(&asking.boundary).await?.watch(id).await?;
    let mut over = false;
    while let Some(change) = changes.message().await.map_err(|status| refused(&status))? {
        let record = change.record.unwrap_or_default();
        let text = match asking.output {
            Output::Json => format!("{}\n", json::value("OperationRecord", &record)?),
            Output::Table => changed(&record, Style::now()),
        };
        if !print(&text)? {
            return Ok(());
        }
        let state = record.operation.unwrap_or_default().state();
        over = matches!(
            state,
            pb::OperationState::Succeeded | pb::OperationState::Declined | pb::OperationState::Released
        );
    }
    if over {
        return Ok(());
    }
    Err(Failed::new("the boundary stopped before the operation was over: watch it again", EXIT_UNAVAILABLE))
}

/// The latest change, in one line.
fn changed(record: &pb::OperationRecord, style: Style) -> String {
    let last = record.history.last().cloned().unwrap_or_default();
    let note = line(&[&last.changed_by, &last.note], ": ");
    let attempt = format!("attempt {}", last.attempt);
    let text =
        [format!("{} UTC", utc(last.change_time.as_ref())), style.state(last.state(), 9), attempt, note]
            .join("  ");
    format!("{}\n", text.trim_end())
}

async fn resolve(resolve: Resolve) -> Result<(), Failed> {
    let Resolve { id, decision: decided, confirm, reason, override_evidence, asking } = resolve;
    let step = match (decided, confirm) {
        (Some(decision), _) => Step::Decision(decision.wire().into()),
        (None, proposal) => Step::ProposalId(proposal.unwrap_or_default()),
    };
    let confirms = matches!(step, Step::ProposalId(_));
    let request =
        pb::ResolveOperationRequest { operation_id: id.clone(), step: Some(step), reason, override_evidence };
    let done = Reviews::connect(&asking.boundary).await?.resolve(request).await?;
    if asking.output == Output::Json {
        print(&json_text(&json::value("ResolveOperationResponse", &done)?)?)?;
        return Ok(());
    }
    let record = done.record.unwrap_or_default();
    let state = state(record.operation.unwrap_or_default().state());
    let text = match record.proposal {
        Some(proposal) if !confirms => format!(
            "proposed: {}. Nothing is decided yet. Let another person look, and confirm it:\n\n  \
             payops operations show {id}\n  \
             payops operations resolve {id} --confirm {} --reason '…'\n",
            decision(proposal.decision()),
            proposal.proposal_id
        ),
        _ if done.ended_by_proof => {
            format!("the PSP's own events prove it: {state}. That was recorded instead of the decision.\n")
        }
        _ => format!("decided: {state}. The caller who repeats its key is answered so.\n"),
    };
    print(&text)?;
    Ok(())
}

impl StateName {
    fn wire(self) -> pb::OperationState {
        match self {
            Self::Started => pb::OperationState::Started,
            Self::Pending => pb::OperationState::Pending,
            Self::InDoubt => pb::OperationState::InDoubt,
            Self::Released => pb::OperationState::Released,
            Self::Succeeded => pb::OperationState::Succeeded,
            Self::Declined => pb::OperationState::Declined,
            Self::InReview => pb::OperationState::InReview,
        }
    }
}

impl DecisionName {
    fn wire(self) -> pb::OperationDecision {
        match self {
            Self::Succeeded => pb::OperationDecision::Succeeded,
            Self::Declined => pb::OperationDecision::Declined,
            Self::Released => pb::OperationDecision::Released,
        }
    }
}

impl Moment {
    fn wire(self, now: Timestamp) -> prost_types::Timestamp {
        let Timestamp(at) = match self {
            Self::At(at) => at,
            Self::Ago(millis) => Timestamp(now.0.saturating_sub(millis)),
        };
        let nanos = i32::try_from(at.rem_euclid(1000).saturating_mul(1_000_000)).unwrap_or_default();
        prost_types::Timestamp { seconds: at.div_euclid(1000), nanos }
    }
}

fn moment(text: &str) -> Result<Moment, String> {
    let wrong =
        || "expected a time such as 2026-08-01T22:00:00Z, or an age such as 30m, 24h or 7d".to_owned();
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(Moment::At(Timestamp(at.as_millisecond())));
    }
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    // No sign: an age is not in the future.
    let count: u32 = digits.parse().map_err(|_| wrong())?;
    Ok(Moment::Ago(i64::from(count).saturating_mul(seconds).saturating_mul(1000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_an_age() {
        assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(Moment::At(Timestamp(1000))));
        assert_eq!(moment("1970-01-01T01:00:01+01:00"), Ok(Moment::At(Timestamp(1000))));
        for (text, seconds) in [("30s", 30), ("3m", 180), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(moment(text), Ok(Moment::Ago(seconds * 1000)), "{text}");
        }
        for wrong in ["", "h", "1", "-1h", "1.5h", "1 h", "1w", "yesterday", "2026-08-01", "1å"] {
            assert!(moment(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(
            Moment::Ago(1500).wire(Timestamp(1000)),
            prost_types::Timestamp { seconds: -1, nanos: 500_000_000 }
        );
    }
}
