//! `payops batch`: a file of captures, voids and refunds, through the boundary like any other caller's.

mod call;
mod pace;
mod progress;
mod results;
mod rows;

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, Subcommand};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::batch::{
    call::{Caller, End, Outcome},
    pace::Pace,
    progress::Progress,
    rows::{Mistake, Row},
};
use crate::cli::boundary::Boundary;
use crate::cli::{EXIT_REFUSED, Failed, Output, print, remark};

/// The file has mistakes (`EX_DATAERR`).
const EXIT_DATA: u8 = 65;
/// Not every row has its end; run it again (`EX_TEMPFAIL`).
const EXIT_AGAIN: u8 = 75;
/// The most mistakes that are told.
const TOLD_MAX: usize = 100;

/// Run a file of captures, voids and refunds
#[derive(Subcommand)]
pub enum Command {
    /// Check the whole file, then call for each row, until each has its end
    Run(Options),
}

/// Which file, and how.
#[derive(Args)]
#[command(after_help = "\
The file is CSV with a line of headings, or JSON lines with the same names:

  operation,reference,transaction_id,amount,reason
  capture,order-1001,T12345678.demoCard00000000000001,26090,
  refund,order-1001,T12345678.demoCard00000000000001,26090,the chair came back

reference is the row's own name: with the operation it makes the key, so that a file that is run again repeats nothing.
amount is in minor units: 299.90 is 29990. Other columns are the fields of CaptureRequest, VoidRequest and RefundRequest.
Rows of one transaction run in the order of the file.

Exit codes: 0 every row succeeded, 1 some were refused and the others succeeded, 65 the file has mistakes and nothing was
called, 75 some rows have no end yet: run the file again.

Examples:
  payops batch run orders.csv --dry-run
  payops batch run orders.csv --result done.csv")]
pub struct Options {
    /// The file
    file: PathBuf,
    /// Where each row's outcome is written [default: FILE.result.csv]
    #[arg(long, value_name = "FILE")]
    result: Option<PathBuf>,
    /// Let the boundary check every row, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// The most calls under way; fewer while the boundary asks for less
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    concurrency: u32,
    /// How many minutes a row is asked for until its end is definite
    #[arg(long, value_name = "MINUTES", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_080))]
    patience: u64,
    #[command(flatten)]
    boundary: Boundary,
    /// How the summary is printed: for people, or for programs
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Carries it out.
pub async fn run(command: Command) -> Result<(), Failed> {
    match command {
        Command::Run(options) => run_file(options).await,
    }
}

async fn run_file(options: Options) -> Result<(), Failed> {
    let rows = rows::read(&options.file).map_err(|wrong| mistaken(&options, &wrong))?;
    let result = options.result.clone().unwrap_or_else(|| {
        let mut name = options.file.clone().into_os_string();
        name.push(".result.csv");
        name.into()
    });
    // Before any money moves: whether there is a place for what becomes of it.
    results::prepare(&result)?;
    let (channel, authorization) = options.boundary.connect().await?;
    let caller = Caller {
        channel,
        authorization,
        validate_only: options.dry_run,
        patience: Duration::from_secs(options.patience * 60),
        stop: CancellationToken::new(),
    };
    let at_once = stop_by_ctrl_c(caller.stop.clone());
    let progress = Progress::of(rows.len());
    let ends = tokio::select! {
        ends = settle_all(&rows, &caller, options.concurrency, &progress) => ends,
        () = at_once.cancelled() => {
            return Err(Failed::new("ended at once, without a result: run the file again", EXIT_AGAIN));
        }
    };
    progress.finish();
    results::write(&result, &rows, &ends)?;
    let summary = results::Summary::of(&rows, &ends);
    print(&summary.text(options.output, &result)?)?;
    let code = match () {
        () if ends.iter().any(|end| !end.outcome.is_definite()) => EXIT_AGAIN,
        () if ends.iter().any(|end| end.outcome == Outcome::Refused) => EXIT_REFUSED,
        () => return Ok(()),
    };
    let why = match code {
        EXIT_AGAIN => "some rows have no end yet: run the file again, nothing is repeated",
        _ => "some rows were refused; the result file says why",
    };
    Err(Failed::new(why, code))
}

/// Each row's end, in their order. Rows of one transaction follow each other; others do not wait for them.
async fn settle_all(rows: &[Row], caller: &Caller, concurrency: u32, progress: &Progress) -> Vec<End> {
    let mut groups: HashMap<&str, Vec<usize>> = HashMap::new();
    for (nth, row) in rows.iter().enumerate() {
        groups.entry(row.call.transaction()).or_default().push(nth);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_unstable();
    let pace = Arc::new(Pace::new(concurrency));
    let mut tasks = JoinSet::new();
    for group in groups {
        let rows: Vec<_> = group.iter().filter_map(|nth| Some((*nth, rows.get(*nth)?.clone()))).collect();
        let (caller, pace, progress) = (caller.clone(), Arc::clone(&pace), progress.clone());
        tasks.spawn(settle_group(rows, caller, pace, progress));
    }
    let lost = End { outcome: Outcome::Unknown, ..End::not_tried("a defect: its end was not noted") };
    let mut ends = vec![lost; rows.len()];
    while let Some(group) = tasks.join_next().await {
        for (nth, end) in group.unwrap_or_default() {
            if let Some(place) = ends.get_mut(nth) {
                *place = end;
            }
        }
    }
    ends
}

async fn settle_group(
    rows: Vec<(usize, Row)>,
    caller: Caller,
    pace: Arc<Pace>,
    progress: Progress,
) -> Vec<(usize, End)> {
    let mut ends = Vec::with_capacity(rows.len());
    let mut open = None;
    for (nth, row) in rows {
        let end = match open {
            // The transaction stays reserved for it.
            Some(line) => End::not_tried(&format!("waits for line {line}, of the same transaction")),
            None => caller.settle(&row, &pace).await,
        };
        if end.reason.starts_with("CREDENTIALS_") {
            // No other row will fare better.
            caller.stop.cancel();
        }
        if !end.outcome.is_definite() && end.outcome != Outcome::NotTried {
            open = open.or(Some(row.line));
        }
        progress.one(&end);
        ends.push((nth, end));
    }
    ends
}

/// The first one begins no more calls; the second one is what is returned.
fn stop_by_ctrl_c(stop: CancellationToken) -> CancellationToken {
    let at_once = CancellationToken::new();
    let second = at_once.clone();
    tokio::spawn(async move {
        for token in [stop, second] {
            if tokio::signal::ctrl_c().await.is_ok() {
                remark("stopping: what is under way has five seconds; Ctrl-C again ends at once");
                token.cancel();
            }
        }
    });
    at_once
}

fn mistaken(options: &Options, wrong: &[Mistake]) -> Failed {
    let file = options.file.display();
    let told = wrong.iter().take(TOLD_MAX).map(|Mistake { line, field, remedy }| {
        let place = if *line == 0 { format!("{file}:") } else { format!("{file}:{line}:") };
        [place.as_str(), field, remedy]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    });
    let mut told: Vec<_> = told.collect();
    if wrong.len() > TOLD_MAX {
        told.push(format!("and {} more", wrong.len() - TOLD_MAX));
    }
    told.push("nothing was called".to_owned());
    Failed::new(told.join("\n"), EXIT_DATA)
}
