//! What is wrong with a configuration: everything at once, each with its remedy.

use std::{fmt, slice};

/// One thing that is wrong, where, and what to do about it.
///
/// None of the texts carries a secret: values are shown only of keys that cannot hold one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The dotted path of the key (`server.listen`), the name of the variable, or the file.
    pub key: String,
    /// What is wrong, in lower case, without a full stop.
    pub problem: String,
    /// What mends it, as an instruction.
    pub remedy: String,
}

/// Every mistake of one configuration, in the order in which the keys are declared.
///
/// `Display` prints one line for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Adds one mistake.
    pub fn add(&mut self, key: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Mistake { key: key.into(), problem: problem.into(), remedy: remedy.into() });
    }

    /// The mistakes, in order.
    pub fn iter(&self) -> slice::Iter<'_, Mistake> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value`, if there is no mistake.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl<'a> IntoIterator for &'a Mistakes {
    type Item = &'a Mistake;
    type IntoIter = slice::Iter<'a, Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A key can come from the file or the environment: it must not be able to forge a line.
        write!(f, "{}: {}; {}", self.key.escape_debug(), self.problem, self.remedy)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, mistake) in self.0.iter().enumerate() {
            if nth > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_is_one_line() {
        let mut mistakes = Mistakes::default();
        mistakes.add("server.listen", "is missing", "set it");
        mistakes.add("forged\nline", "is unknown", "remove it");
        assert_eq!(
            mistakes.to_string(),
            "server.listen: is missing; set it\nforged\\nline: is unknown; remove it"
        );
    }
}
