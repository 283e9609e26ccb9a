//! Callers by the tokens of issuers, end to end: fetched keys, replaced keys, keys that cannot be fetched.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use futures::future::join_all;
use payops::grpc::pb::{self, operation_review_service_client::OperationReviewServiceClient};
use serde_json::{Value, json};
use tonic::Code;

use super::issuer::{Fault, Issuer, Key, in_seconds};
use crate::bad_input::wire::Raw;
use crate::support::{ALLOW_ALL, Caller, Refused, TestApp, capture, eventually};

/// What the callers file says of an issuer.
pub struct Declared<'a> {
    pub name: &'a str,
    pub issuer: &'a Issuer,
    pub more: &'a str,
}

pub fn declared<'a>(name: &'a str, issuer: &'a Issuer, more: &'a str) -> Declared<'a> {
    Declared { name, issuer, more }
}

/// A boundary that trusts these issuers; `orders` and `returns` are callers by these subjects, too.
pub async fn trusting(issuers: &[Declared<'_>], orders: &[&str], returns: &[&str]) -> TestApp {
    TestApp::start_with(|config| {
        let file = &config.callers.file;
        let text = std::fs::read_to_string(file).unwrap();
        let with = |text: String, name: &str, subjects: &[&str]| {
            let entry = format!("name = \"{name}\"\n");
            assert!(text.contains(&entry));
            let subjects =
                if subjects.is_empty() { String::new() } else { format!("subjects = {subjects:?}\n") };
            text.replace(&entry, &format!("{entry}{subjects}"))
        };
        std::fs::write(file.with_file_name("token"), "of-payops\n").unwrap();
        let mut text = with(with(text, "orders", orders), "returns", returns);
        for Declared { name, issuer, more } in issuers {
            let authority = file.with_file_name(format!("{name}.pem"));
            std::fs::write(&authority, issuer.authority.pem()).unwrap();
            let kind = if more.contains("audiences") { "" } else { "audiences = [\"payops\"]\n" };
            let url =
                if more.contains("\nurl = ") { String::new() } else { format!("url = {:?}\n", issuer.url) };
            write!(text, "[[issuer]]\nname = {name:?}\n{url}{kind}ca_file = \"{name}.pem\"\n{more}\n")
                .unwrap();
        }
        std::fs::write(file, text).unwrap();
    })
    .await
}

/// Who the boundary takes a token for: the caller whose key it knows.
pub async fn who(app: &TestApp, token: &str) -> Result<&'static str, Box<Refused>> {
    let caller = app.caller(token).await;
    for name in ["orders", "returns"] {
        match caller.operation(&format!("of-{name}")).await {
            Ok(_) => return Ok(name),
            Err(refused) if refused.code == Code::NotFound => {}
            Err(refused) => return Err(refused),
        }
    }
    panic!("somebody else is let in");
}

/// An operation of each of the two.
pub async fn marked(app: &TestApp) {
    for (name, caller) in [("orders", app.orders().await), ("returns", app.returns().await)] {
        let card = app.world.card().await;
        caller.capture(&format!("of-{name}"), &card, 100).await.unwrap();
    }
}

fn reason(refused: &Refused) -> (Code, &str) {
    (refused.code, refused.reason())
}

#[tokio::test]
async fn a_caller_keeps_its_keys_whichever_way_it_proves_to_be_who_it_is() {
    let (rsa, ec, ed) = (Key::rsa("rsa"), Key::ec("ec"), Key::ed("ed"));
    let login = Issuer::start(&[&rsa, &ec, &ed]).await;
    let app = trusting(&[declared("login", &login, "")], &["login:orders-service"], &["login:a:b"]).await;
    let card = app.world.card().await;
    app.orders().await.capture("k", &card, 100).await.unwrap();
    for key in [&rsa, &ec, &ed] {
        let caller = app.caller(&key.token(&login.claims("orders-service"))).await;
        let answered = caller.capture("k", &card, 100).await.unwrap();
        assert!(answered.replayed, "{}", key.algorithm);
    }
    assert_eq!(app.posts(&card).await, 1);
    assert_eq!(login.asked(), 1, "keys are fetched once for all");
    // Another subject is another caller; it may hold colons.
    let other = app.caller(&rsa.token(&login.claims("a:b"))).await;
    assert_eq!(other.operation("k").await.unwrap_err().reason(), "OPERATION_NOT_FOUND");
}

#[tokio::test]
async fn a_service_account_of_kubernetes_is_a_caller_and_its_cluster_is_asked_with_a_token() {
    let key = Key::rsa("rsa");
    let cluster = Issuer::start(&[&key]).await;
    cluster.wants("of-payops");
    // What the cluster calls itself is no address here.
    let more = format!(
        "kubernetes = true\njwks_url = \"{}/keys\"\ntoken_file = \"token\"\nadmit = \"all\"\nurl = \"kubernetes\"\n\
         [[group]]\nname = \"cluster\"\nissuers = [\"cluster\"]\n{ALLOW_ALL}",
        cluster.url
    );
    let app = trusting(&[declared("cluster", &cluster, &more)], &["cluster:shop/orders"], &[]).await;
    let token = |namespace: &str, name: &str| {
        let mut claims = cluster.claims_of_service_account(namespace, name);
        claims["iss"] = json!("kubernetes");
        key.token(&claims)
    };
    let card = app.world.card().await;
    app.orders().await.capture("k", &card, 100).await.unwrap();
    let orders = app.caller(&token("shop", "orders")).await;
    eventually("it is let in", async || orders.operation("k").await.is_ok()).await;
    // The token that the cluster is asked with was replaced, and the key as well.
    let next = Key::rsa("next");
    cluster.publish(&[&key, &next]);
    cluster.wants("of-payops-2");
    std::fs::write(app.config.callers.file.with_file_name("token"), "of-payops-2\n").unwrap();
    let mut claims = cluster.claims_of_service_account("shop", "orders");
    claims["iss"] = json!("kubernetes");
    app.caller(&next.token(&claims)).await.operation("k").await.unwrap();
    // Everybody else of the cluster has its namespace and name for a name.
    let stock = app.caller(&token("shop", "stock")).await;
    assert_eq!(stock.operation("k").await.unwrap_err().reason(), "OPERATION_NOT_FOUND");
    stock.capture("k", &app.world.card().await, 100).await.unwrap();
    let mut reviews = OperationReviewServiceClient::new(app.channel().await);
    let anna = app.caller("token-of-anna").await;
    let list = pb::ListOperationsRequest { caller: "shop/stock".to_owned(), ..Default::default() };
    let listed = reviews.list_operations(anna.request(list)).await.unwrap().into_inner();
    assert_eq!(listed.operations.len(), 1, "{listed:?}");
    // None of them reviews.
    let list = stock.request(pb::ListOperationsRequest::default());
    let refused = reviews.list_operations(list).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

/// A token is good, and its pod may be gone: the cluster has the last word, where it is asked for it.
#[tokio::test]
async fn with_a_token_review_the_cluster_has_the_last_word() {
    let key = Key::rsa("rsa");
    let cluster = Issuer::start(&[&key]).await;
    let more = format!(
        "kubernetes = true\ntoken_review_url = \"{0}/review\"\njwks_url = \"{0}/keys\"\ntoken_file = \"token\"\n",
        cluster.url
    );
    let app = trusting(&[declared("cluster", &cluster, &more)], &["cluster:shop/orders"], &[]).await;
    let card = app.world.card().await;
    app.orders().await.capture("k", &card, 100).await.unwrap();
    let mut nth = 0;
    let mut asks = async || {
        // Another token each time: none is known yet.
        nth += 1;
        let mut claims = cluster.claims_of_service_account("shop", "orders");
        claims["jti"] = json!(nth);
        app.caller(&key.token(&claims)).await.operation("k").await.map(|_| ())
    };
    let good = json!({
        "authenticated": true, "audiences": ["payops"],
        "user": {"username": "system:serviceaccount:shop:orders"},
    });
    cluster.says_of_tokens(Some(good.clone()));
    eventually("it is let in", async || asks().await.is_ok()).await;
    let reviewed = cluster.reviewed().pop().unwrap();
    assert_eq!(reviewed["with"], "Bearer of-payops");
    assert_eq!(reviewed["asked"]["spec"]["audiences"], json!(["payops"]));
    assert_eq!(reviewed["asked"]["kind"], "TokenReview");
    for (pointer, value) in [
        ("/authenticated", json!(false)),
        ("/audiences", json!(["another"])),
        ("/audiences", json!([])),
        ("/user/username", json!("system:serviceaccount:shop:other")),
        ("/user/username", json!("system:serviceaccount:other:orders")),
    ] {
        let mut says = good.clone();
        *says.pointer_mut(pointer).unwrap() = value;
        cluster.says_of_tokens(Some(says));
        let refused = asks().await.unwrap_err();
        assert_eq!(refused.reason(), "CREDENTIALS_INVALID", "{pointer}");
        assert!(refused.status.message().contains("TokenReview"), "{}", refused.status.message());
    }
    cluster.says_of_tokens(None);
    assert_eq!(asks().await.unwrap_err().reason(), "ISSUER_UNAVAILABLE");
    cluster.says_of_tokens(Some(good));
    asks().await.unwrap();
    // One that was reviewed is known for a while; one that does not verify is asked about by nobody.
    let (claims, asked) = (cluster.claims_of_service_account("shop", "orders"), cluster.reviewed().len());
    let token = key.token(&claims);
    for _ in 0..3 {
        app.caller(&token).await.operation("k").await.unwrap();
    }
    let forged = Key::rsa("rsa").token(&claims);
    assert_eq!(app.caller(&forged).await.operation("k").await.unwrap_err().reason(), "CREDENTIALS_INVALID");
    assert_eq!(cluster.reviewed().len(), asked + 1);
}

#[tokio::test]
async fn a_new_key_is_found_when_it_is_first_used_and_an_old_one_is_forgotten() {
    let (first, second, third) = (Key::ec("1"), Key::ec("2"), Key::ec("3"));
    let login = Issuer::start(&[&first]).await;
    let app = trusting(&[declared("login", &login, "")], &["login:o"], &["login:r"]).await;
    marked(&app).await;
    let old = first.token(&login.claims("o"));
    assert_eq!(who(&app, &old).await.unwrap(), "orders");
    login.publish(&[&second]);
    assert_eq!(who(&app, &second.token(&login.claims("r"))).await.unwrap(), "returns");
    assert_eq!(login.asked(), 2);
    // Verified a moment ago; another token of that key is not.
    assert_eq!(who(&app, &old).await.unwrap(), "orders");
    let another = first.token(&login.claims("r"));
    let refused = who(&app, &another).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::Unauthenticated, "CREDENTIALS_INVALID"));
    assert!(refused.status.message().contains("not one that its issuer publishes"), "{refused:?}");
    // The one fetch of this minute is used up.
    login.publish(&[&third]);
    let refused = who(&app, &third.token(&login.claims("o"))).await.unwrap_err();
    assert_eq!(refused.reason(), "CREDENTIALS_INVALID");
    assert_eq!(login.asked(), 2);
}

#[tokio::test]
async fn a_flood_of_unknown_keys_makes_one_fetch_and_keeps_nobody_waiting() {
    let key = Key::ec("1");
    let login = Issuer::start(&[&key]).await;
    let app = trusting(&[declared("login", &login, "")], &["login:o"], &[]).await;
    marked(&app).await;
    assert_eq!(who(&app, &key.token(&login.claims("o"))).await.unwrap(), "orders");
    login.fails(Fault::Slow(1_500));
    let caller = app.orders().await;
    let flood = (0..300).map(|nth| {
        let header = json!({"alg": "ES256", "kid": format!("unknown-{nth}")});
        let caller = Caller { token: key.token_with(&header, &login.claims("o")), ..caller.clone() };
        async move { caller.operation("of-orders").await.unwrap_err().reason().to_owned() }
    });
    let flood = tokio::spawn(join_all(flood));
    eventually("the fetch has begun", async || login.asked() == 2).await;
    // A new token of a known key does not wait for it.
    let begun = Instant::now();
    assert_eq!(who(&app, &key.token(&login.claims("o"))).await.unwrap(), "orders");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let told = flood.await.unwrap();
    assert!(told.iter().all(|reason| reason == "CREDENTIALS_INVALID"), "{told:?}");
    assert_eq!(login.asked(), 2);
}

#[tokio::test]
async fn the_last_good_keys_stay_when_the_issuer_is_gone() {
    let (known, unknown) = (Key::ec("1"), Key::ec("2"));
    let login = Issuer::start(&[&known]).await;
    let app = trusting(&[declared("login", &login, "")], &["login:o"], &[]).await;
    marked(&app).await;
    assert_eq!(who(&app, &known.token(&login.claims("o"))).await.unwrap(), "orders");
    for fault in [Fault::Status(503), Fault::Says("{\"keys\": []}".to_owned())] {
        login.fails(fault);
        let refused = who(&app, &unknown.token(&login.claims("o"))).await.unwrap_err();
        assert_eq!(reason(&refused), (Code::Unauthenticated, "CREDENTIALS_INVALID"));
        let mut claims = login.claims("o");
        claims["jti"] = json!(uuid::Uuid::new_v4().to_string());
        assert_eq!(who(&app, &known.token(&claims)).await.unwrap(), "orders");
    }
}

/// Nobody's fault: no other token would be better, so the caller hears that it may try again, and does.
#[tokio::test]
async fn while_no_keys_could_be_fetched_callers_are_told_to_try_again() {
    let key = Key::ec("1");
    let login = Issuer::start(&[&key]).await;
    login.fails(Fault::Status(503));
    let app = trusting(&[declared("login", &login, "")], &["login:o"], &[]).await;
    marked(&app).await;
    let token = key.token(&login.claims("o"));
    let refused = who(&app, &token).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::Unavailable, "ISSUER_UNAVAILABLE"));
    assert_eq!(refused.metadata("safe_to_use_new_key"), Some("false"));
    let pause = refused.details.retry_info().and_then(|retry| retry.retry_delay).expect("when to try again");
    assert!((Duration::from_secs(1)..=Duration::from_secs(30)).contains(&pause), "{pause:?}");
    // Own tokens need no issuer.
    app.orders().await.operation("of-orders").await.unwrap();
    // A hundred callers do not make a hundred requests.
    let before = login.asked();
    let waiting = (0..100).map(|_| who(&app, &token));
    assert!(join_all(waiting).await.iter().all(Result::is_err));
    assert!(login.asked() <= before + 2, "{} and then {}", before, login.asked());
    login.fails(Fault::Nothing);
    eventually("it is let in", async || who(&app, &token).await.is_ok()).await;
}

#[tokio::test]
async fn fifty_first_callers_share_one_fetch() {
    let key = Key::ec("1");
    let login = Issuer::start(&[&key]).await;
    login.fails(Fault::Slow(700));
    let app = trusting(&[declared("login", &login, "")], &["login:o"], &[]).await;
    marked(&app).await;
    let callers = (0..50).map(|nth| {
        let mut claims = login.claims("o");
        claims["jti"] = json!(nth.to_string());
        let token = key.token(&claims);
        let app = &app;
        async move { who(app, &token).await }
    });
    let told = join_all(callers).await;
    assert!(told.iter().all(|told| told.as_ref().is_ok_and(|name| *name == "orders")), "{told:?}");
    assert_eq!(login.asked(), 1);
}

/// What was verified a moment ago is looked up in the callers file all the same.
#[tokio::test]
async fn a_subject_that_is_removed_is_refused_at_once() {
    let key = Key::ec("1");
    let login = Issuer::start(&[&key]).await;
    let app = trusting(&[declared("login", &login, "")], &["login:o"], &[]).await;
    marked(&app).await;
    let token = key.token(&login.claims("o"));
    assert_eq!(who(&app, &token).await.unwrap(), "orders");
    let file = &app.config.callers.file;
    let text = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, text.replace("login:o", "login:other")).unwrap();
    eventually("it is refused", async || {
        who(&app, &token).await.is_err_and(|refused| refused.reason() == "CREDENTIALS_INVALID")
    })
    .await;
    assert_eq!(login.asked(), 1, "the issuer did not change, and keeps its keys");
    // The issuer as a whole, with what was verified of it.
    std::fs::write(file, text.replace("audiences = [\"payops\"]", "audiences = [\"other\"]")).unwrap();
    eventually("it is for somebody else", async || {
        who(&app, &token).await.is_err_and(|refused| refused.status.message().contains("(aud)"))
    })
    .await;
}

/// The message is not waited for: whoever is refused is refused by its headers.
#[tokio::test]
async fn a_bad_token_is_refused_before_the_message_is_read() {
    let key = Key::ec("1");
    let login = Issuer::start(&[&key]).await;
    let app = trusting(&[declared("login", &login, "")], &["login:o"], &[]).await;
    let mut claims = login.claims("o");
    claims["exp"] = json!(in_seconds(-3_600));
    let raw = Raw::rpc("Capture", &capture("T12345678.demoCard00000000000001", 100))
        .with("authorization", format!("Bearer {}", key.token(&claims)))
        .body([])
        .endless();
    let begun = Instant::now();
    let refused = raw.send(app.address).await.unwrap().grpc.unwrap();
    assert_eq!(reason(&refused), (Code::Unauthenticated, "CREDENTIALS_EXPIRED"));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// A caller who hangs up does not end the fetch for the others, nor use up the one of this minute.
#[tokio::test]
async fn a_caller_who_hangs_up_does_not_end_the_fetch() {
    let (first, second) = (Key::ec("1"), Key::ec("2"));
    let login = Issuer::start(&[&first]).await;
    let app = trusting(&[declared("login", &login, "")], &["login:o"], &[]).await;
    marked(&app).await;
    assert_eq!(who(&app, &first.token(&login.claims("o"))).await.unwrap(), "orders");
    login.publish(&[&second]);
    login.fails(Fault::Slow(800));
    let token = second.token(&login.claims("o"));
    let hasty = app.caller(&token).await;
    let cut = tokio::time::timeout(Duration::from_millis(200), hasty.operation("of-orders")).await;
    assert!(cut.is_err(), "it is still waiting");
    assert_eq!(who(&app, &token).await.unwrap(), "orders");
    assert_eq!(login.asked(), 2);
}

/// Tokens and what is in them never reach a log or an answer.
#[tokio::test]
async fn no_answer_quotes_the_token() {
    let key = Key::ec("1");
    let login = Issuer::start(&[&key]).await;
    let app = trusting(&[declared("login", &login, "")], &["login:o"], &[]).await;
    let mut claims: Value = login.claims("subject-of-nobody");
    claims["email"] = json!("somebody@example.org");
    let token = key.token(&claims);
    let refused = app.caller(&token).await.operation("k").await.unwrap_err();
    let told = format!("{refused:?}");
    for secret in [token.as_str(), "subject-of-nobody", "somebody@example.org"] {
        assert!(!told.contains(secret), "{told}");
    }
}
