//! The program as a document starts it, but on ports of its own.

use std::{
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

/// How long it may take to drain.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Started {
    child: Child,
    /// What it prints, from the second line on.
    pub printed: BufReader<ChildStdout>,
    pub boundary: SocketAddr,
    simulator: SocketAddr,
}

impl Started {
    /// Starts payops with the sandbox; the arguments are those of a document.
    pub fn by(arguments: &str) -> Self {
        Self::of(Command::new(env!("CARGO_BIN_EXE_payops")), arguments)
    }

    /// The same by a command that runs payops.
    pub fn of(mut command: Command, arguments: &str) -> Self {
        let (boundary, simulator) = (free_address(), free_address());
        let mut child = command
            .args(arguments.split_whitespace())
            .args(["--listen", &boundary.to_string(), "--sandbox-listen", &simulator.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut printed = BufReader::new(child.stdout.take().unwrap());
        // What it prints once it listens.
        let mut line = String::new();
        printed.read_line(&mut line).unwrap();
        let started = Self { child, printed, boundary, simulator };
        assert!(line.contains(&boundary.to_string()), "{line}");
        started
    }

    /// The document with the addresses of this process.
    pub fn adapt(&self, markdown: &str) -> String {
        markdown
            .replace("127.0.0.1:50051", &self.boundary.to_string())
            .replace("127.0.0.1:50052", &self.simulator.to_string())
    }
}

impl Drop for Started {
    /// Asks it to end, for what runs it may have something to clear away.
    fn drop(&mut self) {
        let id = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        // Whether it is gone already is seen below.
        rustix::process::kill_process(id, rustix::process::Signal::TERM).ok();
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The path, with the folder of the program and the one in which `tests/run` keeps its tools before it.
pub fn path_with_tools() -> String {
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(target).join("tools/bin");
    let program = Path::new(env!("CARGO_BIN_EXE_payops")).parent().unwrap();
    let others = std::env::var("PATH").unwrap_or_default();
    format!("{}:{}:{others}", program.display(), tools.display())
}

/// An address at which nobody listens now.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
