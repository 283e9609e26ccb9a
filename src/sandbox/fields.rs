//! Reading the JSON of the admin API: every mistake names its field and the remedy.

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

use super::wire::Object;

/// The largest body that is read, here and on Dintero's side.
pub const BODY_MAX: usize = 1_048_576;

/// How long a body may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// A mistake in a request to the admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// 400, unless there is a better one.
    pub status: StatusCode,
    /// The field, or `body`.
    pub field: String,
    /// What is wrong, where the remedy does not say it all.
    pub problem: Option<String>,
    /// What to do instead.
    pub remedy: String,
}

impl Invalid {
    /// A mistake in `field`.
    pub fn new(field: &str, remedy: impl Into<String>) -> Self {
        let (status, problem) = (StatusCode::BAD_REQUEST, None);
        Self { status, field: field.to_owned(), problem, remedy: remedy.into() }
    }

    /// Something that does not exist.
    pub fn not_found(field: &str, problem: &str, remedy: impl Into<String>) -> Self {
        let problem = Some(problem.to_owned());
        Self { status: StatusCode::NOT_FOUND, problem, ..Self::new(field, remedy) }
    }
}

impl IntoResponse for Invalid {
    fn into_response(self) -> Response {
        let message = match &self.problem {
            Some(problem) => format!("{}: {problem}; {}", self.field, self.remedy),
            None => format!("{}: {}", self.field, self.remedy),
        };
        let body = json!({ "error": { "field": self.field, "message": message, "remedy": self.remedy } });
        (self.status, axum::Json(body)).into_response()
    }
}

/// The fields of a JSON object, taken one by one; what is left at the end is a mistake.
#[derive(Debug)]
pub struct Fields {
    object: Object,
    known: Vec<&'static str>,
}

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Invalid;

    async fn from_request(request: Request, _: &S) -> Result<Self, Invalid> {
        let body = tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(request.into_body(), BODY_MAX));
        match body.await {
            Ok(Ok(body)) => Self::read(&body),
            _ => Err(Invalid::new("body", format!("send {BODY_MAX} bytes at most, without long pauses"))),
        }
    }
}

impl Fields {
    /// The parameters of a URL; all are strings.
    pub fn query(query: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned();
        Self { object: pairs.map(|(name, value)| (name, value.into())).collect(), known: Vec::new() }
    }

    /// A number written as a string, as URLs have it.
    pub fn numeral(&mut self, name: &'static str, default: u64) -> Result<u64, Invalid> {
        let Some(text) = self.text(name)? else { return Ok(default) };
        text.parse().map_err(|_| Invalid::new(name, "send an integer from 0"))
    }

    /// The fields of a body; an empty body has none.
    fn read(body: &[u8]) -> Result<Self, Invalid> {
        if body.is_empty() {
            return Ok(Self { object: Object::new(), known: Vec::new() });
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(object)) => Ok(Self { object, known: Vec::new() }),
            Ok(_) => Err(Invalid::new("body", "send a JSON object")),
            Err(error) => Err(Invalid::new("body", format!("send a JSON object; {error}"))),
        }
    }

    /// All that was sent.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// Any value; `null` is like absence.
    pub fn value(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.object.remove(name).filter(|value| !value.is_null())
    }

    /// A string that is not empty.
    pub fn text(&mut self, name: &'static str) -> Result<Option<String>, Invalid> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(Invalid::new(name, "send a string that is not empty, or leave it out")),
        }
    }

    /// One of a few strings.
    pub fn choice(
        &mut self,
        name: &'static str,
        of: &[&'static str],
    ) -> Result<Option<&'static str>, Invalid> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let found = of.iter().find(|choice| **choice == text).copied();
        found.map(Some).ok_or_else(|| Invalid::new(name, format!("send one of {}", of.join(", "))))
    }

    /// An integer within bounds.
    pub fn integer(
        &mut self,
        name: &'static str,
        within: RangeInclusive<i64>,
    ) -> Result<Option<i64>, Invalid> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let integer = value.as_i64().filter(|integer| within.contains(integer));
        let remedy = || format!("send an integer from {} to {}", within.start(), within.end());
        integer.map(Some).ok_or_else(|| Invalid::new(name, remedy()))
    }

    /// An integer within bounds that may not be negative, in the type that counts and waits want.
    pub fn count(&mut self, name: &'static str, default: u64, most: u64) -> Result<u64, Invalid> {
        let Some(value) = self.value(name) else { return Ok(default) };
        let count = value.as_u64().filter(|count| *count <= most);
        count.ok_or_else(|| Invalid::new(name, format!("send an integer from 0 to {most}")))
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &'static str) -> Result<Option<bool>, Invalid> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(Invalid::new(name, "send true or false")),
        }
    }

    /// Refuses what no one asked for.
    pub fn finish(self) -> Result<(), Invalid> {
        let known = self.known;
        match self.object.keys().find(|name| !known.contains(&name.as_str())) {
            Some(stranger) => {
                Err(Invalid::new(stranger, format!("leave it out; known here: {}", known.join(", "))))
            }
            None => Ok(()),
        }
    }
}

/// The field that must be there.
pub fn required<T>(name: &str, value: Option<T>, remedy: &str) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::new(name, remedy))
}
