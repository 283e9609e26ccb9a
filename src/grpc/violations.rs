//! Everything that is wrong with a request, all at once.

use tonic::Status;
use tonic_types::FieldViolation;

use crate::grpc::status;

/// Collects what is wrong, field by field.
#[derive(Debug, Default)]
pub struct Violations {
    reason: Option<&'static str>,
    found: Vec<FieldViolation>,
}

/// A request that cannot become a command.
#[derive(Debug)]
pub struct Refused {
    /// The `ErrorInfo` reason.
    pub reason: &'static str,
    /// Each field that is wrong, and the remedy.
    pub violations: Vec<FieldViolation>,
}

/// Most violations that one answer lists.
const LISTED_MAX: usize = 50;

impl Violations {
    /// Notes a wrong field. `remedy` completes "the field …".
    pub fn add(&mut self, field: impl Into<String>, remedy: impl Into<String>) {
        if self.found.len() < LISTED_MAX {
            self.found.push(FieldViolation::new(field, remedy));
        }
    }

    /// Notes a wrong field that has a reason of its own.
    pub fn add_for(&mut self, reason: &'static str, field: &str, remedy: impl Into<String>) {
        self.reason.get_or_insert(reason);
        self.add(field, remedy);
    }

    /// The value, if nothing was wrong.
    pub fn unless<T>(self, value: Option<T>) -> Result<T, Refused> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => Err(Refused { reason: self.reason.unwrap_or("INVALID_REQUEST"), violations: self.found }),
        }
    }
}

impl Refused {
    /// As callers see it.
    pub fn into_status(self, trace_id: &str, money: bool) -> Status {
        status::invalid(self, trace_id, money)
    }
}
