//! Where requests go: to the hosts of the configuration, whatever an answer or the surroundings say.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::json;
use tokio::net::TcpListener;

use crate::place::Place;
use crate::support::TestApp;

/// A host that nobody was told to call, and how often it was.
struct Stranger {
    url: String,
    called: Arc<AtomicUsize>,
}

impl Stranger {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let called = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&called);
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { url, called }
    }

    fn called(&self) -> usize {
        self.called.load(Ordering::SeqCst)
    }
}

/// Who followed it would carry the token, or the credentials, to whoever is named there.
#[tokio::test]
async fn a_redirect_to_another_host_is_not_followed() {
    let stranger = Stranger::start().await;
    for status in [302, 307] {
        let app = TestApp::start().await;
        let orders = app.orders().await;
        let card = app.world.card().await;
        for operation in ["get", "capture", "token"] {
            if operation == "token" {
                app.world.admin(http::Method::POST, "/tokens/expire", json!({})).await.expect(200);
            }
            let fault = json!({"operation": operation, "fault": "redirect", "status": status, "location": stranger.url});
            app.world.fault(fault).await;
            if operation == "capture" {
                orders.capture("k", &card, 1).await.unwrap_err();
            } else {
                orders.transaction(&card).await.unwrap_err();
            }
        }
        assert_eq!(stranger.called(), 0, "{status}");
    }
}

/// A proxy of the surroundings is none of the configuration: it would see, and could repeat, what moves money.
#[tokio::test]
async fn a_proxy_of_the_environment_is_not_used() {
    let stranger = Stranger::start().await;
    let place = Place::new().await;
    let mut command = place.command();
    for variable in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env(variable, &stranger.url);
    }
    let _life = place.serve_by(&mut command).await;
    let card = place.world.card().await;
    place.orders().capture("k", &card, 1).await.unwrap();
    assert_eq!(place.world.ledger(&card).await.len(), 1);
    assert_eq!(stranger.called(), 0);
}
