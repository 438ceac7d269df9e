//! A site of its own: a folder, the processes in it, and what ends them.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The command under test; the kernel kills it with the test that starts it.
pub(crate) fn husk(arguments: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_husk")]).args(arguments);
    command
}

/// A process that ends with the test.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        if self.0.kill().is_ok() {
            self.0.wait().unwrap();
        }
    }
}

/// A folder with a broker in it.
pub(crate) struct Site {
    pub(crate) folder: TempDir,
}

impl Site {
    /// An empty folder.
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A folder in which `husk broker init` and `husk tenant init` were run; yields the tenant's id.
    pub(crate) fn with_tenant() -> (Self, String) {
        let site = Self::new();
        site.json(&["broker", "init", "--database", "db", "--root-key", "root", "--json"]);
        let tenant = site.json(&[
            "tenant",
            "init",
            "--database",
            "db",
            "--root-key",
            "root",
            "--root-out",
            "tenant",
            "--json",
        ]);
        (site, tenant["tenant"].as_str().unwrap().to_owned())
    }

    /// Enrols a VM for one measurement.
    pub(crate) fn enrol(&self, tenant: &str, measurement: &[u8; 48]) -> Value {
        self.enrol_as(tenant, measurement, "config", &[])
    }

    /// As [`enrol`](Self::enrol), with its configuration elsewhere and more words.
    pub(crate) fn enrol_as(
        &self,
        tenant: &str,
        measurement: &[u8; 48],
        config: &str,
        more: &[&str],
    ) -> Value {
        let digits: String = measurement.iter().map(|byte| format!("{byte:02x}")).collect();
        let fixed = ["vm", "enroll", "--database", "db", "--tenant", tenant, "--measurement", &digits];
        self.json(&[&fixed[..], &["--config-out", config, "--json"], more].concat())
    }

    /// A file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command in the folder, where SoftHSM finds its tokens too, if a test made some.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = husk(arguments);
        command.current_dir(self.folder.path()).env("SOFTHSM2_CONF", self.path("softhsm.conf"));
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that prints JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Starts a command and waits until `ready` is there; yields its content.
    pub(crate) fn start(&self, arguments: &[&str], ready: &str) -> (Process, String) {
        self.start_saying(arguments, ready, Stdio::null())
    }

    fn start_saying(&self, arguments: &[&str], ready: &str, log: impl Into<Stdio>) -> (Process, String) {
        let ready = self.path(ready);
        if ready.exists() {
            fs::remove_file(&ready).unwrap();
        }
        let mut command = self.command(arguments);
        let child = command.stdout(Stdio::null()).stderr(log);
        let process = Process(child.spawn().unwrap());
        wait_for(&ready);
        let content = fs::read_to_string(&ready).unwrap_or_default();
        (process, content.trim().to_owned())
    }

    /// Serves on a free port, or on the one given.
    pub(crate) fn serve(&self, listen: &str, more: &[&str]) -> (Process, String) {
        self.serve_saying(listen, more, Stdio::null())
    }

    /// As [`serve`](Self::serve), with its log in a place of its own.
    pub(crate) fn serve_saying(
        &self,
        listen: &str,
        more: &[&str],
        log: impl Into<Stdio>,
    ) -> (Process, String) {
        let mut arguments =
            vec!["broker", "serve", "--database", "db", "--root-key", "root", "--listen", listen];
        arguments.extend(["--ready-file", "ready"]);
        arguments.extend(more);
        if !more.contains(&"--tls-certificate") {
            arguments.push("--plain-http");
        }
        self.start_saying(&arguments, "ready", log)
    }
}

fn wait_for(path: &Path) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !path.exists() {
        assert!(Instant::now() < patience, "{} never came", path.display());
        sleep(Duration::from_millis(10));
    }
}
