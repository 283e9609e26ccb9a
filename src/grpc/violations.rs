//! Everything that is wrong with a request, all at once.

use tonic_types::FieldViolation;

/// Collects what is wrong, field by field.
#[derive(Debug, Default)]
pub struct Violations {
    reason: Option<&'static str>,
    listed: Vec<FieldViolation>,
    listed_bytes: usize,
    unlisted: usize,
}

/// A request that cannot become a command.
#[derive(Debug)]
pub struct Refused {
    /// The `ErrorInfo` reason.
    pub reason: &'static str,
    /// Each field that is wrong, and the remedy.
    pub violations: Vec<FieldViolation>,
    /// How many more are wrong than one answer can carry.
    pub unlisted: usize,
}

/// Most violations that one answer lists, and most bytes that they take: common
/// clients give up on headers above 8 KiB, and would hide the code as well.
const LISTED_MAX: usize = 50;
const LISTED_BYTES_MAX: usize = 3 * 1024;

impl Violations {
    /// Notes what is wrong. `remedy` completes "the field …".
    pub fn add(&mut self, field: impl Into<String>, remedy: impl Into<String>) {
        let violation = FieldViolation::new(field, remedy);
        let bytes = self.listed_bytes + violation.field.len() + violation.description.len();
        // The first is always told.
        if !self.listed.is_empty() && (self.listed.len() >= LISTED_MAX || bytes > LISTED_BYTES_MAX) {
            self.unlisted += 1;
            return;
        }
        self.listed_bytes = bytes;
        self.listed.push(violation);
    }

    /// Gives the refusal a reason of its own.
    pub fn because(&mut self, reason: &'static str) {
        self.reason.get_or_insert(reason);
    }

    /// The value, if nothing was wrong.
    pub fn unless<T>(self, value: Option<T>) -> Result<T, Refused> {
        match value {
            Some(value) if self.listed.is_empty() => Ok(value),
            _ => Err(self.into()),
        }
    }
}

impl From<Violations> for Refused {
    fn from(wrong: Violations) -> Self {
        let Violations { reason, listed: violations, unlisted, .. } = wrong;
        Self { reason: reason.unwrap_or("INVALID_REQUEST"), violations, unlisted }
    }
}
