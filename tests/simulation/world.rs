//! One history: the real layers of some processes in one thread, under virtual
//! time, between simulated callers, a simulated journal and a simulated PSP.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::clock::{Clock, Timestamp};
use crate::conclude::Conclude;
use crate::config::Config;
use crate::journal::entry::{Entry, Schedule};
use crate::operations::{Limits, Operations};
use crate::payment::{Command, fresh};
use crate::psp::dintero::Dintero;
use crate::psp::guard::{self, Guarded, circuit};
use crate::reconcile::{ReadBack, decide::Rules};

use super::checker::Checker;
use super::dice::{Dice, mix};
use super::line::{Line, nap};
use super::plan::{Bias, Blow, Plan, Rates};
use super::point::{self, Life, Point};
use super::psp::{Post, Psp};
use super::shelf::{Shelf, Store};
use super::stage::Stage;

/// The wall clock at the beginning.
const EPOCH: i64 = 1_700_000_000_000;

pub(super) type Handle = Operations<Shelf, Guarded<Stage<Dintero<Line>>>>;

/// A process that serves.
#[derive(Clone)]
pub(super) struct Boundary {
    pub life: Life,
    pub operations: Handle,
}

/// Everything that is shared, in one place.
#[derive(Clone)]
pub(super) struct Sim {
    world: Arc<Mutex<World>>,
    travelling: Arc<AtomicUsize>,
}

pub(super) struct World {
    pub plan: Plan,
    pub dice: Dice,
    pub psp: Psp,
    pub store: Store,
    pub checker: Checker,
    pub stats: BTreeMap<&'static str, u64>,
    pub commands: Vec<Command>,
    healed: bool,
    hash: u64,
    lives: Vec<(usize, CancellationToken, u64)>,
    boundaries: Vec<Option<Boundary>>,
    struck: bool,
    told: bool,
}

/// What a history came to.
pub(super) struct Report {
    pub violations: Vec<String>,
    pub hash: u64,
    pub stats: BTreeMap<&'static str, u64>,
    pub moves: BTreeMap<(&'static str, &'static str), u64>,
    pub effects: usize,
}

/// Milliseconds since the beginning.
pub(super) fn now() -> u64 {
    START.with(|start| u64::try_from(start.get().map_or(0, |at| at.elapsed().as_millis())).unwrap())
}

/// The time that a clock without a fault shows.
pub(super) fn wall() -> Timestamp {
    Timestamp(EPOCH + i64::try_from(now()).unwrap())
}

thread_local! {
    static START: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
}

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let mut config = Config::sandbox(nowhere, nowhere, "unused");
    config.psp.attempt_timeout = Duration::from_secs(5);
    config.psp.late_answer_timeout = Duration::from_secs(20);
    config.psp.read_timeout = Duration::from_secs(3);
    config.psp.token_timeout = Duration::from_secs(3);
    config
});

/// How long after the fence absence is believed, in all.
const SETTLE_MAX: Duration = Duration::from_mins(1);
const READ_LAG_MAX: Duration = Duration::from_secs(20);
/// Reads on schedule that a process has under way at once.
pub(super) const READS_MAX: usize = 4;

impl Sim {
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        f(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Something that goes on outside of every process.
    pub(super) fn travel(&self, journey: impl Future<Output = ()> + Send + 'static) {
        let travelling = Arc::clone(&self.travelling);
        travelling.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            journey.await;
            travelling.fetch_sub(1, Ordering::SeqCst);
        });
    }

    pub(super) fn has_landed(&self) -> bool {
        self.travelling.load(Ordering::SeqCst) == 0
    }

    /// Starts the processes.
    pub(super) fn serve(&self) {
        for replica in 0..self.with(|world| world.plan.replicas) {
            tokio::spawn(supervise(self.clone(), replica));
        }
    }

    /// Some process that serves now.
    pub(super) fn boundary(&self) -> Option<Boundary> {
        self.with(|world| {
            let alive: Vec<_> = world.boundaries.iter().flatten().filter(|b| b.life.is_alive()).collect();
            (!alive.is_empty()).then(|| world.dice.pick(&alive).clone())
        })
    }
}

impl World {
    fn new(plan: Plan) -> Self {
        let mut psp = Psp::default();
        let mut dice = Dice::new(plan.seed);
        for number in 0..plan.transactions {
            psp.open(number, 1_000);
        }
        let commands = super::callers::commands(&plan, &mut dice);
        Self {
            dice,
            psp,
            store: Store::default(),
            checker: Checker::default(),
            stats: BTreeMap::new(),
            commands,
            healed: false,
            hash: plan.seed,
            lives: Vec::new(),
            boundaries: vec![None; plan.replicas],
            struck: false,
            told: std::env::var_os("PAYOPS_TELL").is_some(),
            plan,
        }
    }

    /// The rates as they are: after the healing nothing fails.
    pub(super) fn rates(&self) -> Rates {
        if self.healed { Rates::default() } else { self.plan.rates }
    }

    /// Whether a fault happens, counted.
    pub(super) fn happens(&mut self, name: &'static str, rate: impl FnOnce(&Rates) -> u32) -> bool {
        let rates = self.rates();
        let happens = self.dice.happens(rate(&rates));
        if happens {
            self.tell(|| name.to_owned());
            self.count(name);
            self.note(name, 0, 0);
        }
        happens
    }

    pub(super) fn count(&mut self, name: &'static str) {
        *self.stats.entry(name).or_default() += 1;
    }

    /// For whoever looks at one history: `PAYOPS_TELL=1 PAYOPS_SEED=7`.
    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        if self.told {
            super::proof::say(&format!("{:>9} {}", now(), what()));
        }
    }

    /// Part of the trace: the same seed has to give the same.
    pub(super) fn note(&mut self, what: &'static str, a: u64, b: u64) {
        let name = what.bytes().fold(0_u64, |sum, byte| mix(sum ^ u64::from(byte)));
        self.hash = mix(self.hash ^ name ^ mix(now()) ^ mix(a).rotate_left(7) ^ mix(b).rotate_left(13));
    }

    pub(super) fn paused_for(&self, life: usize) -> u64 {
        self.lives.get(life).map_or(0, |(_, _, until)| until.saturating_sub(now()))
    }

    pub(super) fn is_latest(&self, life: &Life) -> bool {
        self.lives.iter().rposition(|(replica, ..)| *replica == life.replica) == Some(life.id)
    }

    pub(super) fn kill(&mut self, life: &Life) {
        self.count("crash");
        life.died.cancel();
    }

    /// Decides whether the process is hit at this moment, and hits it. What is
    /// returned is how long this one task stands still.
    pub(super) fn blow(&mut self, life: &Life, point: Point) -> u64 {
        self.note("point", u64::from(point as u8), life.id as u64);
        if let Some(directed) = self.plan.directed {
            if directed.point == point && !self.struck {
                self.struck = true;
                self.hit(life, directed.blow);
            }
            return 0;
        }
        if let Some(bias) = self.plan.bias {
            let near = match bias {
                Bias::LateToken => matches!(point, Point::Recorded | Point::BeforeSend | Point::Prepare),
                Bias::LateJudgement => point == Point::BeforeJudgement,
                Bias::Refunds => false,
            };
            if near && self.happens("pause", |rates| rates.pause) {
                let pause = self.dice.between(60_000, 300_000);
                self.hit(life, Blow::Pause(pause));
            }
            return 0;
        }
        let rates = self.rates();
        if self.dice.happens(rates.crash) {
            self.hit(life, Blow::Crash);
        } else if self.dice.happens(rates.pause) {
            let pause = self.dice.delay(1_500_000);
            self.hit(life, Blow::Pause(pause));
        } else if self.happens("stall", |rates| rates.stall) {
            return self.dice.delay(20_000);
        }
        0
    }

    fn hit(&mut self, life: &Life, blow: Blow) {
        self.tell(|| format!("life {} is hit: {blow:?}", life.id));
        self.note(point::name(blow), life.id as u64, 0);
        match blow {
            Blow::Crash => self.kill(life),
            Blow::Pause(ms) => {
                self.count("pause");
                if let Some((_, _, until)) = self.lives.get_mut(life.id) {
                    *until = now() + ms;
                }
            }
        }
    }

    pub(super) fn on_written(&mut self, life: &Life, post: &Post) {
        self.tell(|| format!("life {} sends {post:?}", life.id));
        self.count("posts");
        self.note("post", post.amount.unsigned_abs(), life.id as u64);
        self.checker.written(life.id, post);
    }

    pub(super) fn on_recorded(&mut self, life: &Life, before: Option<&Entry>, after: &Entry) {
        self.tell(|| {
            let (from, to) = (before.map_or("-", |entry| entry.state.as_str()), &after.state);
            format!(
                "life {} writes {} {} {from} -> {to:?}, {:?}",
                life.id,
                after.tag(),
                after.attempt,
                after.reading
            )
        });
        let Self { checker, store, .. } = self;
        checker.recorded(life.id, store, before, after);
    }

    /// Nobody is hurt any more; who is down comes up.
    fn heal(&mut self) {
        self.healed = true;
        for (_, _, until) in &mut self.lives {
            *until = 0;
        }
    }
}

/// Runs one history from its plan.
pub(super) fn run(plan: Plan) -> Report {
    alone(plan, history)
}

/// Runs something in a world of its own, from its plan.
pub(super) fn alone<R, F: Future<Output = R>>(plan: Plan, goes: impl FnOnce(Sim) -> F) -> R {
    fresh::seeded::set(Some(plan.seed));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let sim = Sim { world: Arc::new(Mutex::new(World::new(plan))), travelling: Arc::default() };
    let result = runtime.block_on(async {
        START.set(Some(Instant::now()));
        goes(sim).await
    });
    // What still stands at a gate ends here.
    drop(runtime);
    fresh::seeded::set(None);
    result
}

async fn history(sim: Sim) -> Report {
    let plan = sim.with(|world| world.plan.clone());
    let (trouble, loss_at, retention) = (plan.trouble, plan.loss_at, plan.retention);
    let fence = plan.token_life + SETTLE_MAX + READ_LAG_MAX;
    sim.serve();
    let calling = super::callers::start(&sim);
    if let Some(at) = loss_at {
        let sim = sim.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(at)).await;
            sim.with(|world| {
                world.count("journal lost");
                let back = world.dice.between(1, 30_000);
                let skew = Duration::from_millis(world.plan.skew * 2);
                world.store.lose_since(now().saturating_sub(back), fence, fence, skew);
                // An embedded journal is lost with its process.
                if world.plan.replicas == 1
                    && let Some(boundary) = world.boundaries[0].clone()
                {
                    world.kill(&boundary.life);
                }
            });
        });
    }
    if plan.replicas > 1 && plan.rates.failover > 0 {
        let sim = sim.clone();
        tokio::spawn(async move {
            loop {
                nap(&sim, 20_000).await;
                if !sim.with(|world| world.happens("failover", |rates| rates.failover)) {
                    continue;
                }
                sim.with(|world| world.store.alone = true);
                nap(&sim, 20_000).await;
                sim.with(|world| {
                    let undone = world.store.fail_over();
                    *world.stats.entry("undone by a failover").or_default() += undone as u64;
                });
            }
        });
    }
    if let Some(retention) = retention {
        let sim = sim.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(retention / 8).await;
                sim.with(|world| {
                    let before = Timestamp(wall().0 - i64::try_from(retention.as_millis()).unwrap());
                    let gone = world.store.forget(before);
                    *world.stats.entry("forgotten").or_default() += gone as u64;
                });
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(trouble)).await;
    sim.with(World::heal);
    calling.await_all().await;
    settle(&sim).await;
    sim.with(|world| {
        // They hold what holds them.
        world.boundaries.clear();
        let World { checker, store, psp, plan, .. } = world;
        checker.finish(plan, store, psp);
        Report {
            violations: std::mem::take(&mut checker.violations),
            hash: world.hash,
            stats: std::mem::take(&mut world.stats),
            moves: std::mem::take(&mut world.checker.moves),
            effects: world.psp.effects.len(),
        }
    })
}

/// Until everything has landed and nothing is open but reviews; in vain after a
/// time in which it must be so.
async fn settle(sim: &Sim) {
    for _ in 0..2_000 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let open = sim.with(|world| {
            world.store.rows.values().any(|row| row.state.is_open() && row.state.as_str() != "review")
        });
        if !open && sim.has_landed() {
            return;
        }
    }
}

/// Starts a process, and another one whenever it is dead.
async fn supervise(sim: Sim, replica: usize) {
    loop {
        let life = sim.with(|world| {
            let id = world.lives.len();
            let died = CancellationToken::new();
            world.lives.push((replica, died.clone(), 0));
            Life { id, replica, sim: sim.clone(), died }
        });
        let boundary = start(&sim, &life);
        sim.with(|world| world.boundaries[replica] = Some(boundary));
        life.died.cancelled().await;
        let down = sim.with(|world| world.dice.delay(120_000));
        tokio::time::sleep(Duration::from_millis(down)).await;
    }
}

/// When what stays open is read again.
pub(super) fn schedule() -> Schedule {
    Schedule {
        first: [2, 5, 10, 20].map(Duration::from_secs).to_vec(),
        then: Duration::from_secs(30),
        jitter_percent: 20,
    }
}

/// The composition root of a simulated process: the real layers.
fn start(sim: &Sim, life: &Life) -> Boundary {
    let (skew, token_life, resend_captures, embedded) = sim.with(|world| {
        let skew = world.plan.skew;
        let skew = if skew == 0 { 0 } else { world.dice.between(0, 2 * skew) };
        let ahead = i64::try_from(skew).unwrap() - i64::try_from(world.plan.skew).unwrap();
        (ahead, world.plan.token_life, world.plan.resend_captures, world.plan.replicas == 1)
    });
    let clock = Clock::simulated(Timestamp(wall().0 + skew));
    let schedule = schedule();
    if embedded {
        sim.with(|world| world.store.take_over(clock.now(), &schedule));
    }
    let line = Line { life: life.clone() };
    let life_min = (token_life / 3).min(Duration::from_secs(20));
    let psp = Dintero::new(&CONFIG.psp, &CONFIG.accounts, life_min, &line, &clock);
    let psp = Stage { inner: psp, life: life.clone() };
    let guard = guard::Settings {
        in_flight_max: 8,
        circuit: circuit::Settings { failures: 10, open_for: Duration::from_secs(5) },
        attempt_timeout: CONFIG.psp.attempt_timeout,
    };
    let accounts = CONFIG.accounts.iter().map(|account| account.id.clone());
    let psp = Guarded::new(psp, accounts, guard, clock.clone());
    let conclude = Conclude { journal: Shelf { life: life.clone() }, psp, clock, schedule };
    let rules = Rules {
        settle_max: SETTLE_MAX,
        read_lag_max: READ_LAG_MAX,
        absent_reads_apart: Duration::from_secs(5),
        failed_event_settles_after: SETTLE_MAX,
        partial_review_after: Duration::from_mins(4),
        accepted_review_after: Duration::from_hours(2),
        unreadable_review_after: Duration::from_hours(1),
        resend_after: Duration::from_secs(20),
        resend_captures,
    };
    let limits = Limits {
        in_flight_max: 8,
        attempt_timeout: CONFIG.psp.attempt_timeout,
        send_window: Duration::from_secs(2),
        lease_grace: Duration::from_secs(3),
    };
    let read_back = ReadBack::new(
        conclude.clone(),
        rules,
        limits.resend(&conclude),
        READS_MAX,
        crate::trace::Tracer::off(),
    );
    tokio::spawn(read_back.clone().run_every(Duration::from_millis(1_500), CancellationToken::new()));
    let operations =
        Operations::new(conclude, read_back, &limits, TaskTracker::new(), CancellationToken::new());
    Boundary { life: life.clone(), operations }
}
