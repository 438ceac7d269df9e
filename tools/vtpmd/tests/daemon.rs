//! The daemon as a process: its start, its orderly end, its refusals.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use clap::Parser;
use husk_vtpmd::cli::{ServeArgs, serve};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use support::BenchMachine;

/// How this file's own child is told what to serve.
const LINE: &str = "HUSK_VTPMD_TEST_LINE";

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    serve: ServeArgs,
}

#[test]
#[ignore = "the child of the tests below"]
fn child() {
    let Ok(line) = std::env::var(LINE) else { return };
    let words = std::iter::once("vtpmd").chain(line.split(' '));
    let line = Line::parse_from(words);
    serve(&line.serve, BenchMachine::boxed()).unwrap();
    eprintln!("ended in order");
}

/// A daemon that dies with this value.
struct Daemon {
    child: Child,
    said: BufReader<std::process::ChildStderr>,
}

impl Daemon {
    fn start(line: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child", "--nocapture"])
            .env(LINE, line)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        Self { child, said }
    }

    fn ready(line: &str) -> Self {
        let mut daemon = Self::start(line);
        let mut said = String::new();
        daemon.said.read_line(&mut said).unwrap();
        assert_eq!(said, "vtpmd: ready\n");
        daemon
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("/bin/kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits for the end, and for what was said until then.
    fn end(mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        self.said.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap(), said)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

fn sockets(folder: &Path) -> String {
    format!("--data unix:{0}/data --control unix:{0}/control", folder.display())
}

#[test]
fn a_signal_is_an_orderly_end() {
    for signal in ["TERM", "INT"] {
        let folder = tempfile::tempdir().unwrap();
        let daemon = Daemon::ready(&sockets(folder.path()));
        let held = UnixStream::connect(folder.path().join("data")).unwrap();
        daemon.signal(signal);
        let (status, said) = daemon.end();
        assert!(status.success() && said.contains("ended in order"), "{signal}: {status} {said}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the sockets are gone");
        drop(held);
    }
}

#[test]
fn a_signal_ends_a_daemon_whose_sockets_nobody_can_reach_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let daemon = Daemon::ready(&sockets(&path));
    folder.close().unwrap();
    daemon.signal("TERM");
    let (status, said) = daemon.end();
    assert!(status.success() && said.contains("ended in order"), "{status} {said}");
    assert!(!path.exists());
}

#[test]
fn a_clients_shutdown_is_answered_and_is_an_orderly_end() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::ready(&sockets(folder.path()));
    let mut control = UnixStream::connect(folder.path().join("control")).unwrap();
    control.write_all(&[0, 0, 0, 3]).unwrap();
    let mut result = [0xFF; 4];
    control.read_exact(&mut result).unwrap();
    assert_eq!(result, [0; 4]);
    assert!(daemon.end().0.success());
}

#[test]
fn a_killed_daemons_sockets_are_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let line = sockets(folder.path());
    let first = Daemon::ready(&line);
    let (_, refused) = Daemon::start(&line).end();
    assert!(refused.contains("another process listens"), "{refused}");
    drop(first);
    drop(Daemon::ready(&line));
}

#[test]
fn a_line_that_cannot_be_served_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("ram").display().to_string();
    for (line, reason) in [
        ("--data tcp:0.0.0.0:2321".to_owned(), "loopback"),
        (format!("--guest-memory {missing} --crb-at 0x1000"), "cannot use the guest's memory file"),
        (format!("--guest-memory {missing} --crb-at 0x1001"), "page-aligned"),
        (format!("--guest-memory {missing}"), "--crb-at"),
        ("--wait-for-init".to_owned(), "--control"),
        ("--mssim-platform tcp:127.0.0.1:1".to_owned(), "--data"),
        ("--mssim-platform tcp:0.0.0.0:1 --data unix:data".to_owned(), "loopback"),
        (format!("--acpi {missing} --crb-at 0x1000"), "nothing to serve on"),
    ] {
        let (status, said) = Daemon::start(&line).end();
        assert!(!status.success() && said.contains(reason), "{line}: {said}");
    }
}
