//! The moments at which a process can be hit: before and after every await
//! around an effect.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::plan::Blow;
use super::world::Sim;

/// A moment in the life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Point {
    /// Before a request is built with its token.
    Prepare,
    /// The first record is about to be written.
    BeforeRecord,
    /// It is durable, and not acknowledged.
    Recorded,
    /// It is acknowledged; the sending is about to begin.
    BeforeSend,
    /// The next thing is the first byte.
    BeforeWrite,
    /// The bytes left and have not arrived.
    Written,
    /// The PSP has them and has not acted.
    Arrived,
    /// The PSP has acted and not answered.
    Applied,
    /// The answer is there and not judged.
    Answered,
    /// The judgement is about to be written.
    BeforeJudgement,
    /// It is durable, and not acknowledged.
    Judged,
    /// It is acknowledged, and the caller not answered.
    BeforeReply,
    /// Around a read of the PSP.
    Read,
    /// Around a read of the journal.
    Look,
}

impl Point {
    /// Those between the first record and the reply, in their order.
    pub(super) const MATRIX: [Self; 11] = [
        Self::BeforeRecord,
        Self::Recorded,
        Self::BeforeSend,
        Self::BeforeWrite,
        Self::Written,
        Self::Arrived,
        Self::Applied,
        Self::Answered,
        Self::BeforeJudgement,
        Self::Judged,
        Self::BeforeReply,
    ];
}

/// One process from its start to its end.
#[derive(Clone)]
pub(super) struct Life {
    pub id: usize,
    pub replica: usize,
    pub sim: Sim,
    pub died: CancellationToken,
}

impl Life {
    /// Passes when the process lives and is not paused; a dead process stands
    /// here for ever.
    pub(super) async fn gate(&self) {
        loop {
            if self.died.is_cancelled() {
                std::future::pending::<()>().await;
            }
            let wait = self.sim.with(|world| world.paused_for(self.id));
            if wait == 0 {
                return;
            }
            // Not longer: the healing ends every pause.
            tokio::time::sleep(Duration::from_millis(wait.min(5_000))).await;
        }
    }

    /// A moment at which the process may be hit.
    pub(super) async fn point(&self, point: Point) {
        self.gate().await;
        let stall = self.sim.with(|world| world.blow(self, point));
        if stall > 0 {
            tokio::time::sleep(Duration::from_millis(stall)).await;
        }
        self.gate().await;
    }

    /// A moment outside the process, while it waits.
    pub(super) fn meanwhile(&self, point: Point) {
        if !self.died.is_cancelled() {
            self.sim.with(|world| world.blow(self, point));
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.died.is_cancelled()
    }
}

/// Blows that were dealt, by name.
pub(super) fn name(blow: Blow) -> &'static str {
    match blow {
        Blow::Crash => "crash",
        Blow::Pause(_) => "pause",
    }
}
