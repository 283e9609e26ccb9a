//! Reads the text of a callers file. Reports every mistake at once, and never a hash.

mod issuer;
mod pace;
mod rules;

use std::{path::Path, sync::Arc};

use toml::{Table, Value};

use crate::callers::{
    Callers, Hash,
    certificate::{is_dns_name, is_spiffe_id},
    hash,
    parse::{
        pace::pace,
        rules::{Lines, Whose, rules},
    },
};
use crate::config::{Mistakes, parse_toml};
use crate::issuer::{Issuers, SubjectKind};
use crate::policy::Rights;

const NAME_REMEDY: &str = "write 1 to 63 lower-case letters, digits, dots, dashes or underscores, \
                           beginning with a letter or digit";

/// What proves to be a caller; each has at least one.
const CREDENTIALS: [&str; 3] = ["token_sha256", "certificate_names", "subjects"];

/// Longest subject of an issuer.
const SUBJECT_BYTES_MAX: usize = 255;

impl Callers {
    /// Reads the text of a callers file. Reports every mistake at once, and never a hash.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        Self::parse_in(Path::new(""), text, None)
    }

    /// The same of a file in `folder`, at which relative paths start, that takes the place of an earlier version.
    pub(super) fn parse_in(folder: &Path, text: &str, before: Option<&Self>) -> Result<Self, Mistakes> {
        let mut file = parse_toml("callers", text)?;
        let lines = Lines::of(text);
        let mut mistakes = Mistakes::default();
        let issuers = issuer::issuers(file.remove("issuer"), folder, &mut mistakes);
        let issuers = Issuers::new(issuers, before.map(|before| &before.issuers));
        let mut callers = Self { issuers, ..Self::default() };
        match file.remove("caller") {
            Some(Value::Array(list)) if !list.is_empty() => {
                for (place, entry) in (0..).zip(list) {
                    callers.add(place, entry, &lines, &mut mistakes);
                }
            }
            // Everybody whom an issuer names may be one.
            None if callers.issuers.admit_all() => {}
            _ => mistakes.add("caller", "is missing", "declare at least one [[caller]]"),
        }
        match file.remove("group") {
            None => {}
            Some(Value::Array(list)) => {
                for (place, entry) in list.into_iter().enumerate() {
                    callers.add_group(place, entry, &lines, &mut mistakes);
                }
            }
            Some(_) => mistakes.add("group", "is no list", "write each one under its own [[group]]"),
        }
        unknown(&file, "", &mut mistakes);
        mistakes.or(callers)
    }

    fn add(&mut self, place: u32, entry: Value, lines: &Lines<'_>, mistakes: &mut Mistakes) {
        let at = format!("caller[{place}]");
        let Value::Table(mut entry) = entry else {
            return mistakes.add(at, "is not a table", "write each one under its own [[caller]]");
        };
        let name = self.take_name(&at, &mut entry, mistakes);
        match entry.remove("review") {
            None | Some(Value::Boolean(false)) => {}
            Some(Value::Boolean(true)) => _ = self.reviewers.insert(name.clone()),
            Some(_) => {
                mistakes.add(format!("{at}.review"), "is neither true nor false", "write true or false");
            }
        }
        let nth = usize::try_from(place).unwrap_or(usize::MAX);
        let whose = Whose { table: "caller", place: nth, name: &name };
        let rules = rules(entry.remove("allow"), &whose, lines, mistakes);
        let pace = pace(&mut entry, &at, mistakes);
        self.rights.insert(name.clone(), Arc::new(Rights { rules, pace }));
        self.names.push(name);
        if !CREDENTIALS.iter().any(|key| entry.contains_key(*key)) {
            let remedy = "list the SHA-256 of at least one token, in square brackets, or give certificate_names or subjects";
            mistakes.add(format!("{at}.token_sha256"), "is missing", remedy);
        }
        let mut list = |key: &str, what: &str, mistakes: &mut Mistakes| match entry.remove(key) {
            None => Vec::new(),
            Some(Value::Array(list)) if !list.is_empty() => list,
            Some(_) => {
                let remedy = format!("list at least one {what}, in square brackets, or remove it");
                mistakes.add(format!("{at}.{key}"), "is no list, or empty", remedy);
                Vec::new()
            }
        };
        for (nth, text) in list("token_sha256", "SHA-256 of a token", mistakes).iter().enumerate() {
            self.add_hash(place, &format!("{at}.token_sha256[{nth}]"), text, mistakes);
        }
        for (nth, name) in list("certificate_names", "SPIFFE id or DNS name", mistakes).iter().enumerate() {
            self.add_certificate_name(place, &format!("{at}.certificate_names[{nth}]"), name, mistakes);
        }
        for (nth, subject) in list("subjects", "subject of an issuer", mistakes).iter().enumerate() {
            self.add_subject(place, &format!("{at}.subjects[{nth}]"), subject, mistakes);
        }
        unknown(&entry, &format!("{at}."), mistakes);
    }

    fn take_name(&self, at: &str, entry: &mut Table, mistakes: &mut Mistakes) -> String {
        match entry.remove("name") {
            Some(Value::String(name)) if is_name(&name) => {
                if self.names.contains(&name) {
                    let problem = format!("{name:?} is declared twice");
                    mistakes.add(format!("{at}.name"), problem, "give each caller its own name");
                }
                name
            }
            found => {
                let problem = if found.is_some() { "is not a name" } else { "is missing" };
                mistakes.add(format!("{at}.name"), problem, NAME_REMEDY);
                String::new()
            }
        }
    }

    fn add_hash(&mut self, place: u32, key: &str, text: &Value, mistakes: &mut Mistakes) {
        let Some(new) = text.as_str().and_then(from_hex) else {
            return mistakes.add(key, "is not a SHA-256", "write 64 hexadecimal digits in quotes");
        };
        if new == hash("") {
            mistakes.add(key, "is the hash of nothing", "hash the token itself");
        } else if let Some((_, other)) = self.hashes.iter().find(|(known, _)| *known == new) {
            let problem = format!("is already a hash of caller[{other}]");
            mistakes.add(key, problem, "give each caller tokens of its own, and each once");
        } else {
            self.hashes.push((new, place));
        }
    }

    fn add_certificate_name(&mut self, place: u32, key: &str, name: &Value, mistakes: &mut Mistakes) {
        let Some(name) = name.as_str().filter(|name| is_spiffe_id(name) || is_dns_name(name)) else {
            let remedy = "write such as \"spiffe://example.org/ns/shop/sa/orders\" or \"orders.example.org\", \
                          in lower case and without wildcards";
            return mistakes.add(key, "is neither a SPIFFE id nor a DNS name", remedy);
        };
        if let Some(other) = self.certificate_names.insert(name.to_owned(), place) {
            let problem = format!("is already a name of caller[{other}]");
            mistakes.add(key, problem, "give each caller names of its own, and each once");
        }
    }

    fn add_subject(&mut self, place: u32, key: &str, subject: &Value, mistakes: &mut Mistakes) {
        let parts = subject.as_str().and_then(|text| text.split_once(':'));
        let parts = parts.filter(|(_, subject)| (1..=SUBJECT_BYTES_MAX).contains(&subject.len()));
        let Some((issuer, subject)) = parts else {
            let remedy = "write the name of the [[issuer]], a colon and the subject, such as \"login:orders\" or \
                          \"cluster:shop/orders\"";
            return mistakes.add(key, "is not the subject of an issuer", remedy);
        };
        let Some(settings) = self.issuers.settings(issuer) else {
            let problem = format!("is of the issuer {issuer:?}, which is not declared");
            return mistakes.add(key, problem, "declare it under [[issuer]]");
        };
        if settings.subject == SubjectKind::ServiceAccount && subject.split('/').count() != 2 {
            let problem = "is not a service account";
            return mistakes.add(key, problem, "write the namespace, a slash and the name");
        }
        if let Some(other) = self.subjects.insert(format!("{issuer}:{subject}"), place) {
            let problem = format!("is already a subject of caller[{other}]");
            mistakes.add(key, problem, "give each caller subjects of its own, and each once");
        }
    }
}

pub(super) fn is_name(text: &str) -> bool {
    let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 63
        && text.bytes().next().is_some_and(first)
        && text.bytes().all(|b| first(b) || b".-_".contains(&b))
}

fn unknown(table: &Table, at: &str, mistakes: &mut Mistakes) {
    for key in table.keys() {
        mistakes.add(format!("{at}{key}"), "is unknown", "remove it");
    }
}

fn from_hex(text: &str) -> Option<Hash> {
    let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits: Vec<u8> = text.bytes().map(|b| digit(&b)).collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    bytes.try_into().ok()
}
