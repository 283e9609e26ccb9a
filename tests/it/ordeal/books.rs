//! Three books: what callers were told, what the journal says, what moved at the PSP.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use payops::grpc::pb::{
    self, OperationKind, OperationState, operation_review_service_client::OperationReviewServiceClient,
};
use payops::payment::id::Tag;
use reqwest::Method;
use serde_json::Value;

use crate::chaos::tag_of;
use crate::ordeal::Run;
use crate::ordeal::callers::{Asked, Told};
use crate::place::Place;
use crate::sandbox::world::World;

const PAGE: usize = 200;

/// What a process says that the journal says; nothing, where it says nothing.
pub async fn records(place: &Place, states: &[OperationState]) -> Option<Vec<pb::OperationRecord>> {
    let mut client = OperationReviewServiceClient::new(place.channel());
    let mut message = pb::ListOperationsRequest {
        states: states.iter().map(|state| i32::from(*state)).collect(),
        page_size: PAGE.try_into().unwrap(),
        ..Default::default()
    };
    let mut records = Vec::new();
    loop {
        let mut request = tonic::Request::new(message.clone());
        request.metadata_mut().insert("authorization", "Bearer token-of-anna".parse().unwrap());
        let page = client.list_operations(request).await.ok()?.into_inner();
        records.extend(page.operations);
        if page.next_page_token.is_empty() {
            return Some(records);
        }
        message.page_token = page.next_page_token;
    }
}

/// The whole journal, by key, once nothing in it is open (L1). No case is left for a person either (L2): nothing that
/// asks for one was done.
pub async fn settled(run: &Run) -> HashMap<String, pb::OperationRecord> {
    use OperationState::{InDoubt, InReview, Pending, Started};
    let place = &run.places[0];
    let began = Instant::now();
    loop {
        let open = records(place, &[Started, Pending, InDoubt, InReview]).await;
        if open.as_ref().is_some_and(Vec::is_empty) {
            break;
        }
        let count = open.as_ref().map(Vec::len);
        let such = open.iter().flatten().next();
        assert!(began.elapsed() < run.settles, "{count:?} are still open, such as {such:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("settled {:?} after the last fault", began.elapsed());
    let mut books = Vec::new();
    for place in &run.places {
        let all = records(place, &[]).await.expect("it serves");
        let count = all.len();
        let by_key: HashMap<_, _> =
            all.into_iter().map(|record| (record.idempotency_key.clone(), record)).collect();
        assert_eq!(by_key.len(), count, "a key is there twice");
        books.push(by_key);
    }
    let book = books.remove(0);
    assert!(books.iter().all(|other| *other == book), "one journal, and not one answer");
    book
}

/// What moved under one tag.
struct Effect {
    kind: String,
    transaction: String,
    amount: i64,
}

async fn ledger(world: &World) -> (HashMap<String, Vec<Effect>>, usize) {
    let mut moved: HashMap<String, Vec<Effect>> = HashMap::new();
    let (mut after, mut count) = (0, 0);
    loop {
        let path = format!("/ledger?after={after}&limit=2000");
        let page = world.admin(Method::GET, &path, Value::Null).await.expect(200).json();
        let page = page.as_array().unwrap();
        let Some(last) = page.last() else { return (moved, count) };
        after = last["sequence"].as_u64().unwrap();
        count += page.len();
        for effect in page {
            let text = |name: &str| effect[name].as_str().unwrap().to_owned();
            let amount = effect["amount"].as_i64().unwrap();
            let effect_of = Effect { kind: text("kind"), transaction: text("transaction"), amount };
            moved.entry(tag_of(effect)).or_default().push(effect_of);
        }
    }
}

/// Holds the three against each other. Says how much moved.
pub async fn compare(run: &Run, asked: &[Asked], journal: &HashMap<String, pb::OperationRecord>) -> usize {
    let (mut moved, effects) = ledger(run.world()).await;
    let mut voided: BTreeMap<String, usize> = BTreeMap::new();
    for effect in moved.values().flatten().filter(|effect| effect.kind == "void") {
        *voided.entry(effect.transaction.clone()).or_default() += 1;
    }
    for (transaction, times) in &voided {
        assert_eq!(*times, 1, "{transaction} was voided twice");
    }
    let mut wrong = Vec::new();
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for asked in asked {
        let key = &asked.key;
        let tag = Tag::derive(&"orders".parse().unwrap(), &key.parse().unwrap()).to_string();
        let mine = moved.remove(&tag).unwrap_or_default();
        let record = journal.get(key).and_then(|record| record.operation.clone());
        let state = record.as_ref().map(pb::Operation::state);
        let right = |effect: &Effect| {
            let kind = match asked.kind {
                OperationKind::Capture => "capture",
                OperationKind::Refund => "refund",
                _ => "void",
            };
            let amount = asked.kind == OperationKind::Void || effect.amount == asked.amount;
            effect.kind == kind && effect.transaction == asked.transaction && amount
        };
        let there = match mine.as_slice() {
            [] => false,
            [only] if right(only) => true,
            [only] => {
                wrong.push(format!("{key}: {} of {} on {}", only.kind, only.amount, only.transaction));
                continue;
            }
            several => {
                wrong.push(format!("{key}: {} effects", several.len()));
                continue;
            }
        };
        // A void that finds the authorization released is done, too.
        let happened = there || asked.kind == OperationKind::Void && voided.contains_key(&asked.transaction);
        // S2, S3, S10, S11 of the row.
        let row = match state {
            Some(OperationState::Succeeded) => happened,
            Some(OperationState::Declined | OperationState::Released) | None => !there,
            Some(_) => false,
        };
        let (word, answer) = match asked.told.as_ref().unwrap() {
            Told::Succeeded(operation) => ("succeeded", happened && record.as_ref() == Some(operation)),
            Told::Declined(_) => ("declined", !there && state == Some(OperationState::Declined)),
            Told::Refused(_) if asked.unanswered => ("refused, perhaps overtaken", true),
            Told::Refused(_) => ("refused", !there),
            Told::NothingSent => ("nothing sent", !there),
        };
        *told.entry(word.to_owned()).or_default() += 1;
        if !row || !answer {
            wrong.push(format!("{key}: told {:?}, recorded {state:?}, moved: {there}", asked.told));
        }
    }
    println!("told: {told:?}");
    assert!(wrong.is_empty(), "seed {}: {} are wrong: {wrong:#?}", run.seed, wrong.len());
    assert!(moved.is_empty(), "seed {}: money moved that nobody asked for: {:?}", run.seed, moved.keys());
    effects
}
