//! The wrong designs that people really build, each switchable inside the real
//! code, and only in the tests: a harness that does not catch them proves
//! nothing about the right one.

use std::cell::Cell;

/// A wrong design.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Design {
    /// A timeout is taken for "nothing happened": send again.
    ResendOnTimeout,
    /// Send first, record afterwards.
    SendBeforeRecord,
    /// A read that shows nothing is taken for "it did not happen".
    AbsenceIsNo,
    /// Whoever takes over an expired lease lets it run again.
    ResendAfterLease,
    /// An event of the right amount is taken for ours.
    MatchByAmount,
    /// A 5xx is taken for a no.
    ServerErrorIsNo,
    /// A 200 is taken for a yes.
    OkIsYes,
    /// A 202 is taken for a yes.
    AcceptedIsYes,
    /// A failover to a copy that lags, and nobody notices.
    LossUnnoticed,
    /// Absence is believed without waiting until the token is dead.
    NoFence,
    /// Two replicas begin again after a release; neither compares.
    RetryWithoutCompare,
    /// "Connection closed before the answer was complete" is taken for "not sent".
    ResendOnIncomplete,
    /// The same key is the same command, whatever it says.
    NoFingerprint,
    /// Keys are forgotten while they may still be retried.
    ForgottenEarly,
    /// A judgement about attempt n is written whatever attempt there is now.
    JudgementWithoutAttempt,
    /// A refund is sent again where the sum would allow only one.
    RefundResent,
    /// The token is taken when sending, not before the record.
    TokenAtSend,
}

impl Design {
    /// All of them.
    pub(crate) const ALL: [Self; 17] = [
        Self::ResendOnTimeout,
        Self::SendBeforeRecord,
        Self::AbsenceIsNo,
        Self::ResendAfterLease,
        Self::MatchByAmount,
        Self::ServerErrorIsNo,
        Self::OkIsYes,
        Self::AcceptedIsYes,
        Self::LossUnnoticed,
        Self::NoFence,
        Self::RetryWithoutCompare,
        Self::ResendOnIncomplete,
        Self::NoFingerprint,
        Self::ForgottenEarly,
        Self::JudgementWithoutAttempt,
        Self::RefundResent,
        Self::TokenAtSend,
    ];
}

thread_local! {
    static ON: Cell<Option<Design>> = const { Cell::new(None) };
}

/// From now on this thread's code has this design; none for the right one.
pub(crate) fn switch(design: Option<Design>) {
    ON.set(design);
}

/// Whether this thread's code has the design.
pub(crate) fn is_on(design: Design) -> bool {
    ON.get() == Some(design)
}
