//! For people: what evidence cannot decide is listed, shown with both sides, and decided by two persons.

mod listing;

use std::time::Duration;

use payops::grpc::pb::{
    self, EvidenceMark, EvidenceVerdict, OperationDecision,
    OperationState::{self, Declined, InReview, Released, Succeeded},
    operation_review_service_client::OperationReviewServiceClient,
    resolve_operation_request::Step,
};
use serde_json::json;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, transport::Channel};

use crate::sandbox::world::World;
use crate::support::{Refused, TestApp, eventually, read_on_request_only, refused};

const AMOUNT: i64 = 29_990;

/// A person who reviews.
pub struct Person {
    token: String,
    client: OperationReviewServiceClient<Channel>,
}

impl TestApp {
    pub async fn anna(&self) -> Person {
        self.person("anna").await
    }

    pub async fn ben(&self) -> Person {
        self.person("ben").await
    }

    async fn person(&self, name: &str) -> Person {
        let client = OperationReviewServiceClient::new(self.channel().await);
        Person { token: format!("token-of-{name}"), client }
    }

    /// A capture of 100 that somebody in between repeated, and that is in review for it; its transaction and its id.
    pub async fn doubled(&self, key: &str) -> (String, String) {
        let card = self.world.card().await;
        self.world.fault(json!({"operation": "capture", "fault": "duplicate_application"})).await;
        let orders = self.orders().await;
        let review = orders.capture(key, &card, 100).await.unwrap_err();
        assert_eq!(review.reason(), "IN_REVIEW");
        (card, orders.operation(key).await.unwrap().operation_id)
    }
}

type Told<T> = Result<T, Box<Refused>>;

impl Person {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        request
    }

    pub async fn list(&self, message: pb::ListOperationsRequest) -> Told<pb::ListOperationsResponse> {
        let answer = self.client.clone().list_operations(self.request(message)).await;
        Ok(answer.map_err(refused)?.into_inner())
    }

    /// The keys of a page.
    async fn keys(&self, message: pb::ListOperationsRequest) -> Vec<String> {
        let page = self.list(message).await.unwrap();
        page.operations.into_iter().map(|record| record.idempotency_key).collect()
    }

    pub async fn evidence(&self, id: &str) -> Told<pb::GetOperationEvidenceResponse> {
        let message = pb::GetOperationEvidenceRequest { operation_id: id.to_owned() };
        let answer = self.client.clone().get_operation_evidence(self.request(message)).await;
        Ok(answer.map_err(refused)?.into_inner())
    }

    async fn resolve(
        &self,
        id: &str,
        step: Step,
        reason: &str,
        although: bool,
    ) -> Told<pb::ResolveOperationResponse> {
        let message = pb::ResolveOperationRequest {
            operation_id: id.to_owned(),
            step: Some(step),
            reason: reason.to_owned(),
            override_evidence: although,
        };
        let answer = self.client.clone().resolve_operation(self.request(message)).await;
        Ok(answer.map_err(refused)?.into_inner())
    }

    /// Proposes, and returns the proposal's id.
    pub async fn propose(&self, id: &str, decision: OperationDecision, reason: &str) -> Told<String> {
        let proposed = self.resolve(id, Step::Decision(decision.into()), reason, false).await?;
        let record = proposed.record.unwrap();
        assert_eq!(record.operation.unwrap().state(), InReview, "nothing is decided yet");
        Ok(record.proposal.unwrap().proposal_id)
    }

    pub async fn confirm(
        &self,
        id: &str,
        proposal: &str,
        reason: &str,
    ) -> Told<pb::ResolveOperationResponse> {
        self.resolve(id, Step::ProposalId(proposal.to_owned()), reason, false).await
    }

    async fn confirm_although(
        &self,
        id: &str,
        proposal: &str,
        reason: &str,
    ) -> Told<pb::ResolveOperationResponse> {
        self.resolve(id, Step::ProposalId(proposal.to_owned()), reason, true).await
    }
}

/// State, note and person of each change.
fn history(record: &pb::OperationRecord) -> Vec<(OperationState, &str, &str)> {
    let told = |change: &'_ pb::OperationChange| change.state();
    let changes = record.history.iter();
    changes.map(|change| (told(change), change.note.as_str(), change.changed_by.as_str())).collect()
}

fn state(response: &pb::ResolveOperationResponse) -> OperationState {
    response.record.as_ref().unwrap().operation.as_ref().unwrap().state()
}

#[tokio::test]
async fn a_review_shows_our_record_beside_the_psps_events_and_what_they_prove() {
    let app = TestApp::start().await;
    let (card, id) = app.doubled("k").await;
    // Before ours, and none of ours.
    let anna = app.anna().await;
    let evidence = anna.evidence(&id).await.unwrap();
    let record = evidence.record.unwrap();
    assert_eq!((record.caller.as_str(), record.idempotency_key.as_str()), ("orders", "k"));
    let operation = record.operation.as_ref().unwrap();
    assert_eq!((operation.state(), operation.transaction_id.as_str()), (InReview, card.as_str()));
    assert!(operation.event_reference.ends_with(&record.tag) && record.tag.len() == 13);
    let [started, review] = history(&record)[..] else { panic!("{:?}", record.history) };
    assert_eq!((started.0, review.0), (OperationState::Started, InReview));
    assert_eq!(review.1, "200 minor units moved where 100 were asked for");
    assert!(record.fence_time.unwrap().seconds < record.quiet_time.unwrap().seconds);
    let psp = evidence.psp.unwrap();
    assert_eq!((psp.currency_code.as_str(), psp.moved), ("NOK", 200));
    assert_eq!(psp.sums.unwrap().captured, 200);
    let marks: Vec<_> =
        psp.events.iter().map(|e| (e.event.as_ref().unwrap().event.as_str(), e.mark())).collect();
    assert_eq!(marks.iter().filter(|mark| **mark == ("CAPTURE", EvidenceMark::Tag)).count(), 2, "{marks:?}");
    assert!(psp.events.iter().any(|event| !event.ours && event.why == "it is no capture"), "{marks:?}");
    assert!(psp.events.iter().all(|event| event.ours == (event.mark() != EvidenceMark::Unspecified)));
    assert_eq!(evidence.verdict, i32::from(EvidenceVerdict::Contradicted));
    assert_eq!(evidence.verdict_reason, "200 minor units moved where 100 were asked for");
    assert_eq!(evidence.psp_unread_reason, "");
}

#[tokio::test]
async fn two_persons_end_a_review_and_one_does_not() {
    let app = TestApp::start().await;
    let (card, id) = app.doubled("k").await;
    let (anna, ben, orders) = (app.anna().await, app.ben().await, app.orders().await);
    let busy = orders.capture("other", &card, 1).await.unwrap_err();
    assert_eq!(busy.reason(), "TRANSACTION_BUSY");
    let proposal = anna.propose(&id, OperationDecision::Succeeded, "it moved, twice").await.unwrap();

    let alone = anna.confirm(&id, &proposal, "I am sure").await.unwrap_err();
    assert_eq!((alone.code, alone.reason()), (Code::PermissionDenied, "SECOND_PERSON_REQUIRED"));
    assert_eq!(alone.metadata("operation_id"), Some(id.as_str()));
    assert_eq!(orders.operation("k").await.unwrap().state(), InReview);

    let ended = ben.confirm(&id, &proposal, "the ledger says so too").await.unwrap();
    assert_eq!((state(&ended), ended.ended_by_proof), (Succeeded, false));
    let record = ended.record.unwrap();
    assert_eq!(record.proposal, None);
    let why = "anna: it moved, twice; confirmed by ben: the ledger says so too";
    let [.., proposed, decided] = history(&record)[..] else { panic!("{:?}", record.history) };
    assert_eq!(proposed, (InReview, "proposes succeeded: it moved, twice", "anna"));
    assert_eq!(decided, (Succeeded, why, "ben"));
    // What was read stands beside it, and the caller gets the definite answer, whoever gave it.
    let answer = orders.capture("k", &card, 100).await.unwrap();
    assert!(answer.replayed);
    assert_eq!(answer.operation.state(), Succeeded);
    let proof = answer.operation.proof.unwrap();
    assert_eq!((proof.amount, proof.sums.unwrap().captured), (200, 200));
    assert!(!proof.event_id.is_empty());
    // The slot is free.
    orders.capture("other", &card, 1).await.unwrap();
    // Nothing is decided twice.
    for again in [
        anna.confirm(&id, &proposal, "late").await.unwrap_err(),
        anna.propose(&id, OperationDecision::Declined, "late").await.unwrap_err(),
    ] {
        assert_eq!((again.code, again.reason()), (Code::FailedPrecondition, "OPERATION_NOT_IN_REVIEW"));
        assert_eq!(again.metadata("state"), Some("SUCCEEDED"));
    }
}

/// The evidence says that money moved. Whoever knows better has to say so, and it stays in the history.
#[tokio::test]
async fn a_decision_against_the_evidence_needs_to_be_asked_for_and_is_kept() {
    let app = TestApp::start().await;
    let (anna, ben, orders) = (app.anna().await, app.ben().await, app.orders().await);
    for (key, decision, ended) in
        [("d", OperationDecision::Declined, Declined), ("r", OperationDecision::Released, Released)]
    {
        let (card, id) = app.doubled(key).await;
        let proposal = ben.propose(&id, decision, "the bank reversed both").await.unwrap();
        let refused = anna.confirm(&id, &proposal, "seen").await.unwrap_err();
        assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "EVIDENCE_CONTRADICTS"));
        assert!(refused.status.message().contains("200 minor units moved"), "{}", refused.status.message());
        assert_eq!(orders.operation(key).await.unwrap().state(), InReview, "nothing was decided");
        let done = anna.confirm_although(&id, &proposal, "seen").await.unwrap();
        assert_eq!(state(&done), ended);
        let record = done.record.unwrap();
        let last = history(&record).last().copied().unwrap();
        assert_eq!(
            (last.1, last.2),
            (
                "ben: the bank reversed both; confirmed by anna: seen; although the PSP shows that 200 minor units \
                 moved, where 100 were asked for",
                "anna"
            )
        );
        let told = orders.operation(key).await.unwrap();
        assert!(!format!("{told:?}").contains("reversed"), "not the caller's to know: {told:?}");
        if ended == Declined {
            let declined = orders.capture(key, &card, 100).await.unwrap_err();
            assert_eq!((declined.code, declined.reason()), (Code::FailedPrecondition, "DECLINED"));
            assert_eq!(declined.metadata("safe_to_use_new_key"), Some("true"));
        } else {
            // The key may run again, and finds what it did before.
            let again = orders.capture(key, &card, 100).await.unwrap_err();
            assert_eq!((again.reason(), again.metadata("state")), ("IN_REVIEW", Some("IN_REVIEW")));
        }
    }
}

#[tokio::test]
async fn a_new_proposal_replaces_an_old_one() {
    let app = TestApp::start().await;
    let (_, id) = app.doubled("k").await;
    let (anna, ben) = (app.anna().await, app.ben().await);
    let old = anna.propose(&id, OperationDecision::Declined, "first thought").await.unwrap();
    let new = anna.propose(&id, OperationDecision::Succeeded, "second thought").await.unwrap();
    let never = "00000000-0000-4000-8000-000000000000";
    for wrong in [old.as_str(), never] {
        let refused = ben.confirm(&id, wrong, "agreed").await.unwrap_err();
        assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "PROPOSAL_MISMATCH"));
    }
    // A proposal of one's own takes the place of another's: nobody confirms what was not seen.
    let bens = ben.propose(&id, OperationDecision::Succeeded, "third thought").await.unwrap();
    assert_eq!(ben.confirm(&id, &new, "agreed").await.unwrap_err().reason(), "PROPOSAL_MISMATCH");
    assert_eq!(state(&anna.confirm(&id, &bens, "agreed").await.unwrap()), Succeeded);
}

#[tokio::test]
async fn only_a_review_is_decided_by_persons() {
    let app = TestApp::start_with(read_on_request_only).await;
    let (anna, orders) = (app.anna().await, app.orders().await);
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "answer_lost_before_applying"})).await;
    orders.capture("k", &card, AMOUNT).await.unwrap_err();
    let doubtful = orders.operation("k").await.unwrap();
    let refused = anna.propose(&doubtful.operation_id, OperationDecision::Declined, "I think so").await;
    let refused = refused.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::FailedPrecondition, "OPERATION_NOT_IN_REVIEW"));
    assert_eq!(refused.metadata("state"), Some("IN_DOUBT"));
    assert_eq!(orders.operation("k").await.unwrap(), doubtful);
    let unknown = anna.evidence("00000000-0000-4000-8000-000000000000").await.unwrap_err();
    assert_eq!((unknown.code, unknown.reason()), (Code::NotFound, "OPERATION_NOT_FOUND"));
}

/// A world whose reads turn unreadable at once: the review comes of that alone, and a proof may come later.
async fn unreadable() -> (TestApp, String, String) {
    let app = TestApp::start_in(World::start().await, |config| {
        config.exactly_once.unreadable_review_after = Duration::from_millis(50);
        config.read_back.schedule = vec![Duration::from_millis(10)];
        config.read_back.then_every = Duration::from_millis(10);
    })
    .await;
    let card = app.world.card().await;
    app.world.fault(json!({"operation": "capture", "fault": "answer_lost_after_applying"})).await;
    app.world.fault(json!({"operation": "get", "fault": "forbidden", "times": 100_000})).await;
    let orders = app.orders().await;
    orders.capture("k", &card, AMOUNT).await.unwrap_err();
    let id = orders.settled("k", InReview).await.operation_id;
    (app, card, id)
}

#[tokio::test]
async fn where_the_psp_cannot_be_read_the_record_is_shown_with_the_reason() {
    let (app, _, id) = unreadable().await;
    let (anna, ben) = (app.anna().await, app.ben().await);
    let evidence = anna.evidence(&id).await.unwrap();
    assert_eq!(evidence.psp, None);
    assert_eq!(evidence.psp_unread_reason, "the PSP does not show the transaction to this boundary");
    assert_eq!(evidence.verdict(), EvidenceVerdict::Unspecified);
    assert_eq!(evidence.record.unwrap().operation.unwrap().state(), InReview);
    // Two persons can decide all the same: that it was not read is kept.
    let proposal = anna.propose(&id, OperationDecision::Succeeded, "seen in the backoffice").await.unwrap();
    let done = ben.confirm(&id, &proposal, "so have I").await.unwrap();
    let record = done.record.unwrap();
    let (state, why, _) = history(&record).last().copied().unwrap();
    assert_eq!(state, Succeeded);
    assert!(
        why.ends_with(
            "although the PSP's side was not read: the PSP does not show the transaction to this boundary"
        ),
        "{why}"
    );
    let proof = record.operation.unwrap().proof.unwrap();
    assert_eq!((proof.event_id.as_str(), proof.amount), ("", 0), "empty: nothing was read");
}

#[tokio::test]
async fn proof_that_comes_while_a_proposal_waits_ends_the_review() {
    let (app, card, id) = unreadable().await;
    let (anna, ben, orders) = (app.anna().await, app.ben().await, app.orders().await);
    let proposal = anna.propose(&id, OperationDecision::Declined, "nothing is to be seen").await.unwrap();
    app.world.clear_faults().await;
    orders.settled("k", Succeeded).await;
    let late = ben.confirm(&id, &proposal, "agreed").await.unwrap_err();
    assert_eq!((late.code, late.reason()), (Code::FailedPrecondition, "OPERATION_NOT_IN_REVIEW"));
    assert_eq!(late.metadata("state"), Some("SUCCEEDED"));
    assert_eq!(orders.capture("k", &card, AMOUNT).await.unwrap().operation.state(), Succeeded);
}

/// Nobody reads back meanwhile: the confirmation itself reads, and what it proves stands above any decision.
#[tokio::test]
async fn a_confirmation_reads_once_more_and_proof_stands_above_the_decision() {
    let (mut app, card, id) = unreadable().await;
    app.drain().await;
    read_on_request_only(&mut app.config);
    app.restart_after_drain().await;
    let (anna, ben, orders) = (app.anna().await, app.ben().await, app.orders().await);
    let proposal = anna.propose(&id, OperationDecision::Released, "nothing is to be seen").await.unwrap();
    app.world.clear_faults().await;
    let ended = ben.confirm_although(&id, &proposal, "agreed").await.unwrap();
    assert_eq!((state(&ended), ended.ended_by_proof), (Succeeded, true));
    let record = ended.record.unwrap();
    assert_eq!(
        history(&record).last().copied().unwrap(),
        (Succeeded, "", ""),
        "by evidence, not by a person"
    );
    let answer = orders.capture("k", &card, AMOUNT).await.unwrap();
    assert_eq!((answer.operation.state(), answer.operation.attempt), (Succeeded, 1));
    assert_eq!(app.moved(&card).await, [("capture".to_owned(), AMOUNT)]);
}

#[tokio::test]
async fn a_watcher_sees_each_change_and_each_step_of_a_person() {
    let app = TestApp::start().await;
    let (_, id) = app.doubled("k").await;
    let (anna, ben) = (app.anna().await, app.ben().await);
    let message = pb::WatchOperationRecordRequest { operation_id: id.clone() };
    let watched = anna.client.clone().watch_operation_record(anna.request(message)).await.unwrap();
    let mut watched = watched.into_inner();
    let mut next =
        async || tokio::time::timeout(Duration::from_secs(10), watched.next()).await.expect("a change");
    let first = next().await.unwrap().unwrap().record.unwrap();
    assert_eq!((first.operation.unwrap().state(), first.proposal), (InReview, None));
    let proposal = anna.propose(&id, OperationDecision::Succeeded, "it moved").await.unwrap();
    let proposed = next().await.unwrap().unwrap().record.unwrap();
    assert_eq!(proposed.proposal.unwrap().proposal_id, proposal);
    ben.confirm(&id, &proposal, "it did").await.unwrap();
    let ended = next().await.unwrap().unwrap().record.unwrap();
    assert_eq!(ended.operation.unwrap().state(), Succeeded);
    assert!(next().await.is_none(), "nothing more will come");
}

/// A permission that is taken away ends with the next call; the money RPCs never need it.
#[tokio::test]
async fn the_permission_is_asked_for_with_each_call() {
    let app = TestApp::start().await;
    let anna = app.anna().await;
    anna.list(pb::ListOperationsRequest::default()).await.unwrap();
    let file = &app.config.callers.file;
    let callers = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, callers.replacen("review = true", "review = false ", 1)).unwrap();
    eventually("the permission is gone", async || {
        let told = anna.list(pb::ListOperationsRequest::default()).await;
        told.is_err_and(|refused| {
            refused.reason() == "RPC_NOT_ALLOWED" && refused.code == Code::PermissionDenied
        })
    })
    .await;
    app.ben().await.list(pb::ListOperationsRequest::default()).await.unwrap();
    app.caller("token-of-anna").await.transaction(&app.world.card().await).await.unwrap();
}
