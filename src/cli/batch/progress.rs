//! How far a run is: a bar on a terminal, a line now and then elsewhere.

use std::{
    io::IsTerminal as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::{
    batch::call::{End, Outcome},
    remark,
};

/// How often a line is told where there is no terminal.
const EVERY: Duration = Duration::from_secs(5);
/// The bar has what the rest leaves of the terminal's width.
const BAR: &str = "{wide_bar} {pos}/{len}  {per_sec}  {eta} left{msg}";

#[derive(Clone)]
pub(super) struct Progress {
    shown: Shown,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Clone)]
enum Shown {
    Bar(ProgressBar),
    Lines,
}

struct Counts {
    rows: usize,
    done: usize,
    refused: usize,
    open: usize,
    began: Instant,
    told: Instant,
}

impl Progress {
    pub(super) fn of(rows: usize) -> Self {
        let shown = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(
                Some(u64::try_from(rows).unwrap_or(u64::MAX)),
                ProgressDrawTarget::stderr(),
            );
            bar.set_style(ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(250));
            Shown::Bar(bar)
        } else {
            Shown::Lines
        };
        let now = Instant::now();
        let counts = Counts { rows, done: 0, refused: 0, open: 0, began: now, told: now };
        Self { shown, counts: Arc::new(Mutex::new(counts)) }
    }

    /// A row has its end, or will not get one in this run.
    pub(super) fn one(&self, end: &End) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.done += 1;
        counts.refused += usize::from(end.outcome == Outcome::Refused);
        counts.open += usize::from(!end.outcome.is_definite());
        match &self.shown {
            Shown::Bar(bar) => {
                bar.inc(1);
                bar.set_message(counts.troubles());
            }
            Shown::Lines if counts.told.elapsed() >= EVERY => {
                counts.told = Instant::now();
                remark(&counts.line());
            }
            Shown::Lines => (),
        }
    }

    pub(super) fn finish(&self) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.shown {
            Shown::Bar(bar) => bar.finish_and_clear(),
            Shown::Lines => remark(&counts.line()),
        }
    }
}

impl Counts {
    /// `1200 of 5000 rows, 240 a second, 16s left, 3 refused`
    fn line(&self) -> String {
        let seconds = self.began.elapsed().as_millis().max(1);
        let done = u128::try_from(self.done).unwrap_or_default();
        let left = u128::try_from(self.rows - self.done).unwrap_or_default();
        let rate = done * 1000 / seconds;
        let remaining = (left * seconds).checked_div(done * 1000);
        let remaining = remaining.map_or_else(|| "?".to_owned(), |seconds| format!("{seconds}s"));
        let troubles = self.troubles();
        format!("{done} of {} rows, {rate} a second, {remaining} left{troubles}", self.rows)
    }

    fn troubles(&self) -> String {
        let told = [(self.refused, "refused"), (self.open, "without an end")];
        let told = told.iter().filter(|(count, _)| *count > 0);
        told.map(|(count, what)| format!(", {count} {what}")).collect::<Vec<_>>().concat()
    }
}
