//! Which operations a person is shown, and in which pages.

use std::time::Duration;

use payops::grpc::pb::{
    self,
    OperationState::{Declined, InDoubt, InReview, Released, Succeeded},
};
use serde_json::json;
use tonic::Code;

use super::AMOUNT;
use crate::support::{TestApp, read_on_request_only};

#[tokio::test]
async fn operations_of_all_callers_are_listed_page_by_page_the_youngest_first() {
    let app = TestApp::start().await;
    let (orders, returns, anna) = (app.orders().await, app.returns().await, app.anna().await);
    let mut expected = Vec::new();
    for n in 0..7 {
        let card = app.world.card().await;
        let key = format!("k{n}");
        let caller = if n % 2 == 0 { &orders } else { &returns };
        caller.capture(&key, &card, 100).await.unwrap();
        expected.insert(0, key);
    }
    let mut request = pb::ListOperationsRequest { page_size: 3, ..Default::default() };
    let mut pages: Vec<Vec<String>> = Vec::new();
    loop {
        let page = anna.list(request.clone()).await.unwrap();
        assert!(page.operations.iter().all(|record| record.history.is_empty()));
        pages.push(page.operations.into_iter().map(|record| record.idempotency_key).collect());
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        // What is new since comes before the first page, not into the next one.
        let card = app.world.card().await;
        orders.capture(&format!("new-{}", pages.len()), &card, 100).await.unwrap();
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
    assert_eq!(pages.concat(), expected);
    // A page may have another size; another filter is another listing.
    request.page_size = 1;
    assert_eq!(anna.list(request.clone()).await.unwrap().operations.len(), 1);
    for other in [
        pb::ListOperationsRequest { caller: "orders".to_owned(), ..request.clone() },
        pb::ListOperationsRequest { states: vec![Succeeded.into()], ..request.clone() },
        pb::ListOperationsRequest { page_token: "nonsense".to_owned(), ..request.clone() },
        pb::ListOperationsRequest { page_token: request.page_token[1..].to_owned(), ..request.clone() },
    ] {
        let refused = anna.list(other.clone()).await.unwrap_err();
        assert_eq!(
            (refused.code, refused.fields()),
            (Code::InvalidArgument, vec!["page_token"]),
            "{other:?}"
        );
    }
    // A page that is exactly full has nothing behind it.
    let whole = pb::ListOperationsRequest { page_size: 9, ..Default::default() };
    assert_eq!(anna.list(whole).await.unwrap().next_page_token, "");
}

#[tokio::test]
async fn a_page_has_fifty_unless_asked_and_two_hundred_at_most() {
    let app = TestApp::start().await;
    let (orders, anna) = (app.orders().await, app.anna().await);
    let card = app.world.card().await;
    for n in 0..201 {
        orders.capture(&format!("k{n}"), &card, 1).await.unwrap();
    }
    for (asked, given) in [(0, 50), (50, 50), (200, 200), (201, 200), (i32::MAX, 200)] {
        let request = pb::ListOperationsRequest { page_size: asked, ..Default::default() };
        let page = anna.list(request).await.unwrap();
        assert_eq!(page.operations.len(), given, "{asked}");
        assert!(!page.next_page_token.is_empty(), "{asked}");
    }
}

#[tokio::test]
async fn a_filter_leaves_out_what_does_not_fit() {
    let app = TestApp::start_with(read_on_request_only).await;
    let (orders, returns, anna) = (app.orders().await, app.returns().await, app.anna().await);
    let (first, second) = (app.world.card().await, app.world.card().await);
    orders.capture("a", &first, 100).await.unwrap();
    orders.capture("b", &first, AMOUNT).await.unwrap_err();
    tokio::time::sleep(Duration::from_millis(5)).await;
    app.world.fault(json!({"operation": "capture", "fault": "answer_lost_before_applying"})).await;
    returns.capture("c", &second, 100).await.unwrap_err();
    app.doubled("d").await;
    let all = pb::ListOperationsRequest::default;
    assert_eq!(anna.keys(all()).await, ["d", "c", "b", "a"]);
    let page = anna.list(all()).await.unwrap();
    let c = page.operations[1].operation.as_ref().unwrap().create_time;
    for (request, expected) in [
        (pb::ListOperationsRequest { states: vec![InReview.into()], ..all() }, &["d"][..]),
        (pb::ListOperationsRequest { states: vec![InDoubt.into(), Declined.into()], ..all() }, &["c", "b"]),
        (pb::ListOperationsRequest { states: vec![Released.into()], ..all() }, &[]),
        (pb::ListOperationsRequest { caller: "returns".to_owned(), ..all() }, &["c"]),
        (pb::ListOperationsRequest { transaction_id: first, ..all() }, &["b", "a"]),
        (pb::ListOperationsRequest { account_id: "T12345678".to_owned(), ..all() }, &["d", "c", "b", "a"]),
        (pb::ListOperationsRequest { account_id: "P12345678".to_owned(), ..all() }, &[]),
        (pb::ListOperationsRequest { create_time_from: c, ..all() }, &["d", "c"]),
        (pb::ListOperationsRequest { create_time_until: c, ..all() }, &["b", "a"]),
        (
            pb::ListOperationsRequest {
                create_time_from: c,
                caller: "orders".to_owned(),
                states: vec![InReview.into(), InDoubt.into()],
                ..all()
            },
            &["d"],
        ),
    ] {
        assert_eq!(anna.keys(request.clone()).await, expected, "{request:?}");
    }
}
