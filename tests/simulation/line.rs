//! The way to the PSP and back: the real client writes to it, and whatever a
//! network and a PSP can do to a request happens to it here.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::psp::dintero::transport::{Transport, TransportError};

use super::point::{Life, Point};
use super::psp::{Answer, Course, LAGS, Post, Psp, SETTLES};
use super::world::{Sim, now};

/// One process's way to the PSP.
#[derive(Clone)]
pub(super) struct Line {
    pub life: Life,
}

type Outcome = Result<Response<Bytes>, TransportError>;

impl Transport for Line {
    async fn send(&self, request: Request<Bytes>, patience: Duration) -> Outcome {
        let sim = self.life.sim.clone();
        let path = request.uri().path().to_owned();
        if path.ends_with("/auth/token") {
            self.life.gate().await;
            nap(&sim, 300).await;
            return sim.with(|world| {
                if world.happens("token endpoint down", |rates| rates.token_endpoint_down) {
                    return Err(TransportError::Unknown("the token endpoint is down".to_owned()));
                }
                let life = world.plan.token_life;
                let token = world.psp.token(now(), u64::try_from(life.as_millis()).unwrap());
                let granted =
                    json!({"access_token": token, "token_type": "Bearer", "expires_in": life.as_secs()});
                Ok(response(&answer(StatusCode::OK, granted)))
            });
        }
        let is_post = request.method() == Method::POST;
        self.life.point(if is_post { Point::BeforeWrite } else { Point::Read }).await;
        if sim.with(|world| world.happens("connection refused", |rates| rates.connect_refused)) {
            return Err(TransportError::NotSent("connection refused".to_owned()));
        }
        let bearer = bearer(&request);
        let (answered, answer) = oneshot::channel();
        let journey = Journey { life: self.life.clone(), sim: sim.clone() };
        if is_post {
            let post = post(&request, &path, bearer);
            sim.with(|world| world.on_written(&self.life, &post));
            sim.travel(async move { journey.post(post, answered).await });
        } else {
            let id = path.rsplit('/').next().unwrap_or_default().to_owned();
            sim.travel(async move { journey.get(id, bearer, answered).await });
        }
        let outcome = match tokio::time::timeout(patience, answer).await {
            Err(_) => Err(TransportError::Unknown("timed out".to_owned())),
            Ok(Err(_)) => Err(TransportError::Unknown("connection reset".to_owned())),
            Ok(Ok(outcome)) => outcome,
        };
        if is_post {
            self.life.point(Point::Answered).await;
        } else {
            self.life.gate().await;
        }
        outcome
    }
}

/// A request on its way; it lives on when its process dies.
struct Journey {
    life: Life,
    sim: Sim,
}

impl Journey {
    async fn post(self, post: Post, answered: oneshot::Sender<Outcome>) {
        self.life.meanwhile(Point::Written);
        let sim = &self.sim;
        let (lost, repeated) = sim.with(|world| {
            let lost = world.happens("request lost", |rates| rates.request_lost);
            (lost, world.happens("request repeated", |rates| rates.repeated))
        });
        if lost {
            // Nobody hears anything, or a reset.
            return self.vanish(answered).await;
        }
        if repeated {
            let (again, sim) = (post.clone(), sim.clone());
            let journey = Self { life: self.life.clone(), sim: sim.clone() };
            sim.with(|world| world.checker.repeated.insert(post.tag.clone()));
            sim.travel(async move {
                nap(&journey.sim, 5_000).await;
                drop(journey.arrive(&again).await);
            });
        }
        let delay = sim.with(|world| {
            if world.happens("request delayed", |rates| rates.request_delayed) {
                world.dice.delay(2_000_000)
            } else {
                world.dice.between(1, 200)
            }
        });
        tokio::time::sleep(Duration::from_millis(delay)).await;
        let answer = self.arrive(&post).await;
        self.deliver(answer, answered).await;
    }

    /// What the PSP does with a POST.
    async fn arrive(&self, post: &Post) -> Answer {
        let sim = &self.sim;
        self.life.meanwhile(Point::Arrived);
        enum First {
            Answer(Answer),
            Act { slow: u64, course: Course, error_after: bool },
        }
        let first = sim.with(|world| {
            if world.happens("token revoked", |rates| rates.token_refused) {
                world.psp.revoke(&post.bearer);
            }
            if !world.psp.admits(&post.bearer, now()) {
                world.count("refused: dead token");
                return First::Answer(refusal(StatusCode::UNAUTHORIZED, "invalid JWT"));
            }
            if world.happens("pushback", |rates| rates.pushback) {
                let status = world.dice.pick(&[StatusCode::CONFLICT, StatusCode::TOO_MANY_REQUESTS]);
                let mut answer = refusal(status, "busy");
                if world.dice.happens(500) {
                    answer.headers.push(("retry-after", world.dice.between(1, 20).to_string()));
                }
                return First::Answer(answer);
            }
            if world.happens("server error, nothing done", |rates| rates.server_error_before) {
                return First::Answer(server_error(world.dice.bits()));
            }
            let slow = if world.happens("slow", |rates| rates.slow) {
                world.dice.between(1, SETTLES)
            } else {
                world.dice.between(1, 100)
            };
            let rates = world.rates();
            let course = Psp::course(&mut world.dice, &rates, post.kind);
            let error_after = world.happens("server error, done", |rates| rates.server_error_after);
            First::Act { slow, course, error_after }
        });
        let (slow, course, error_after) = match first {
            First::Answer(answer) => return answer,
            First::Act { slow, course, error_after } => (slow, course, error_after),
        };
        tokio::time::sleep(Duration::from_millis(slow)).await;
        let answer = self.act(post, course, slow);
        self.life.meanwhile(Point::Applied);
        if error_after { sim.with(|world| server_error(world.dice.bits())) } else { answer }
    }

    fn act(&self, post: &Post, course: Course, spent: u64) -> Answer {
        let sim = &self.sim;
        let left = SETTLES.saturating_sub(spent).max(1);
        let shown = |psp: &Psp| {
            let body = psp.show(&post.transaction, now()).unwrap_or_default();
            answer(StatusCode::OK, body)
        };
        sim.with(|world| {
            world.count(match course {
                Course::Done => "course: done",
                Course::Declined => "course: declined",
                Course::FailedUnclearly { .. } => "course: failed unclearly",
                Course::Accepted => "course: accepted",
                Course::Split => "course: split",
            });
            if let Some(why) = world.psp.objection(post) {
                let with_event = world.dice.happens(300) && world.plan.directed.is_none();
                if with_event {
                    // A 4xx may leave a failed event [D 12 #1].
                    world.psp.fail(now(), post, None, ("INVALID_AMOUNT", why), false);
                }
                return refusal(StatusCode::BAD_REQUEST, why);
            }
            match course {
                Course::Done => {
                    world.psp.apply(now(), post, post.amount, None, true);
                    shown(&world.psp)
                }
                Course::Declined => {
                    let corrected = world.dice.happens(300);
                    world.psp.fail(now(), post, None, ("DECLINED", "no"), corrected);
                    if world.dice.happens(300) {
                        return refusal(StatusCode::UNPROCESSABLE_ENTITY, "declined");
                    }
                    shown(&world.psp)
                }
                Course::FailedUnclearly { and_yet } => {
                    world.psp.fail(now(), post, None, ("ERROR", "Operation timed out"), false);
                    if and_yet {
                        let after = world.dice.between(1, left);
                        self.later(after, post.clone(), None, true, post.amount);
                    }
                    shown(&world.psp)
                }
                Course::Accepted => {
                    let id = world.psp.begin(now(), post);
                    let ends = world.dice.between(100, 300_000);
                    let named = world.dice.happens(500);
                    self.ends(ends, post.clone(), id.clone(), named);
                    let mut answer = Answer { status: StatusCode::ACCEPTED, ..shown(&world.psp) };
                    answer.headers.push(("event-request-id", id));
                    answer
                }
                Course::Split => {
                    let first = (post.amount / 2).max(1);
                    world.psp.apply(now(), post, first, None, true);
                    let rest = post.amount - first;
                    if rest > 0 {
                        let after = world.dice.between(1, left.min(20_000));
                        self.later(after, post.clone(), None, true, rest);
                    }
                    shown(&world.psp)
                }
            }
        })
    }

    /// The effect, or the rest of it, after a time.
    fn later(&self, after: u64, post: Post, correlation: Option<String>, named: bool, amount: i64) {
        let sim = self.sim.clone();
        self.sim.travel(async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            sim.with(|world| {
                let part = Post { amount, ..post.clone() };
                if world.psp.objection(&part).is_none() {
                    world.psp.apply(now(), &post, amount, correlation.as_deref(), named);
                }
            });
        });
    }

    /// The end of what was accepted.
    fn ends(&self, after: u64, post: Post, id: String, named: bool) {
        let sim = self.sim.clone();
        self.sim.travel(async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            sim.with(|world| {
                let fails = world.happens("accepted and declined", |rates| rates.declined);
                if fails || world.psp.objection(&post).is_some() {
                    world.psp.fail(now(), &post, Some(&id), ("DECLINED", "no after all"), false);
                } else {
                    world.psp.apply(now(), &post, post.amount, Some(&id), named);
                }
            });
        });
    }

    async fn get(self, id: String, bearer: String, answered: oneshot::Sender<Outcome>) {
        let began = now();
        nap(&self.sim, 400).await;
        let answer = self.sim.with(|world| {
            world.count("reads");
            if !world.psp.admits(&bearer, now()) {
                return refusal(StatusCode::UNAUTHORIZED, "invalid JWT");
            }
            if world.happens("read fails", |rates| rates.read_fails) {
                return match world.dice.between(0, 2) {
                    0 => refusal(StatusCode::TOO_MANY_REQUESTS, "slowly"),
                    _ => server_error(world.dice.bits()),
                };
            }
            let lag = if world.happens("read lags", |rates| rates.read_lags) {
                world.dice.between(1, LAGS)
            } else {
                0
            };
            match world.psp.show(&id, now().saturating_sub(lag)) {
                Some(body) => answer(StatusCode::OK, body),
                None => refusal(StatusCode::NOT_FOUND, "no such transaction"),
            }
        });
        nap(&self.sim, 100).await;
        self.sim.with(|world| *world.stats.entry("reads: ms").or_default() += now() - began);
        drop(answered.send(Ok(response(&answer))));
    }

    /// What becomes of an answer on its way back.
    async fn deliver(self, mut answer: Answer, answered: oneshot::Sender<Outcome>) {
        enum Way {
            Arrives(u64),
            Incomplete,
            Lost,
        }
        let way = self.sim.with(|world| {
            if world.happens("answer lost", |rates| rates.answer_lost) {
                return Way::Lost;
            }
            if world.happens("answer incomplete", |rates| rates.answer_incomplete) {
                return Way::Incomplete;
            }
            if world.happens("answer garbled", |rates| rates.answer_garbled) {
                answer.body = match world.dice.between(0, 2) {
                    0 => Value::from("<html>busy</html>"),
                    1 => json!({"id": "T12345678.another", "status": "CAPTURED", "currency": "NOK", "amount": 1}),
                    _ => json!({"status": 1}),
                };
            }
            if world.happens("answer delayed", |rates| rates.answer_delayed) {
                Way::Arrives(world.dice.delay(60_000))
            } else {
                Way::Arrives(world.dice.between(1, 100))
            }
        });
        match way {
            Way::Lost => self.vanish(answered).await,
            Way::Incomplete => {
                let why = "connection closed before message completed: incomplete".to_owned();
                drop(answered.send(Err(TransportError::Unknown(why))));
            }
            Way::Arrives(delay) => {
                tokio::time::sleep(Duration::from_millis(delay)).await;
                drop(answered.send(Ok(response(&answer))));
            }
        }
    }

    /// Silence until whoever waits gives up, or a reset at once.
    async fn vanish(self, answered: oneshot::Sender<Outcome>) {
        if self.sim.with(|world| world.dice.happens(500)) {
            let mut answered = answered;
            answered.closed().await;
        }
    }
}

/// A little time passes: this is what puts tasks in another order.
pub(super) async fn nap(sim: &Sim, most: u64) {
    let nap = sim.with(|world| world.dice.between(0, most));
    tokio::time::sleep(Duration::from_millis(nap)).await;
}

fn bearer(request: &Request<Bytes>) -> String {
    let value = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default().to_owned()
}

fn post(request: &Request<Bytes>, path: &str, bearer: String) -> Post {
    let mut parts = path.rsplit('/');
    let kind = match parts.next().unwrap_or_default() {
        "capture" => "capture",
        "refund" => "refund",
        _ => "void",
    };
    let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
    let agent = request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    let agent = agent.unwrap_or_default().to_owned();
    let reference = body["capture_reference"].as_str().or(body["refund_reference"].as_str());
    Post {
        transaction: parts.next().unwrap_or_default().to_owned(),
        kind,
        amount: body["amount"].as_i64().unwrap_or_default(),
        reference: reference.map(str::to_owned),
        tag: agent.rsplit('/').next().unwrap_or_default().to_owned(),
        agent,
        bearer,
        written_at: now(),
    }
}

fn answer(status: StatusCode, body: Value) -> Answer {
    Answer { status, body, headers: Vec::new() }
}

fn refusal(status: StatusCode, why: &str) -> Answer {
    answer(status, json!({"error": {"message": why}}))
}

fn server_error(bits: u64) -> Answer {
    let all = [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_GATEWAY];
    refusal(all[usize::try_from(bits % 3).unwrap()], "something went wrong")
}

fn response(answer: &Answer) -> Response<Bytes> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    response.body(Bytes::from(answer.body.to_string())).unwrap()
}
