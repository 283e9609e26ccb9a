//! The `[[issuer]]` entries of the callers file.

use std::{collections::BTreeMap, path::Path};

use toml::{Table, Value};
use url::Url;

use super::{is_name, unknown};
use crate::config::Mistakes;
use crate::issuer::{self, Algorithm, Settings, SubjectKind};

/// Each is asked for its keys every few minutes.
const ISSUERS_MAX: usize = 16;

/// Reads all of them. Relative paths start at `folder`.
pub(super) fn issuers(list: Option<Value>, folder: &Path, mistakes: &mut Mistakes) -> Vec<Settings> {
    let list = match list {
        None => return Vec::new(),
        Some(Value::Array(list)) if list.len() <= ISSUERS_MAX => list,
        Some(_) => {
            let remedy = format!("write each one under its own [[issuer]], {ISSUERS_MAX} at most");
            mistakes.add("issuer", "is not a list of tables, or too long", remedy);
            return Vec::new();
        }
    };
    let mut issuers: Vec<Settings> = Vec::new();
    for (nth, entry) in list.into_iter().enumerate() {
        let at = format!("issuer[{nth}]");
        let Value::Table(table) = entry else {
            mistakes.add(at, "is not a table", "write each one under its own [[issuer]]");
            continue;
        };
        let settings = Entry { at, table, folder, mistakes: &mut *mistakes }.read();
        for (leaf, same) in [
            ("name", issuers.iter().any(|other| other.name == settings.name)),
            ("url", issuers.iter().any(|other| other.url == settings.url)),
        ] {
            if same {
                let problem = "is that of another issuer, too";
                mistakes.add(format!("issuer[{nth}].{leaf}"), problem, "declare each issuer once");
            }
        }
        // The namespaces of two clusters may have the same name and be those of strangers.
        let all = |issuer: &Settings| issuer.admits_all && issuer.subject == SubjectKind::ServiceAccount;
        if all(&settings) && issuers.iter().any(all) {
            let problem =
                "is \"all\" for a second cluster, whose namespaces would be taken for those of the first";
            mistakes.add(
                format!("issuer[{nth}].admit"),
                problem,
                "declare its callers, each with its subjects",
            );
        }
        issuers.push(settings);
    }
    issuers
}

/// One entry while it is read.
struct Entry<'a> {
    at: String,
    table: Table,
    folder: &'a Path,
    mistakes: &'a mut Mistakes,
}

impl Entry<'_> {
    fn read(mut self) -> Settings {
        let kubernetes = self.switch("kubernetes");
        let token_review_url =
            self.text("token_review_url").and_then(|text| self.https("token_review_url", &text));
        if token_review_url.is_some() && !kubernetes {
            let problem = "has no meaning where kubernetes is not true";
            self.wrong("token_review_url", problem, "remove it, or set kubernetes = true");
        }
        let jwks_url = self.text("jwks_url").and_then(|text| self.https("jwks_url", &text));
        let name = self.text("name").unwrap_or_default();
        if !is_name(&name) {
            self.wrong("name", "is missing, or not a name", super::NAME_REMEDY);
        }
        let url = self.text("url").unwrap_or_default();
        if url.is_empty() {
            self.wrong("url", "is missing", "write what its tokens have in iss, to the letter");
        } else if jwks_url.is_none() {
            // It is where the search for the keys begins.
            self.https("url", &url);
        }
        let subject = match (kubernetes, self.text("subject_claim")) {
            (true, None) => SubjectKind::ServiceAccount,
            (false, claim) => SubjectKind::Claim(claim.unwrap_or_else(|| "sub".to_owned())),
            (true, Some(_)) => {
                let problem = "has no meaning where kubernetes is true: the subject is namespace/name";
                self.wrong("subject_claim", problem, "remove it");
                SubjectKind::ServiceAccount
            }
        };
        let settings = Settings {
            name,
            url,
            audiences: self.audiences(),
            token_review_url,
            jwks_url,
            ca_file: self.text("ca_file").map(|path| self.folder.join(path)),
            token_file: self.text("token_file").map(|path| self.folder.join(path)),
            algorithms: self.algorithms(),
            subject,
            require: self.require(),
            admits_all: self.admits_all(),
        };
        for (leaf, problem) in issuer::check(&settings) {
            self.wrong(leaf, problem, "name a readable file, or remove it");
        }
        unknown(&self.table, &format!("{}.", self.at), self.mistakes);
        settings
    }

    fn wrong(&mut self, leaf: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        self.mistakes.add(format!("{}.{leaf}", self.at), problem, remedy);
    }

    fn text(&mut self, leaf: &str) -> Option<String> {
        match self.table.remove(leaf)? {
            Value::String(text) if !text.is_empty() => Some(text),
            _ => {
                self.wrong(leaf, "is no text, or empty", "write it in quotes, or remove it");
                None
            }
        }
    }

    fn switch(&mut self, leaf: &str) -> bool {
        match self.table.remove(leaf) {
            None => false,
            Some(Value::Boolean(on)) => on,
            Some(_) => {
                self.wrong(leaf, "is neither true nor false", "write true or false");
                false
            }
        }
    }

    fn https(&mut self, leaf: &str, text: &str) -> Option<Url> {
        let url = Url::parse(text).ok().filter(|url| {
            url.scheme() == "https" && url.has_host() && url.username().is_empty() && url.password().is_none()
        });
        if url.is_none() {
            let remedy = "begin it with https://; or give jwks_url, where it only is the issuer's name";
            self.wrong(leaf, "is not the URL of a host with TLS", remedy);
        }
        url
    }

    fn audiences(&mut self) -> Vec<String> {
        let all = |list: Vec<Value>| {
            let texts = list.into_iter().map(|entry| match entry {
                Value::String(text) if !text.is_empty() => Some(text),
                _ => None,
            });
            texts.collect::<Option<Vec<_>>>().filter(|texts| !texts.is_empty())
        };
        match self.table.remove("audiences") {
            Some(Value::Array(list)) if let Some(audiences) = all(list.clone()) => audiences,
            _ => {
                let remedy =
                    "list what its tokens for payops have in aud, in square brackets, such as [\"payops\"]";
                self.wrong("audiences", "is missing, or not a list of texts", remedy);
                Vec::new()
            }
        }
    }

    fn algorithms(&mut self) -> Vec<Algorithm> {
        let named = |list: &[Value]| {
            let algorithms = list.iter().map(|name| name.as_str().and_then(Algorithm::of));
            algorithms.collect::<Option<Vec<_>>>().filter(|algorithms| !algorithms.is_empty())
        };
        match self.table.remove("algorithms") {
            None => Algorithm::ALL.to_vec(),
            Some(Value::Array(list)) if let Some(algorithms) = named(&list) => algorithms,
            Some(_) => {
                let remedy = "list some of \"RS256\", \"ES256\", \"EdDSA\", or remove it for all of them";
                self.wrong("algorithms", "is not a list of algorithms", remedy);
                Vec::new()
            }
        }
    }

    fn require(&mut self) -> BTreeMap<String, serde_json::Value> {
        let table = match self.table.remove("require") {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.wrong("require", "is not a table", "write such as { azp = \"checkout\" }");
                Table::new()
            }
        };
        let mut require = BTreeMap::new();
        for (claim, value) in table {
            let value = match value {
                Value::String(text) => text.into(),
                Value::Integer(number) => number.into(),
                Value::Boolean(on) => on.into(),
                _ => {
                    let leaf = format!("require.{claim}");
                    self.wrong(
                        &leaf,
                        "is no value of a claim",
                        "write a text, a whole number, true or false",
                    );
                    continue;
                }
            };
            require.insert(claim, value);
        }
        require
    }

    fn admits_all(&mut self) -> bool {
        match self.text("admit").as_deref() {
            None | Some("declared") => false,
            Some("all") => true,
            Some(_) => {
                self.wrong("admit", "is neither \"declared\" nor \"all\"", "write one of them, or remove it");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::callers::Callers;
    use crate::issuer::Verified;

    const CALLER: &str = "[[caller]]\nname = 'orders'\nsubjects = ['login:o']\n";
    const LOGIN: &str = "[[issuer]]\nname = 'login'\nurl = 'https://login.example'\naudiences = ['payops']\n";
    const CLUSTER: &str = "[[issuer]]\nname = 'cluster'\nkubernetes = true\nurl = 'https://cluster.example'\n\
                           audiences = ['payops']\n";

    fn verified(issuer: &str, subject: &str) -> Verified {
        Verified { issuer: issuer.into(), subject: subject.into() }
    }

    #[test]
    fn the_least_issuer_has_the_defaults() {
        let callers = Callers::parse(&format!("{CALLER}{LOGIN}")).unwrap();
        let settings = callers.issuers().settings("login").unwrap();
        assert_eq!(settings.algorithms, Algorithm::ALL);
        assert_eq!(settings.subject, SubjectKind::Claim("sub".to_owned()));
        assert_eq!((&settings.jwks_url, &settings.ca_file, &settings.token_file), (&None, &None, &None));
        assert!(settings.require.is_empty() && !settings.admits_all);
    }

    #[test]
    fn relative_paths_start_at_the_folder_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let pem = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap().cert.pem();
        fs::write(folder.path().join("ca.pem"), pem).unwrap();
        fs::write(folder.path().join("token"), "t\n").unwrap();
        let text = format!("{CALLER}{LOGIN}ca_file = 'ca.pem'\ntoken_file = 'token'");
        let callers = Callers::parse_in(folder.path(), &text, None).unwrap();
        let settings = callers.issuers().settings("login").unwrap();
        assert_eq!(settings.ca_file, Some(folder.path().join("ca.pem")));
        assert_eq!(settings.token_file, Some(folder.path().join("token")));
    }

    #[test]
    fn a_subject_names_its_caller_and_who_is_not_declared_only_where_everybody_is_admitted() {
        let all = "admit = 'all'\n";
        let text = format!(
            "[[caller]]\nname = 'orders'\nsubjects = ['login:o', 'cluster:shop/orders', 'people:a:b']\n\
             {LOGIN}{CLUSTER}{all}{}{all}",
            LOGIN.replace("login", "people")
        );
        let callers = Callers::parse(&text).unwrap();
        for (issuer, subject, due) in [
            ("login", "o", Ok("orders")),
            ("login", "x", Err("the token's subject is no caller's")),
            ("login", "shop/orders", Err("the token's subject is no caller's")),
            ("cluster", "shop/orders", Ok("orders")),
            ("cluster", "shop/stock", Ok("shop/stock")),
            ("people", "a:b", Ok("orders")),
            ("people", "orders", Ok("people:orders")),
            ("people", "shop/stock", Ok("people:shop/stock")),
            ("other", "o", Err("the token's subject is no caller's")),
        ] {
            let name = callers.of_subject(&verified(issuer, subject));
            assert_eq!(name.as_deref().map_err(|why| *why), due, "{issuer} {subject}");
        }
        // Then there may be no declared caller at all.
        assert!(Callers::parse(&format!("{CLUSTER}{all}")).is_ok());
        assert!(Callers::parse(CLUSTER).unwrap_err().to_string().starts_with("caller: is missing"));
    }

    /// What is added to a good file, the key that is named, and a part of the message.
    #[rustfmt::skip]
    const WRONG: &[(&str, &str, &str)] = &[
        ("[[issuer]]", "issuer[1].name", "is missing, or not a name"),
        ("[[issuer]]", "issuer[1].url", "is missing; write what its tokens have in iss"),
        ("[[issuer]]", "issuer[1].audiences", "is missing, or not a list of texts; list what"),
        ("[[issuer]]\nname = 'login'", "issuer[1].name", "is that of another issuer"),
        ("[[issuer]]\nname = 'Log in'", "issuer[1].name", "lower-case letters"),
        ("[[issuer]]\nurl = 'https://login.example'", "issuer[1].url", "is that of another issuer"),
        ("[[issuer]]\nurl = 'http://other.example'", "issuer[1].url", "is not the URL of a host with TLS"),
        ("[[issuer]]\nurl = 'cluster'", "issuer[1].url", "or give jwks_url"),
        ("[[issuer]]\nurl = 7", "issuer[1].url", "is no text, or empty"),
        ("[[issuer]]\njwks_url = 'http://other.example/keys'", "issuer[1].jwks_url", "is not the URL of a host with TLS"),
        ("[[issuer]]\njwks_url = 'https://a:hunter2@other.example/keys'", "issuer[1].jwks_url", "is not the URL of a host with TLS"),
        ("[[issuer]]\ntoken_review_url = 'https://other.example/review'", "issuer[1].token_review_url", "set kubernetes = true"),
    ("[[issuer]]\nkubernetes = true\ntoken_review_url = 'http://other.example/review'", "issuer[1].token_review_url", "is not the URL of a host with TLS"),
    ("[[issuer]]\naudiences = []", "issuer[1].audiences", "not a list of texts"),
        ("[[issuer]]\naudiences = 'payops'", "issuer[1].audiences", "not a list of texts"),
        ("[[issuer]]\naudiences = ['']", "issuer[1].audiences", "not a list of texts"),
        ("[[issuer]]\nalgorithms = ['HS256']", "issuer[1].algorithms", "list some of \"RS256\", \"ES256\", \"EdDSA\""),
        ("[[issuer]]\nalgorithms = ['none']", "issuer[1].algorithms", "is not a list of algorithms"),
        ("[[issuer]]\nalgorithms = []", "issuer[1].algorithms", "is not a list of algorithms"),
        ("[[issuer]]\nalgorithms = 'RS256'", "issuer[1].algorithms", "is not a list of algorithms"),
        ("[[issuer]]\nca_file = 'missing.pem'", "issuer[1].ca_file", "cannot be read"),
        ("[[issuer]]\nca_file = 'Cargo.toml'", "issuer[1].ca_file", "holds no certificate in PEM"),
        ("[[issuer]]\ntoken_file = 'missing'", "issuer[1].token_file", "cannot be used (No such file"),
        ("[[issuer]]\nkubernetes = 'yes'", "issuer[1].kubernetes", "is neither true nor false"),
        ("[[issuer]]\nkubernetes = true\nsubject_claim = 'sub'", "issuer[1].subject_claim", "has no meaning where kubernetes is true"),
        ("[[issuer]]\nrequire = 'azp'", "issuer[1].require", "is not a table"),
        ("[[issuer]]\nrequire = { azp = ['a'] }", "issuer[1].require.azp", "is no value of a claim"),
        ("[[issuer]]\nadmit = 'everybody'", "issuer[1].admit", "is neither \"declared\" nor \"all\""),
        ("[[issuer]]\nissuer = 'x'", "issuer[1].issuer", "is unknown"),
        ("[[caller]]\nname = 'a'\nsubjects = ['other:x']", "caller[1].subjects[0]", "is of the issuer \"other\", which is not declared"),
        ("[[caller]]\nname = 'a'\nsubjects = ['x']", "caller[1].subjects[0]", "is not the subject of an issuer; write"),
        ("[[caller]]\nname = 'a'\nsubjects = ['login:']", "caller[1].subjects[0]", "is not the subject of an issuer"),
        ("[[caller]]\nname = 'a'\nsubjects = [7]", "caller[1].subjects[0]", "is not the subject of an issuer"),
        ("[[caller]]\nname = 'a'\nsubjects = []", "caller[1].subjects", "is no list, or empty"),
        ("[[caller]]\nname = 'a'\nsubjects = ['login:o']", "caller[1].subjects[0]", "is already a subject of caller[0]"),
    ];

    #[test]
    fn each_mistake_is_named_with_its_remedy() {
        for (wrong, key, part) in WRONG {
            let mistakes = Callers::parse(&format!("{CALLER}{LOGIN}{wrong}")).expect_err(wrong);
            let found =
                mistakes.iter().find(|mistake| mistake.key == *key && mistake.to_string().contains(part));
            assert!(found.is_some(), "{wrong}: {mistakes}");
            assert!(!mistakes.to_string().contains("hunter2"), "{wrong}: {mistakes}");
        }
        for wrong in ["issuer = 7\n", "issuer = { name = 'login' }\n"] {
            let told = Callers::parse(&format!("{wrong}{CALLER}")).unwrap_err().to_string();
            assert!(told.contains("issuer: is not a list of tables"), "{told}");
        }
        let second = CLUSTER.replace("cluster", "second");
        let text = format!("{CALLER}{LOGIN}{CLUSTER}admit = 'all'\n{second}admit = 'all'\n");
        let told = Callers::parse(&text).unwrap_err().to_string();
        assert!(told.contains("issuer[2].admit: is \"all\" for a second cluster"), "{told}");
        let account = CALLER.replace("login:o", "cluster:orders");
        let told = Callers::parse(&format!("{account}{CLUSTER}")).unwrap_err().to_string();
        assert!(told.contains("caller[0].subjects[0]: is not a service account"), "{told}");
        let many = (0..17).map(|nth| LOGIN.replace("login", &format!("login{nth}"))).collect::<String>();
        let told =
            Callers::parse(&format!("{many}[[caller]]\nname = 'a'\nsubjects = ['login1:o']")).unwrap_err();
        assert!(told.to_string().contains("issuer: is not a list of tables, or too long"), "{told}");
    }
}
