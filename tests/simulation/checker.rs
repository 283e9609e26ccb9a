//! The invariants S1 to S14, held against the simulated PSP's ledger, and what
//! must be so in the end.

use std::collections::{BTreeMap, BTreeSet};

use crate::journal::entry::{Entry, State};
use crate::payment::permit::Allowed;
use crate::payment::{Command, Kind};

use super::plan::Plan;
use super::psp::{Post, Psp};
use super::shelf::Store;

/// What a caller was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Succeeded,
    Declined,
    Pending,
    InDoubt,
    Review,
    /// Behind another operation that is in review.
    Blocked,
    /// Nothing was sent; the same key may run.
    Nothing,
    /// Nothing was sent, because it cannot be done as things stand.
    No,
    /// The key belongs to another command.
    Reused,
    /// The key is older than what is kept.
    Expired,
    /// The boundary could not look into its journal.
    Unknown,
    /// A defect.
    Internal,
}

impl Reply {
    pub(super) fn is_definite(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Declined | Self::Reused | Self::Expired)
    }

    /// Whether a caller is content with it.
    pub(super) fn ends_a_call(&self) -> bool {
        self.is_definite() || *self == Self::No
    }
}

/// What the checker remembers.
#[derive(Default)]
pub(super) struct Checker {
    pub violations: Vec<String>,
    /// By tag: which life wrote the first record of each attempt.
    records: BTreeMap<(String, usize), usize>,
    posts: BTreeMap<(String, usize), usize>,
    /// Tags of which somebody in between sent a copy.
    pub repeated: BTreeSet<String>,
    /// When the call began, when it ended, what it asked, what it was told.
    pub replies: Vec<(u64, u64, Command, Reply)>,
    pub moves: BTreeMap<(&'static str, &'static str), u64>,
}

impl Checker {
    pub(super) fn violate(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    /// S6, S7, S12: each writing of a POST is preceded by a durable first record
    /// of its own, made by the same process.
    pub(super) fn written(&mut self, life: usize, post: &Post) {
        let key = (post.tag.clone(), life);
        let posts = self.posts.entry(key.clone()).or_default();
        *posts += 1;
        let records = self.records.get(&key).copied().unwrap_or_default();
        if *posts > records {
            let (posts, tag) = (*posts, &post.tag);
            self.violate(format!(
                "S6/S7/S12: {tag} was sent {posts} times by a process that recorded {records}"
            ));
        }
    }

    /// S8, S9 and section 4, at every write.
    pub(super) fn recorded(&mut self, life: usize, store: &Store, before: Option<&Entry>, after: &Entry) {
        let from = before.map_or("-", |entry| entry.state.as_str());
        let to = after.state.as_str();
        *self.moves.entry((from, to)).or_default() += 1;
        let begins = after.state.is_sending() && before.is_none_or(|entry| entry.nonce != after.nonce);
        if begins {
            *self.records.entry((after.tag().to_string(), life)).or_default() += 1;
        }
        let open =
            |row: &&Entry| row.state.is_open() && row.operation.transaction == after.operation.transaction;
        if store.rows.values().filter(open).count() > 1 {
            self.violate("S8: two open operations on one transaction");
        }
        if let Some(before) = before
            && let State::Succeeded(_) = before.state
            && before.state != after.state
        {
            self.violate(format!("S9: a succeeded operation became {to}"));
        }
        if from != to && !LEGAL.contains(&(from, to)) {
            self.violate(format!("section 4: {from} became {to}"));
        }
        if let (Some(tally), Some(spent)) = (after.tally(), &after.spent) {
            let moves = !matches!(after.state, State::Released { .. } | State::Declined(_));
            let amount = after.operation.amount().map_or(0, crate::payment::Amount::minor);
            if spent.amount != if moves { amount } else { 0 } {
                self.violate(format!("S14: an operation that is {to} counts {} of {amount}", spent.amount));
            }
            if begins && store.spent(&tally) > spent.max {
                self.violate("S14: more was begun in a day than may be");
            }
        }
        if before.is_some_and(|before| after.attempt < before.attempt) {
            self.violate("an attempt's number fell");
        }
    }

    /// What a caller was told, at once.
    pub(super) fn replied(
        &mut self,
        (began, ended): (u64, u64),
        command: &Command,
        reply: Reply,
        about: Option<&Entry>,
    ) {
        // S5
        if let Some(entry) = about
            && (entry.fingerprint != command.operation.fingerprint() || entry.caller != command.caller)
        {
            self.violate("S5: a result reached a command that does not own it");
        }
        if reply == Reply::Internal {
            self.violate("a caller was told of an internal error");
        }
        self.replies.push((began, ended, command.clone(), reply));
    }

    /// After everything has landed.
    pub(super) fn finish(&mut self, plan: &Plan, store: &Store, psp: &Psp) {
        self.effects(plan, store, psp);
        self.rows(store, psp);
        self.answers(plan, psp);
        self.days(psp);
    }

    /// S14: what a caller may begin in a day bounds what moves.
    fn days(&mut self, psp: &Psp) {
        let mut moved: BTreeMap<(String, Kind), (i64, i64)> = BTreeMap::new();
        let mut tags = BTreeSet::new();
        for (_, _, command, _) in &self.replies {
            let Ok(Allowed { day_max: Some(max) }) = command.permit.ruling("NOK") else { continue };
            let tag = command.tag().to_string();
            if self.repeated.contains(&tag) || !tags.insert(tag.clone()) {
                continue;
            }
            let ours = psp.effects.iter().filter(|effect| effect.tag.as_deref() == Some(tag.as_str()));
            // One key may be used for two meanings: what took effect says which.
            for effect in ours.filter(|effect| effect.kind != "void") {
                let kind = if effect.kind == "capture" { Kind::Capture } else { Kind::Refund };
                let sum = moved.entry((command.caller.to_string(), kind)).or_insert((0, max));
                sum.0 += effect.amount;
            }
        }
        for ((caller, kind), (sum, max)) in moved {
            if sum > max {
                self.violate(format!("S14: {caller} moved {sum} by {kind} in a day, and may {max}"));
            }
        }
    }

    fn effects(&mut self, plan: &Plan, store: &Store, psp: &Psp) {
        let mut sums: BTreeMap<&str, (i64, usize)> = BTreeMap::new();
        for effect in &psp.effects {
            if let Some(tag) = &effect.tag {
                let sum = sums.entry(tag).or_default();
                *sum = (sum.0 + effect.amount, sum.1 + 1);
            }
        }
        // The most that a key can have meant, where its row is forgotten.
        let mut asked: BTreeMap<String, i64> = BTreeMap::new();
        for (_, _, command, _) in &self.replies {
            let amount = command.operation.amount().map_or(0, crate::payment::Amount::minor);
            let most = asked.entry(command.tag().to_string()).or_default();
            *most = amount.max(*most);
        }
        let mut found = Vec::new();
        for (tag, (sum, count)) in sums {
            let repeated = self.repeated.contains(tag);
            // S11, wherever nothing was lost or forgotten.
            let row = store.rows.values().find(|row| row.tag().as_str() == tag);
            if row.is_none() && plan.loss_at.is_none() && plan.retention.is_none() {
                found.push(format!("S11: {tag} took effect and has no row"));
            }
            let known = row.map(|row| row.operation.amount().map_or(0, crate::payment::Amount::minor));
            let Some(most) = known.or(asked.get(tag).copied()) else { continue };
            let is_void = most == 0;
            if !repeated && (sum > most || (is_void && count > 1)) {
                found.push(format!("S1: {tag} moved {sum} of {most} in {count} effects"));
            }
        }
        self.violations.extend(found);
    }

    fn rows(&mut self, store: &Store, psp: &Psp) {
        for row in store.rows.values() {
            let tag = row.tag().to_string();
            let kind = row.operation.kind();
            let ours: Vec<_> =
                psp.effects.iter().filter(|effect| effect.tag.as_deref() == Some(tag.as_str())).collect();
            let sum: i64 = ours.iter().map(|effect| effect.amount).sum();
            let repeated = self.repeated.contains(&tag);
            let named = format!("{kind} {tag} ({}, attempt {})", row.state.as_str(), row.attempt);
            if ours.iter().any(|effect| {
                effect.kind != kind.as_str() || effect.transaction != row.operation.transaction.as_str()
            }) {
                self.violate(format!("S2: {named} has an effect of another kind or elsewhere"));
            }
            match &row.state {
                State::Succeeded(_) if kind == Kind::Void => {
                    let voided = psp.effects.iter().any(|effect| {
                        effect.kind == "void" && effect.transaction == row.operation.transaction.as_str()
                    });
                    if !voided {
                        self.violate(format!("S2: {named}, and nothing is void"));
                    }
                }
                // S2, S10
                State::Succeeded(_) => {
                    let amount = row.operation.amount().map_or(0, crate::payment::Amount::minor);
                    if sum != amount && !repeated {
                        self.violate(format!("S2/S10: {named}, and {sum} of {amount} moved"));
                    }
                }
                // It may have run again in what was lost: whoever brings the key
                // again has it looked up.
                State::Released { .. }
                    if store.loss.is_some_and(|loss| loss.may_hide_more(row.updated_at)) => {}
                // S3
                State::Declined(_) | State::Released { .. } => {
                    if !ours.is_empty() && !repeated {
                        self.violate(format!("S3: {named}, and it took effect"));
                    }
                }
                // L2
                State::Review { why } => {
                    // A part that moved, and the rest of which others took.
                    let amount = row.operation.amount().map_or(0, crate::payment::Amount::minor);
                    let in_part = 0 < sum && sum < amount;
                    if self.repeated.is_empty() && !in_part {
                        self.violate(format!("L2: {named}: {why}"));
                    }
                }
                // L1
                State::Started | State::Resent | State::Accepted | State::InDoubt { .. } => {
                    let next = row.reading.next_at;
                    self.violate(format!("L1: {named} is still open (next read {next:?})"));
                }
            }
        }
    }

    /// S4, and that "nothing was sent" is true.
    fn answers(&mut self, plan: &Plan, psp: &Psp) {
        let mut found = Vec::new();
        let mut definite: BTreeMap<(String, String), (u64, Reply)> = BTreeMap::new();
        for (began, ended, command, reply) in &self.replies {
            let tag = command.tag().to_string();
            let name = (tag.clone(), command.operation.fingerprint().to_string());
            match definite.get(&name) {
                // Overtaken on its way: it began before that answer was given.
                Some((at, _)) if at >= began && !reply.is_definite() => {}
                Some((_, Reply::Declined)) if plan.loss_at.is_some() => {}
                // What was lost has to be found out again.
                Some(_) if plan.loss_at.is_some() && !reply.is_definite() => {}
                Some((_, Reply::Reused | Reply::Expired)) => {}
                // An effect after a decline pages; a forgotten key is refused.
                Some((_, first))
                    if first != reply
                        && !matches!(reply, Reply::Unknown | Reply::Blocked | Reply::Expired) =>
                {
                    if !self.repeated.contains(&tag) {
                        found.push(format!("S4: {tag} was {first:?} and then {reply:?} at {ended}"));
                    }
                }
                _ => {}
            }
            if reply.is_definite() {
                definite.entry(name).or_insert((*ended, reply.clone()));
            }
            if matches!(reply, Reply::Nothing | Reply::No | Reply::Declined) && !self.repeated.contains(&tag)
            {
                let before = |effect: &&super::psp::Effect| {
                    effect.tag.as_deref() == Some(tag.as_str()) && effect.written_at < *began
                };
                // After a decline that a loss forgot, the key may have run again.
                if psp.effects.iter().any(|effect| before(&effect)) {
                    found.push(format!(
                        "S13: {tag} was told {reply:?} at {ended}, and what it had sent before took effect"
                    ));
                }
            }
        }
        self.violations.extend(found);
    }
}

/// Section 4 of the note, written down a second time. "Resent" is T12's Started.
const LEGAL: &[(&str, &str)] = &[
    ("-", "started"),
    ("released", "started"),
    ("started", "released"),
    ("started", "declined"),
    ("accepted", "declined"),
    ("in_doubt", "declined"),
    ("started", "accepted"),
    ("resent", "accepted"),
    ("in_doubt", "accepted"),
    ("started", "in_doubt"),
    ("resent", "in_doubt"),
    ("started", "succeeded"),
    ("resent", "succeeded"),
    ("accepted", "succeeded"),
    ("in_doubt", "succeeded"),
    ("released", "succeeded"),
    ("review", "succeeded"),
    ("in_doubt", "released"),
    ("started", "review"),
    ("resent", "review"),
    ("accepted", "review"),
    ("in_doubt", "review"),
    ("declined", "review"),
    ("in_doubt", "resent"),
];
