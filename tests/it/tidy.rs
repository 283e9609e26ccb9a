//! The house stays in order: arrows, names, sizes, and one of each kind of dependency.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Each module and the modules that it may know. Arrows point down a request's path, never up: a module stands above all
/// that it knows, so there is no circle.
const ARROWS: &[(&str, &[&str])] = &[
    (
        "app",
        &[
            "audit",
            "auth",
            "callers",
            "clock",
            "conclude",
            "config",
            "failure",
            "grpc",
            "health",
            "inbound",
            "journal",
            "listener",
            "metrics",
            "operations",
            "psp",
            "reconcile",
            "retention",
            "review",
            "sweep",
            "trace",
            "webhook",
        ],
    ),
    ("inbound", &["failure", "grpc", "metrics", "payment", "trace"]),
    ("audit", &["clock", "journal", "metrics"]),
    ("auth", &["audit", "callers", "grpc", "issuer", "listener", "payment", "policy"]),
    ("health", &["grpc"]),
    (
        "grpc",
        &[
            "audit",
            "clock",
            "conclude",
            "failure",
            "idempotency",
            "journal",
            "metrics",
            "operations",
            "payment",
            "policy",
            "psp",
            "review",
            "trace",
        ],
    ),
    (
        "operations",
        &[
            "attempt",
            "conclude",
            "detach",
            "failure",
            "idempotency",
            "journal",
            "payment",
            "psp",
            "reconcile",
        ],
    ),
    ("detach", &["failure"]),
    ("idempotency", &["attempt", "failure", "journal", "payment", "psp", "reconcile"]),
    ("attempt", &["clock", "conclude", "failure", "journal", "payment", "psp", "trace"]),
    ("reconcile", &["clock", "conclude", "journal", "payment", "psp", "trace"]),
    ("sweep", &["clock", "conclude", "journal", "payment", "psp"]),
    ("metrics", &["clock", "journal", "listener", "payment", "psp", "trace"]),
    ("webhook", &["config", "listener", "payment"]),
    ("review", &["clock", "conclude", "journal", "payment", "psp"]),
    ("retention", &["journal"]),
    ("conclude", &["clock", "failure", "journal", "payment", "psp"]),
    ("failure", &["clock", "journal", "payment", "psp"]),
    ("journal", &["clock", "config", "payment"]),
    ("psp", &["clock", "config", "payment"]),
    ("callers", &["config", "issuer", "payment", "policy"]),
    ("policy", &["payment"]),
    ("issuer", &["config"]),
    ("telemetry", &["config"]),
    ("trace", &["payment"]),
    // A client of the contract, like any other.
    ("cli", &["callers", "clock", "config", "grpc", "journal", "listener", "payment", "policy", "psp"]),
    ("config", &["payment"]),
    ("payment", &[]),
    ("clock", &[]),
    ("listener", &["callers", "config"]),
    // Knows nobody and is known by nobody but the command: it is judged by the same wire as the real one.
    ("sandbox", &[]),
];

/// Nine in ten files of the codebases that we admire stay under 400 lines.
const LINES_MAX: usize = 480;

/// What stands at the top, beside dotfiles.
const TOP: &[&str] = &[
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "Dockerfile",
    "LICENSE",
    "README.md",
    "benches",
    "build.rs",
    "docs",
    "helm",
    "proto",
    "src",
    "tests",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder of the project.
fn rust_files(folder: &str) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(!files.is_empty());
    files
}

/// The module that a file of `src` belongs to: its first name below `src`.
fn module(file: &Path) -> String {
    let path = file.strip_prefix(root().join("src")).unwrap();
    let first = path.components().next().unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules that a text names by `crate::`, its tests apart.
fn known(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]").next().unwrap();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let names = lines.flat_map(|line| line.split("crate::").skip(1)).map(|rest| {
        rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default().to_owned()
    });
    names.filter(|name| !name.is_empty()).collect()
}

fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in rust_files("src") {
        let module = module(&file);
        let mut known = known(&fs::read_to_string(&file).unwrap());
        known.remove(&module);
        arrows.entry(module).or_default().extend(known);
    }
    // The command stands above them all.
    for top in ["lib", "main"] {
        arrows.remove(top).unwrap();
    }
    arrows
}

#[test]
fn arrows_point_down_a_requests_path() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ARROWS.iter().map(|(module, known)| (*module, known.iter().copied().collect())).collect();
    let drawn = arrows();
    assert_eq!(
        drawn.keys().map(String::as_str).collect::<Vec<_>>(),
        allowed.keys().copied().collect::<Vec<_>>()
    );
    for (module, known) in &drawn {
        let known: BTreeSet<&str> = known.iter().map(String::as_str).collect();
        let beyond: Vec<_> = known.difference(&allowed[module.as_str()]).collect();
        assert!(beyond.is_empty(), "{module} must not know {beyond:?}");
    }
}

/// What the table allows has itself no circle.
#[test]
fn no_module_knows_itself_through_others() {
    for (start, known) in ARROWS {
        let (mut seen, mut next) = (BTreeSet::new(), known.to_vec());
        while let Some(module) = next.pop() {
            assert_ne!(module, *start, "{start} knows itself");
            if seen.insert(module) {
                next.extend(ARROWS.iter().find(|(name, _)| *name == module).expect(module).1);
            }
        }
    }
}

#[test]
fn the_map_shows_every_module() {
    let map = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let shown: BTreeSet<&str> =
        map.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(shown, ARROWS.iter().map(|(module, _)| *module).collect());
}

#[test]
fn files_are_short_and_stand_beside_their_folders() {
    for file in rust_files("src").into_iter().chain(rust_files("tests")) {
        assert!(!file.ends_with("mod.rs"), "{}: name it after its folder", file.display());
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        let tests =
            file.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs");
        assert!(tests || lines <= LINES_MAX, "{}: {lines} lines", file.display());
    }
}

#[test]
fn nothing_new_stands_at_the_top() {
    let listed = std::process::Command::new("git").args(["ls-files"]).current_dir(root()).output().unwrap();
    let files = String::from_utf8(listed.stdout).unwrap();
    let top: BTreeSet<&str> = files
        .lines()
        .map(|file| file.split('/').next().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    assert_eq!(top, TOP.iter().copied().collect());
}

/// One TLS, one HTTP, one runtime, in what the program is built from; the rest of the rules is in .deny.toml.
#[test]
fn there_is_one_tls_one_http_and_one_runtime() {
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none"])
        .args(["--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let printed = String::from_utf8(tree.stdout).unwrap();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, version) in printed.lines().filter_map(|line| line.split_once(' ')) {
        versions.entry(name).or_default().insert(version.split(' ').next().unwrap());
    }
    for once in ["rustls", "aws-lc-rs", "hyper", "h2", "http", "tokio", "tower", "tonic", "prost", "reqwest"]
    {
        assert_eq!(versions.get(once).map(BTreeSet::len), Some(1), "{once}");
    }
    for never in
        ["openssl", "openssl-sys", "native-tls", "ring", "async-std", "smol", "actix-web", "curl", "ureq"]
    {
        assert_eq!(versions.get(never), None, "{never}");
    }
}
