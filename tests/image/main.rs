//! The image: what is in it, that it can be built again, and that it serves as the chart runs it.
//!
//! `cargo test --test image`, as root, with buildah, podman, runc and mmdebstrap; `tests/run` installs them.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

#[path = "../it/console.rs"]
mod console;
#[path = "../it/started.rs"]
mod started;

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command, sync::OnceLock};

use serde_json::Value;

use crate::console::run_console_blocks;
use crate::started::{Started, path_with_tools};

const README: &str = include_str!("../../README.md");
const IMAGE: &str = "localhost/payops-test";
/// Of which the program is by far the largest part; in release it is a quarter smaller.
const SIZE_MAX: u64 = 48_000_000;

/// Runs a command to its end; gives what it prints.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (printed, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {printed}{told}");
    printed.trim().to_owned()
}

/// Builds the image.
fn build(tag: &str, again: Option<&str>) -> String {
    let name = format!("{IMAGE}:{tag}");
    output(Command::new("tests/image/build").arg(&name).args(again));
    name
}

/// The image that every test looks at.
fn image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| build("first", None))
}

fn inspected(image: &str) -> Value {
    let printed = output(Command::new("podman").args(["image", "inspect", image]));
    serde_json::from_str::<Value>(&printed).unwrap()[0].take()
}

/// The files of the image, by their path in it.
fn files() -> (PathBuf, BTreeSet<String>) {
    let root = PathBuf::from(output(Command::new("podman").args(["image", "mount", image()])));
    let (mut files, mut folders) = (BTreeSet::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(format!("/{}", path.strip_prefix(&root).unwrap().display()));
            }
        }
    }
    (root, files)
}

/// A container as the chart's pod is one: nobody's user, nothing to write to but a folder for what is thrown away, no
/// capability, no way to more.
fn contained() -> Command {
    let mut command = Command::new("podman");
    command.args(["--runtime", "runc", "run", "--rm", "--network", "host", "--log-driver", "none"]);
    command.args(["--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp"]);
    command.args(["--cap-drop", "all", "--security-opt", "no-new-privileges"]);
    // No more than this machine may give.
    command.args(["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"]);
    command.arg(image());
    command
}

#[test]
fn it_holds_the_program_what_that_is_linked_to_and_nothing_else() {
    let (root, files) = files();
    let libraries = ["ld-linux-", "libc.so.", "libm.so.", "libgcc_s.so."];
    let others: Vec<_> = files
        .iter()
        .filter(|file| !libraries.iter().any(|library| file.rsplit('/').next().unwrap().starts_with(library)))
        .map(String::as_str)
        .collect();
    assert_eq!(
        others,
        [
            "/etc/group",
            "/etc/nsswitch.conf",
            "/etc/passwd",
            "/etc/ssl/certs/ca-certificates.crt",
            "/usr/bin/payops",
            "/usr/share/doc/payops/LICENSE",
            "/usr/share/doc/payops/sbom.cdx.json",
            "/var/lib/dpkg/status.d/ca-certificates",
            "/var/lib/dpkg/status.d/libc6",
            "/var/lib/dpkg/status.d/libgcc-s1",
        ]
    );
    let inspected = inspected(image());
    assert_eq!(inspected["Config"]["User"], "10001:10001");
    assert_eq!(inspected["Config"]["Entrypoint"], serde_json::json!(["/usr/bin/payops"]));
    let size = inspected["Size"].as_u64().unwrap();
    let program = fs::metadata(root.join("usr/bin/payops")).unwrap().len();
    println!("the image has {size} bytes, {program} of them payops");
    assert!(size < SIZE_MAX, "{size}");
}

/// Both the file that lies beside the program and the list within it have what the lock file has.
#[test]
fn what_it_is_made_of_is_on_record() {
    let (root, _) = files();
    let text = fs::read_to_string(root.join("usr/share/doc/payops/sbom.cdx.json")).unwrap();
    let bom: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(bom["bomFormat"], "CycloneDX");
    assert_eq!(bom["metadata"]["component"]["name"], "payops");
    let components: BTreeSet<_> = bom["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one["version"].as_str().unwrap()))
        .collect();
    let tree = output(Command::new(env!("CARGO")).args([
        "tree",
        "--locked",
        "--offline",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]));
    let linked: BTreeSet<_> = tree
        .lines()
        .filter_map(|line| line.strip_prefix("payops ").map_or(Some(line), |_| None))
        .filter_map(|line| line.split_once(" v"))
        .map(|(name, rest)| (name, rest.split(' ').next().unwrap()))
        .collect();
    let missing: Vec<_> = linked.difference(&components).collect();
    assert!(missing.is_empty(), "{missing:?}");
    println!("{} components", components.len());

    // What `cargo auditable` leaves in the program.
    let program = root.join("usr/bin/payops");
    let sections = output(Command::new("readelf").args(["--sections", "--wide"]).arg(program));
    assert!(sections.contains(".dep-v0"), "{sections}");
}

#[test]
fn it_runs_read_only_as_nobody_without_capabilities_and_serves_the_readme() {
    let started = Started::of(contained(), "serve --sandbox");
    let running = output(
        Command::new("podman").args(["ps", "--quiet", "--filter"]).arg(format!("ancestor={}", image())),
    );
    let process = output(Command::new("podman").args(["inspect", "--format", "{{.State.Pid}}", &running]));
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!((of("Uid"), of("Gid"), of("NoNewPrivs")), ("10001".into(), "10001".into(), "1".into()));
    for capabilities in ["CapEff", "CapPrm", "CapBnd", "CapAmb"] {
        assert_eq!(of(capabilities).trim_start_matches('0'), "", "{capabilities}");
    }
    let mounts = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap();
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    assert!(root.split(' ').nth(5).unwrap().split(',').any(|option| option == "ro"), "{root}");

    let commands = run_console_blocks(&started.adapt(README), &[("PATH".to_owned(), path_with_tools())]);
    let commands = commands.unwrap_or_else(|difference| panic!("{difference}"));
    assert!(commands >= 12, "only {commands} commands ran");
    println!("{commands} commands of the README");
}

/// The same commit gives the same image, when payops is compiled a second time.
#[test]
fn it_can_be_built_again_bit_by_bit() {
    let first = inspected(image());
    let second = inspected(&build("second", Some("again")));
    assert_eq!(first["Id"], second["Id"]);
    println!("{}", first["Id"]);
}
