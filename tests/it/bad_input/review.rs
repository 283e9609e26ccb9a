//! What reviewers ask for.

use payops::grpc::pb::{self, OperationDecision, OperationState, resolve_operation_request::Step};
use prost_types::Timestamp;
use tonic::Code;

use super::{Call, Row, hold};
use crate::support::TestApp;

const NOBODYS: &str = "00000000-0000-4000-8000-000000000000";

#[tokio::test]
async fn a_wrong_field_of_a_listing_is_named_with_its_remedy() {
    let app = TestApp::start().await;
    hold(&app, listings()).await;
}

#[tokio::test]
async fn a_wrong_field_of_a_decision_is_named_with_its_remedy() {
    let app = TestApp::start().await;
    hold(&app, decisions()).await;
}

/// Whoever may not review learns nothing: not even whether there is such an operation.
#[tokio::test]
async fn who_may_not_review_is_told_nothing_else() {
    let app = TestApp::start().await;
    let card = app.world.card().await;
    let operation = app.orders().await.capture("k", &card, 100).await.unwrap().operation;
    let rows = [operation.operation_id.as_str(), NOBODYS, "wrong"].into_iter().flat_map(|id| {
        [Call::GetEvidence(id.to_owned()), Call::WatchRecord(id.to_owned()), Call::Resolve(good(id))].map(
            |call| {
                Row::call(format!("{id} by orders"), call)
                    .authorization(Some("Bearer token-of-orders"))
                    .refused(
                        Code::PermissionDenied,
                        "RPC_NOT_ALLOWED",
                        None,
                        "whoever is to review needs review = true in the callers file",
                    )
            },
        )
    });
    hold(&app, rows.collect()).await;
}

/// By a person who may.
fn row(name: impl Into<String>, call: Call) -> Row {
    Row::call(name, call).authorization(Some("Bearer token-of-anna"))
}

fn list(name: &str, spoil: impl FnOnce(&mut pb::ListOperationsRequest)) -> Row {
    let mut message = pb::ListOperationsRequest::default();
    spoil(&mut message);
    row(format!("list, {name}"), Call::List(message))
}

fn good(id: &str) -> pb::ResolveOperationRequest {
    pb::ResolveOperationRequest {
        operation_id: id.to_owned(),
        step: Some(Step::Decision(OperationDecision::Declined.into())),
        reason: "because".to_owned(),
        override_evidence: false,
    }
}

fn resolve(name: &str, spoil: impl FnOnce(&mut pb::ResolveOperationRequest)) -> Row {
    let mut message = good(NOBODYS);
    spoil(&mut message);
    row(format!("resolve, {name}"), Call::Resolve(message))
}

fn listings() -> Vec<Row> {
    let state = "must be a state that is recorded";
    let time = "a valid timestamp";
    let at = |seconds, nanos| Some(Timestamp { seconds, nanos });
    vec![
        list("a negative page", |m| m.page_size = -1).invalid(["page_size"], "must not be negative"),
        list("a token of nobody", |m| m.page_token = "////".into())
            .invalid(["page_token"], "the next_page_token of an answer"),
        list("a token with a wrong filter", |m| m.page_token = "A".repeat(32))
            .invalid(["page_token"], "given for another filter"),
        list("no state", |m| m.states = vec![0]).invalid(["states[0]"], state),
        list("states that are none", |m| {
            m.states = vec![OperationState::InReview.into(), OperationState::Validated.into(), 99];
        })
        .invalid(["states[1]", "states[2]"], state),
        list("account", |m| m.account_id = "12345678".into())
            .invalid(["account_id"], "T or P and eight digits"),
        list("transaction", |m| m.transaction_id = "x' OR 1=1".into())
            .invalid(["transaction_id"], "an account, a dot"),
        list("caller", |m| m.caller = "a b".into()).invalid(["caller"], "1 to 255 letters"),
        list("from, too early", |m| m.create_time_from = at(-62_135_596_801, 0))
            .invalid(["create_time_from"], time),
        list("until, nanos", |m| m.create_time_until = at(0, 1_000_000_000))
            .invalid(["create_time_until"], time),
        list("until before from", |m| {
            (m.create_time_from, m.create_time_until) = (at(2, 0), at(2, 0));
        })
        .invalid(["create_time_until"], "must be after create_time_from"),
    ]
}

fn decisions() -> Vec<Row> {
    let uuid = "a UUID, as the operation-id metadata gave it";
    let decision = "must be SUCCEEDED, DECLINED or RELEASED";
    let reason = "say in 1 to 500 characters why";
    let mut rows = vec![
        resolve("no step", |m| m.step = None).invalid(["step"], "give decision to propose"),
        resolve("no decision", |m| m.step = Some(Step::Decision(0))).invalid(["decision"], decision),
        resolve("a decision that is none", |m| m.step = Some(Step::Decision(9)))
            .invalid(["decision"], decision),
        resolve("no proposal", |m| m.step = Some(Step::ProposalId(String::new())))
            .invalid(["proposal_id"], "must be the id of a proposal"),
        resolve("no reason", |m| m.reason = String::new()).invalid(["reason"], reason),
        resolve("a reason of blanks", |m| m.reason = " \u{a0} ".into()).invalid(["reason"], reason),
        resolve("a reason of 501", |m| m.reason = "å".repeat(501))
            .invalid(["reason"], "at most 500 characters"),
        resolve("a reason with a card", |m| m.reason = "see 4111 1111 1111 1111".into())
            .invalid(["reason"], "must not hold the number of a card"),
        resolve("a reason of two lines", |m| m.reason = "a\nb".into())
            .invalid(["reason"], "no control characters"),
        resolve("an override too early", |m| m.override_evidence = true)
            .invalid(["override_evidence"], "belongs to the confirmation"),
        resolve("everything", |m| {
            *m = pb::ResolveOperationRequest { override_evidence: true, ..Default::default() };
        })
        .invalid(["operation_id", "reason", "step"], "is required"),
    ];
    for wrong in ["not-a-uuid", &NOBODYS[1..]] {
        let id = || wrong.to_owned();
        rows.push(resolve(wrong, |m| m.operation_id = id()).invalid(["operation_id"], uuid));
        rows.push(row("evidence", Call::GetEvidence(id())).invalid(["operation_id"], uuid));
        rows.push(row("watch", Call::WatchRecord(id())).invalid(["operation_id"], uuid));
    }
    let unknown = |row: Row| {
        row.refused(Code::NotFound, "OPERATION_NOT_FOUND", None, "there is no operation of this id")
    };
    rows.push(unknown(resolve("nobody's", |_| ())));
    rows.push(unknown(row("evidence of nobody's", Call::GetEvidence(NOBODYS.to_owned()))));
    rows.push(unknown(row("watch of nobody's", Call::WatchRecord(NOBODYS.to_owned()))));
    rows
}
