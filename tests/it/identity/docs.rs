//! What the documents show works: the example of a callers file, and every piece of docs/identity.md.

use std::path::Path;

use payops::{callers::Callers, config::Config, listener::tls::Tls};

use super::pki::{Authority, write};

const GUIDE: &str = include_str!("../../../docs/identity.md");
const EXAMPLE: &str = include_str!("../../../docs/callers.example.toml");

/// The TOML of a document.
fn blocks(markdown: &str) -> Vec<&str> {
    markdown.split("```toml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect()
}

/// A callers file as a document shows it, with files and hashes of the test.
fn filled(folder: &Path, text: &str) -> String {
    std::fs::write(folder.join("ca"), Authority::new().pem()).unwrap();
    std::fs::write(folder.join("token"), "a-token\n").unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    let text = text
        .replace("<64 hexadecimal digits>", &payops::callers::token_hash("a"))
        .replace("<64 other hexadecimal digits>", &payops::callers::token_hash("b"))
        .replace("/etc/payops/people_ca.pem", &path("ca"))
        .replace("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt", &path("ca"))
        .replace("/var/run/secrets/kubernetes.io/serviceaccount/token", &path("token"));
    assert!(!text.contains('<'), "{text}");
    text
}

#[test]
fn the_example_of_a_callers_file_is_one_and_shows_every_key() {
    let folder = tempfile::tempdir().unwrap();
    let callers = Callers::parse(&filled(folder.path(), EXAMPLE)).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!(callers.names().collect::<Vec<_>>(), ["orders", "anna"]);
    assert!(callers.may_review("anna") && !callers.may_review("orders"));
    assert_eq!((callers.authenticate("a"), callers.authenticate("b")), (Some("orders"), Some("orders")));
    // What the parser takes is what is shown, for callers and for issuers.
    let sources = [
        include_str!("../../../src/callers/parse.rs"),
        include_str!("../../../src/callers/parse/issuer.rs"),
        include_str!("../../../src/callers/parse/pace.rs"),
        include_str!("../../../src/callers/parse/rules.rs"),
    ];
    let mut keys = 0;
    for source in sources {
        let code = source.split("#[cfg(test)]").next().unwrap();
        for taken in ["remove(\"", "text(\"", "switch(\"", "list(\"", "number(\""] {
            for key in code.split(taken).skip(1).map(|rest| rest.split('"').next().unwrap()) {
                let shown =
                    EXAMPLE.contains(&format!("\n{key} = ")) || EXAMPLE.contains(&format!("\n[[{key}]]\n"));
                let shown = shown || EXAMPLE.contains(&format!(".{key}]]\n"));
                assert!(shown, "{key} is not in the example");
                keys += 1;
            }
        }
    }
    assert!(keys >= 15, "{keys}");
}

/// Copied into files from top to bottom, they are a configuration with TLS and a callers file.
#[test]
fn the_pieces_of_the_guide_fit_together() {
    let folder = tempfile::tempdir().unwrap();
    let (server, callers): (Vec<&str>, Vec<&str>) =
        blocks(GUIDE).into_iter().partition(|block| block.contains("[server.tls]"));
    assert!(server.len() == 1 && callers.len() >= 2);
    let callers = filled(folder.path(), &callers.concat());
    std::fs::write(folder.path().join("callers.toml"), &callers).unwrap();
    let known = Callers::parse(&callers).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!(known.names().collect::<Vec<_>>(), ["orders", "returns", "stock"]);

    let authority = Authority::new();
    write(folder.path(), &authority.server(), Some(&authority));
    std::fs::rename(folder.path().join("client_ca.crt"), folder.path().join("ca.crt")).unwrap();
    let shown = server.concat().replace("/etc/payops/tls", folder.path().to_str().unwrap());
    let rest = "[callers]\nfile = \"callers.toml\"\n[journal]\ndirectory = \"journal\"\n";
    let account = ["CLIENT_ID", "CLIENT_SECRET"]
        .map(|name| (format!("PAYOPS_ACCOUNT_T12345678_{name}"), "x".to_owned()));
    let config = Config::load(Some((&folder.path().join("payops.toml"), &format!("{shown}{rest}"))), account);
    let config = config.unwrap_or_else(|wrong| panic!("{wrong}"));
    Tls::open(config.server.tls.as_ref().unwrap()).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert!(config.server.health_listen.is_some());
}

/// The table of what callers hear has every reason that credentials can give.
#[test]
fn the_guide_explains_every_reason_of_the_code() {
    let source = include_str!("../../../src/grpc/status/credentials.rs");
    let table = GUIDE.split_once("## What callers hear").unwrap().1;
    let reasons: Vec<&str> = source
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|word| word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
        .collect();
    assert_eq!(reasons.len(), 4);
    for reason in reasons {
        assert!(table.contains(&format!("| `{reason}` |")), "{reason}");
    }
}
