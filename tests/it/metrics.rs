//! What Prometheus is shown.

use payops::grpc::pb::OperationState;

use crate::database::shared;
use crate::sandbox::world::{AMOUNT, World};
use crate::support::{TestApp, eventually, free_address};

/// What a scrape of the boundary finds.
pub async fn scraped(app: &TestApp) -> String {
    scrape(&app.world, app.config.metrics.listen.unwrap()).await
}

/// What is shown at that address.
pub async fn scrape(world: &World, address: std::net::SocketAddr) -> String {
    let answer = world.client.get(format!("http://{address}/metrics")).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4");
    answer.text().await.unwrap()
}

/// The value of a series, as it is written.
pub fn value<'a>(text: &'a str, series: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_the_standby_and_the_journals_time_are_shown() {
    for without_standby in [false, true] {
        let mut database = shared().database();
        database.without_standby = without_standby;
        let app = TestApp::start_with(|config| {
            config.metrics.listen = Some(free_address());
            config.journal.directory = std::path::PathBuf::new();
            config.journal.postgres = Some(database);
        })
        .await;
        let card = app.world.card().await;
        let answer = app.orders().await.capture("k", &card, AMOUNT).await.unwrap();
        assert_eq!(answer.operation.state(), OperationState::Succeeded);
        eventually("readiness is counted", async || value(&scraped(&app).await, "payops_ready") == Some("1"))
            .await;
        let text = scraped(&app).await;
        let standby = if without_standby { "0" } else { "1" };
        assert_eq!(value(&text, "payops_journal_standby"), Some(standby), "{text}");
        for written in ["insert", "update"] {
            let count =
                format!("payops_journal_duration_seconds_count{{operation=\"{written}\",result=\"done\"}}");
            assert_eq!(value(&text, &count), Some("1"), "{text}");
        }
    }
}
