//! Services that call the boundary: they wait, give up, come back, call twice
//! at once, mix up their keys, and want a definite answer in the end.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::idempotency::Answered;
use crate::journal::entry::{Entry, State};
use crate::operations::Patience;
use crate::payment::permit::{Allowed, Permit};
use crate::payment::{Action, Amount, Capture, Command, Guards, Kind, Operation, Refund};

use super::checker::Reply;
use super::dice::Dice;
use super::line::nap;
use super::plan::{Bias, Plan};
use super::point::Point;
use super::world::{Sim, now, wall};

/// Calls of one key before its caller is said to wait for ever.
const CALLS_MAX: u32 = 400;

/// The commands of a history. Some belong together: the same key with another
/// meaning, the same intention called twice, a new key after a doubt.
pub(super) fn commands(plan: &Plan, dice: &mut Dice) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    let intentions = match plan.directed {
        Some(directed) => 1 + usize::from(directed.second_key),
        None => plan.intentions,
    };
    let permit = permit(plan);
    for number in 0..intentions {
        let transaction = format!("T12345678.sim{}", dice.between(0, plan.transactions as u64 - 1));
        let kind = match (plan.kind, plan.bias) {
            (Some(kind), _) => kind,
            (None, Some(_)) => dice.pick(&[Kind::Refund, Kind::Refund, Kind::Capture]),
            (None, None) => dice.pick(&[Kind::Capture, Kind::Capture, Kind::Refund, Kind::Void]),
        };
        // Few amounts, so that what is ours and what is not look alike.
        let amount = Amount::new(dice.pick(&[100, 100, 300, 1_000])).unwrap();
        let plain = dice.happens(400);
        let fresh = Command {
            caller: dice.pick(&["orders", "returns"]).parse().unwrap(),
            key: if plain { format!("key-{number}") } else { minted(dice) }.parse().unwrap(),
            operation: Operation { transaction: transaction.parse().unwrap(), action: action(kind, amount) },
            guards: Guards::default(),
            permit: permit.clone(),
            traced: None,
        };
        let command = match commands.last() {
            // The same key, another meaning.
            // After a loss nobody can tell that any more.
            Some(last) if plan.directed.is_none() && plan.loss_at.is_none() && dice.happens(80) => {
                Command { operation: fresh.operation, ..last.clone() }
            }
            // The same intention once more.
            Some(last) if plan.directed.is_none() && dice.happens(150) => last.clone(),
            // The same operation under a new key.
            Some(last) if plan.directed.is_some() || dice.happens(150) => {
                Command { operation: last.operation.clone(), ..fresh }
            }
            _ => fresh,
        };
        commands.push(command);
    }
    commands
}

/// In some histories a caller may begin only so much in a day, which all of a
/// history is in. What is lost or forgotten is not counted.
fn permit(plan: &Plan) -> Permit {
    let counted = plan.directed.is_none() && plan.bias.is_none();
    let kept = plan.loss_at.is_none() && plan.retention.is_none();
    // From dice of its own: no other draw depends on it.
    let day_max = Dice::new(plan.seed ^ 0x0da1_115e).pick(&[None, None, None, None, Some(400), Some(1_300)]);
    match day_max.filter(|_| counted && kept) {
        Some(_) => Permit::plain(Ok(Allowed { day_max })),
        None => Permit::default(),
    }
}

fn action(kind: Kind, amount: Amount) -> Action {
    let (items, metadata) = (Vec::new(), BTreeMap::new());
    match kind {
        Kind::Capture => {
            Action::Capture(Capture { amount, items, reference: None, metadata, final_capture: false })
        }
        Kind::Refund => Action::Refund(Refund {
            amount,
            items,
            reference: Some("r-1".parse().unwrap()),
            reason: None,
            metadata,
            terminal_id: None,
        }),
        Kind::Void => Action::Void,
    }
}

/// A `UUIDv7` as its caller's clock makes it when the history begins.
fn minted(dice: &mut Dice) -> String {
    let millis = u64::try_from(wall().0).unwrap();
    let bytes = dice.bits().to_be_bytes();
    let mut random = [0_u8; 10];
    random[..8].copy_from_slice(&bytes);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().to_string()
}

pub(super) struct Calling(Vec<JoinHandle<()>>);

impl Calling {
    pub(super) async fn await_all(self) {
        for task in self.0 {
            if let Err(error) = task.await {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// Everybody begins. Each caller has its share of the commands, in order; who
/// gives up comes back for a definite answer when the trouble is over.
pub(super) fn start(sim: &Sim) -> Calling {
    let (commands, callers, trouble, refunds) = sim.with(|world| {
        let directed = world.plan.directed.is_some() || world.plan.bias.is_some();
        let refunds = world.commands.iter().any(|command| command.operation.kind() == Kind::Refund);
        (world.commands.clone(), world.plan.callers, world.plan.trouble, directed && refunds)
    });
    if refunds {
        sim.with(others_capture);
    }
    let mut tasks = Vec::new();
    for caller in 0..callers.min(commands.len()) {
        let mine: Vec<_> = commands.iter().skip(caller).step_by(callers).cloned().collect();
        let sim = sim.clone();
        tasks.push(tokio::spawn(async move {
            nap(&sim, 10_000).await;
            let (mut unsettled, mut asked) = (Vec::new(), Vec::new());
            for command in mine {
                let patience = sim.with(|world| if world.dice.happens(300) { 1 } else { CALLS_MAX });
                if !insist(&sim, &command, patience, trouble).await {
                    unsettled.push(command.clone());
                }
                nap(&sim, 20_000).await;
                asked.push(command);
            }
            let rest = trouble.saturating_sub(now());
            tokio::time::sleep(Duration::from_millis(rest)).await;
            for command in unsettled {
                if !insist(&sim, &command, CALLS_MAX, 0).await {
                    let tag = command.tag();
                    sim.with(|world| world.checker.violate(format!("L3: {tag} gets no definite answer")));
                }
            }
            // Whoever comes back after all is forgotten moves nothing again.
            if let Some(retention) = sim.with(|world| world.plan.retention) {
                tokio::time::sleep(retention * 2).await;
                for command in asked {
                    insist(&sim, &command, 3, 0).await;
                }
            }
        }));
    }
    let others = sim.clone();
    tokio::spawn(async move {
        loop {
            nap(&others, 20_000).await;
            others.with(|world| {
                if world.happens("others act", |rates| rates.others) {
                    others_act(world);
                }
            });
        }
    });
    Calling(tasks)
}

/// Calls until the answer is definite; false if that did not come about. Before
/// `until` that may be given up; afterwards it may not.
async fn insist(sim: &Sim, command: &Command, calls: u32, until: u64) -> bool {
    for _ in 0..calls {
        let reply = call(sim, command).await;
        match reply {
            Some(reply) if reply.ends_a_call() => return true,
            // Somebody has to decide: the caller has its answer.
            Some(Reply::Review | Reply::Blocked) if now() >= until => return true,
            _ => {}
        }
        let wait = sim.with(|world| world.dice.delay(30_000));
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
    false
}

/// One call, at some process. None where the connection broke.
async fn call(sim: &Sim, command: &Command) -> Option<Reply> {
    let boundary = sim.boundary()?;
    let began = now();
    let wait = Duration::from_millis(sim.with(|world| world.dice.between(500, 15_000)));
    let patience =
        Patience { until: Instant::now() + wait, pending_suffices: sim.with(|w| w.dice.happens(500)) };
    let call = async {
        let result = boundary.operations.carry_out(command.clone(), patience).await;
        boundary.life.point(Point::BeforeReply).await;
        result
    };
    let call = tokio::time::timeout(wait + Duration::from_secs(2), call);
    let result = tokio::select! {
        biased;
        () = boundary.life.died.cancelled() => return None,
        result = call => result.ok()?,
    };
    let (reply, entry) = reply(&result);
    sim.with(|world| {
        world.count(match reply {
            Reply::Succeeded => "reply: succeeded",
            Reply::Declined => "reply: declined",
            Reply::Pending => "reply: pending",
            Reply::InDoubt => "reply: in doubt",
            Reply::Review => "reply: review",
            Reply::Blocked => "reply: behind a review",
            Reply::Nothing => "reply: nothing was sent",
            Reply::No => "reply: no, nothing was sent",
            Reply::Reused => "reply: key reused",
            Reply::Expired => "reply: key expired",
            Reply::Unknown => "reply: not known",
            Reply::Internal => "reply: internal",
        });
        world.note("reply", reply.clone() as u64, 0);
        world.tell(|| format!("caller of {} is told {reply:?}: {result:?}", command.tag()));
        world.checker.replied((began, now()), command, reply.clone(), entry);
    });
    Some(reply)
}

fn reply(result: &Result<Answered, Failure>) -> (Reply, Option<&Entry>) {
    match result {
        Ok(answered) => (of_state(&answered.entry.state), Some(&answered.entry)),
        Err(Failure::KeyReused(_)) => (Reply::Reused, None),
        Err(Failure::KeyExpired(_)) => (Reply::Expired, None),
        // A person has to decide about what is in the way.
        Err(Failure::Busy(other)) if matches!(other.state, State::Review { .. }) => (Reply::Blocked, None),
        // Another operation is in the way; what became of this key is not told.
        Err(Failure::Busy(_)) => (Reply::Unknown, None),
        Err(Failure::Refused(..) | Failure::Denied(..) | Failure::Beyond(..)) => (Reply::No, None),
        Err(Failure::NotSent(..)) => (Reply::Nothing, None),
        // There was no time to find out.
        Err(Failure::InProgress(None)) => (Reply::Unknown, None),
        Err(Failure::InProgress(Some(entry))) => (Reply::InDoubt, Some(entry)),
        Err(Failure::Unrecorded(entry)) => (Reply::InDoubt, Some(entry)),
        Err(Failure::Journal(_) | Failure::JournalLost { .. } | Failure::Draining) => (Reply::Unknown, None),
        Err(Failure::UnknownOperation | Failure::DeadlineExceeded | Failure::Internal) => {
            (Reply::Internal, None)
        }
    }
}

fn of_state(state: &State) -> Reply {
    match state {
        State::Succeeded(_) => Reply::Succeeded,
        State::Declined(_) => Reply::Declined,
        State::Accepted => Reply::Pending,
        State::Started | State::Resent | State::InDoubt { .. } => Reply::InDoubt,
        State::Review { .. } => Reply::Review,
        State::Released { .. } => Reply::Nothing,
    }
}

/// Somebody else captures, refunds or voids, with a reference of its own.
fn others_act(world: &mut super::world::World) {
    let transactions = world.plan.transactions as u64;
    let post = super::psp::Post {
        transaction: format!("T12345678.sim{}", world.dice.between(0, transactions - 1)),
        kind: world.dice.pick(&["capture", "capture", "refund", "void"]),
        amount: world.dice.pick(&[100, 300, 1_000]),
        reference: Some("backoffice".to_owned()),
        tag: String::new(),
        agent: "backoffice".to_owned(),
        bearer: String::new(),
        written_at: now(),
    };
    if world.psp.objection(&post).is_none() {
        world.psp.apply(now(), &post, post.amount, None, true);
    }
}

/// So that there is something to refund.
fn others_capture(world: &mut super::world::World) {
    for number in 0..world.plan.transactions {
        let post = super::psp::Post {
            transaction: format!("T12345678.sim{number}"),
            kind: "capture",
            amount: 1_000,
            reference: Some("backoffice".to_owned()),
            tag: String::new(),
            agent: "backoffice".to_owned(),
            bearer: String::new(),
            written_at: 0,
        };
        // Where others capture more, there has to be something left.
        let amount = if world.plan.bias == Some(Bias::Refunds) { 300 } else { 1_000 };
        world.psp.apply(now(), &post, amount, None, true);
    }
}
