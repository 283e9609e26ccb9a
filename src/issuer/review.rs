//! Asks a cluster of Kubernetes whether a token still counts (`TokenReview`):
//! its own word on a token whose pod or account may be gone. The token has been
//! verified before, so that nobody else makes payops ask.

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;
use url::Url;

use crate::issuer::{Issuer, PAUSE_AFTER_FAILURE, Refusal, fetch};

/// What a cluster answers.
#[derive(Deserialize)]
struct Reviewed {
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    user: User,
    #[serde(default)]
    audiences: Vec<String>,
}

#[derive(Default, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

impl Issuer {
    /// Whether the token counts for its issuer, where that is to be asked. It
    /// names the service account `subject`: namespace, slash, name.
    pub(super) async fn review(&self, token: &str, subject: &str) -> Result<(), Refusal> {
        let Some(url) = &self.settings.token_review_url else { return Ok(()) };
        let asked = timeout(fetch::FETCH_MAX, async {
            let _place = self.reviews.acquire().await.map_err(|error| error.to_string())?;
            self.ask_for_review(url, token).await
        });
        let late = |_| Err(format!("no answer within {} s", fetch::FETCH_MAX.as_secs()));
        let Status { authenticated, user, audiences } = asked.await.unwrap_or_else(late).map_err(|why| {
            tracing::warn!(issuer = %self.name, why, "a token could not be reviewed");
            Refusal::Unavailable { retry_after: PAUSE_AFTER_FAILURE }
        })?;
        let account = subject.replacen('/', ":", 1);
        let is_ours = audiences.iter().any(|audience| self.settings.audiences.contains(audience));
        if authenticated && is_ours && user.username == format!("system:serviceaccount:{account}") {
            Ok(())
        } else {
            Err(Refusal::Invalid("its cluster says that the token does not count (TokenReview)"))
        }
    }

    async fn ask_for_review(&self, url: &Url, token: &str) -> Result<Status, String> {
        let question = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": self.settings.audiences},
        });
        let request = fetch::client(&self.settings)?
            .post(url.clone())
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(question.to_string());
        let answer = fetch::ask(request, StatusCode::CREATED, &self.settings).await?;
        let reviewed: Reviewed =
            serde_json::from_slice(&answer).map_err(|_| "its review is not understood".to_owned())?;
        Ok(reviewed.status)
    }
}
