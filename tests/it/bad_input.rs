//! Bad input: each gets the right code, reason and field, and the server serves the next call.

use payops::grpc::pb;
use tonic::Code;

use crate::support::TestApp;

#[tokio::test]
async fn everything_that_is_wrong_is_told_at_once() {
    let app = TestApp::start().await;
    let orders = app.orders().await;
    let message = pb::CaptureRequest {
        transaction_id: "../T12345678.a".to_owned(),
        amount: -1,
        currency_code: "nok".to_owned(),
        reference: "a b".to_owned(),
        ..Default::default()
    };
    let refused = orders.capture_with("k", message).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::InvalidArgument, "INVALID_REQUEST"));
    assert_eq!(refused.fields(), ["amount", "reference", "transaction_id", "currency_code"]);
}
