//! What nobody asked for: unknown keys and variables, with the name that was probably meant.

use std::collections::BTreeSet;

use toml::{Table, Value};

use crate::config::reader::{Reader, variable_of};

impl Reader {
    /// Reports what is left of a table after everything known was taken out.
    pub(in crate::config) fn leftovers(&mut self, table: &Table, prefix: &str, known: &[&str]) {
        for leaf in table.keys() {
            let remedy = suggestion(leaf, known.iter().copied(), |name| format!("{prefix}.{name}"));
            self.mistakes.add(format!("{prefix}.{leaf}"), "is unknown", remedy);
        }
    }

    /// Reports every key and every variable that nobody asked for.
    pub(in crate::config) fn finish(&mut self) {
        let keys: BTreeSet<String> = self.settings.iter().map(|setting| setting.key.clone()).collect();
        let keys: BTreeSet<String> = keys.into_iter().chain(["account".to_owned()]).collect();
        let sections: BTreeSet<&str> = keys.iter().filter_map(|key| key.split('.').next()).collect();
        let mut unknown = Vec::new();
        for (name, value) in std::mem::take(&mut self.file) {
            match value {
                Value::Table(section) if sections.contains(name.as_str()) => {
                    unknown.extend(leaves(&name, section, &keys));
                }
                _ if sections.contains(name.as_str()) => {
                    let remedy = format!("write its keys under [{name}]");
                    self.mistakes.add(name, "is a section, not a value", remedy);
                }
                _ => {
                    let remedy =
                        suggestion(&name, sections.iter().copied(), |section| format!("[{section}]"));
                    self.mistakes.add(name, "is unknown", remedy);
                }
            }
        }
        for key in unknown {
            let leaf = key.rsplit('.').next().unwrap_or_default();
            let elsewhere = keys.iter().find(|known| known.rsplit('.').next() == Some(leaf));
            let remedy = match elsewhere {
                Some(known) => format!("did you mean {known}?"),
                None => suggestion(&key, keys.iter().map(String::as_str), str::to_owned),
            };
            self.mistakes.add(key, "is unknown", remedy);
        }
        let names: Vec<String> = keys.iter().map(|key| variable_of(key)).collect();
        for name in std::mem::take(&mut self.variables).into_keys() {
            let remedy = if name.starts_with("PAYOPS_ACCOUNT_") {
                "write PAYOPS_ACCOUNT_, the account id, and _CLIENT_ID or _CLIENT_SECRET".to_owned()
            } else {
                suggestion(&name, names.iter().map(String::as_str), str::to_owned)
            };
            self.mistakes.add(name, "is an unknown variable", remedy);
        }
    }
}

/// What is left of a section: of a part of it that is known, its keys.
fn leaves(name: &str, section: Table, keys: &BTreeSet<String>) -> Vec<String> {
    let leaf = |(leaf, value): (String, Value)| {
        let key = format!("{name}.{leaf}");
        let is_part =
            keys.iter().any(|known| known.strip_prefix(&key).is_some_and(|rest| rest.starts_with('.')));
        match value {
            Value::Table(part) if is_part => leaves(&key, part, keys),
            _ => vec![key],
        }
    };
    section.into_iter().flat_map(leaf).collect()
}

/// Whether a variable is one that Kubernetes sets in every pod for each service: a service named `payops` gives
/// `PAYOPS_SERVICE_HOST`, `PAYOPS_PORT_50051_TCP_ADDR` and their kind. They are none of our keys, and no mistake.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    let after_port =
        name.split_once("_PORT_").map(|(_, rest)| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || (name.ends_with("_PORT") && value.contains("://"))
        || name.contains("_SERVICE_PORT_")
        || after_port
            .is_some_and(|rest| ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| rest.starts_with(protocol)))
}

fn suggestion<'a>(
    wrong: &str,
    known: impl Iterator<Item = &'a str>,
    write: impl Fn(&str) -> String,
) -> String {
    // A third of the letters may differ; what is further away was probably not meant.
    let nearest = known.map(|name| (distance(wrong, name), name)).min();
    match nearest {
        Some((distance, name)) if distance <= wrong.len().max(name.len()) / 3 => {
            format!("did you mean {}?", write(name))
        }
        _ => "remove it".to_owned(),
    }
}

/// How many characters must be inserted, removed or replaced to make one text the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (nth, a) in one.chars().enumerate() {
        let mut left = nth + 1;
        let mut next = vec![left];
        for (b, [diagonal, up]) in other.chars().zip(row.array_windows()) {
            left = (diagonal + usize::from(a != b)).min(up + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_single_character_edits() {
        for (one, other, edits) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "ab", 2),
            ("listen", "listen", 0),
            ("lisen", "listen", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one, other), edits, "{one} {other}");
            assert_eq!(distance(other, one), edits, "{other} {one}");
        }
    }

    #[test]
    fn the_nearest_name_is_suggested_and_nothing_far_away() {
        let known = ["server.listen", "server.reflection"];
        assert_eq!(
            suggestion("server.lisen", known.into_iter(), str::to_owned),
            "did you mean server.listen?"
        );
        assert_eq!(suggestion("colour", known.into_iter(), str::to_owned), "remove it");
    }

    #[test]
    fn what_kubernetes_sets_for_a_service_named_payops_is_no_key() {
        for (name, value) in [
            ("PAYOPS_SERVICE_HOST", "10.0.0.1"),
            ("PAYOPS_SERVICE_PORT", "50051"),
            ("PAYOPS_SERVICE_PORT_GRPC", "50051"),
            ("PAYOPS_PORT", "tcp://10.0.0.1:50051"),
            ("PAYOPS_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
            ("PAYOPS_PORT_50051_TCP_PROTO", "tcp"),
            ("PAYOPS_PORT_50051_TCP_ADDR", "10.0.0.1"),
            ("PAYOPS_HEADLESS_SERVICE_HOST", "10.0.0.1"),
        ] {
            assert!(is_service_link(name, value), "{name}");
        }
        for (name, value) in
            [("PAYOPS_SERVER_LISTEN", "tcp://x"), ("PAYOPS_SERVICE_LISTEN", ""), ("PAYOPS_SERVER_PORT", "80")]
        {
            assert!(!is_service_link(name, value), "{name}");
        }
    }
}
