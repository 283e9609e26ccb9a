//! The token endpoint, and what a token opens.

use std::time::Duration;

use payops::sandbox::{Account, Settings};
use reqwest::Method;
use serde_json::{Value, json};

use super::world::{World, send};

/// [D 2.2]: a bearer token that looks like a JWT, and how long it lives.
#[tokio::test]
async fn a_token_is_issued_for_client_credentials() {
    let world = World::start().await;
    let answer = world.ask_token(&Account::default(), &World::grant("T12345678")).await.expect(200).json();
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(answer["expires_in"], 14_400);
    assert_eq!(answer["access_token"].as_str().unwrap().split('.').count(), 3);
    assert_ne!(answer["access_token"], world.token, "each token is new");
    world.transaction("T12345678.demoCard00000000000001").await; // and the older one works still [D 12 #25]
}

/// [D 2.1]: the audience with the account as userinfo is accepted too.
#[tokio::test]
async fn the_audience_may_name_the_account_as_its_user() {
    let world = World::start().await;
    let audience = "https://T12345678@api.dintero.com/v1/accounts/T12345678";
    let body = json!({ "grant_type": "client_credentials", "audience": audience });
    world.ask_token(&Account::default(), &body).await.expect(200);
}

/// [D 2.3]: 400 for a wrong request, 401 for wrong credentials, 403 for a wrong audience; all with the error body.
#[tokio::test]
async fn a_wrong_token_request_is_refused() {
    let world = World::start().await;
    let account = Account::default();
    let grant = World::grant("T12345678");
    let refused = async |account: &Account, body: &Value, status: u16| {
        let answer = world.ask_token(account, body).await.expect(status);
        assert!(answer.json()["error"]["message"].is_string());
    };
    refused(&Account { client_secret: "wrong".to_owned(), ..account.clone() }, &grant, 401).await;
    refused(&Account { client_id: "wrong".to_owned(), ..account.clone() }, &grant, 401).await;
    refused(&account, &json!({ "grant_type": "password", "audience": grant["audience"] }), 400).await;
    refused(&account, &json!({ "grant_type": "client_credentials" }), 400).await;
    refused(&account, &json!("text"), 400).await;
    refused(&account, &World::grant("T87654321"), 403).await;
    let elsewhere = Account { id: "T87654321".to_owned(), ..account.clone() };
    refused(&elsewhere, &World::grant("T87654321"), 403).await;

    let bare = world.request(Method::POST, "/v1/accounts/T12345678/auth/token").body(grant.to_string());
    send(bare).await.unwrap().expect(401);
}

/// [D 2.3]: the token endpoint limits its rate, in seconds.
#[tokio::test]
async fn the_token_endpoint_can_limit_its_rate() {
    let world = World::start().await;
    world.fault(json!({ "operation": "token", "fault": "rate_limited", "retry_after": 7 })).await;
    let answer = world.ask_token(&Account::default(), &World::grant("T12345678")).await.expect(429);
    assert_eq!(answer.header("retry-after"), Some("7"));
    world.token_for(&Account::default()).await;
}

/// [D 3.5]: without a valid token, 401 "invalid JWT".
#[tokio::test]
async fn an_unknown_token_is_refused() {
    let mut world = World::start().await;
    let id = world.card().await;
    world.token = "eyJhbGciOiJSUzI1NiJ9.e30.c2lnbmF0dXJl".to_owned();
    let answer = world.capture(&id, 1).await.expect(401);
    assert_eq!(answer.json()["error"]["message"], "invalid JWT");
    let bare = world.request(Method::GET, &format!("/v1/transactions/{id}"));
    send(bare).await.unwrap().expect(401);
    assert!(world.ledger(&id).await.is_empty());
}

/// [D 2.2]: a token is refused once its life is over.
#[tokio::test]
async fn a_token_expires() {
    let settings = Settings { token_life: Duration::ZERO, ..Settings::default() };
    let mut world = World::start_with(settings).await;
    world.get("/v1/transactions").await.expect(401);
    world.admin(Method::PUT, "/settings", json!({ "token_life_seconds": 60 })).await.expect(200);
    world.token = world.token_for(&Account::default()).await;
    world.get("/v1/transactions").await.expect(200);
}

/// The admin API makes tokens expire, of one account or of all.
#[tokio::test]
async fn tokens_expire_on_request() {
    let world = World::start().await;
    let expired =
        world.admin(Method::POST, "/tokens/expire", json!({ "account": "T87654321" })).await.expect(200);
    assert_eq!(expired.json()["expired"], 0);
    world.get("/v1/transactions").await.expect(200);
    let expired = world.admin(Method::POST, "/tokens/expire", Value::Null).await.expect(200);
    assert_eq!(expired.json()["expired"], 1);
    world.get("/v1/transactions").await.expect(401);
}

/// The admin API rotates credentials; [D 12 #25]: tokens issued before keep working.
#[tokio::test]
async fn credentials_rotate_and_old_tokens_live_on() {
    let world = World::start().await;
    let new = json!({ "client_id": "next", "client_secret": "secret-2" });
    world.admin(Method::PUT, "/clients/T12345678", new).await.expect(204);
    world.ask_token(&Account::default(), &World::grant("T12345678")).await.expect(401);
    world.get("/v1/transactions").await.expect(200);
    let next =
        Account { client_id: "next".to_owned(), client_secret: "secret-2".to_owned(), ..Account::default() };
    world.token_for(&next).await;
}
