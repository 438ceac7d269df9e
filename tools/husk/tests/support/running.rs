//! `husk vtpmd socket` as a process, started by swtpm's words.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

pub(crate) fn husk(folder: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_husk"));
    command.args(["vtpmd", "socket"]).args(line.split_whitespace()).current_dir(folder);
    command
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Whether the program at `path` is installed; says so loudly where it is not.
pub(crate) fn is_installed(path: &str) -> bool {
    let found = Path::new(path).exists();
    if !found {
        eprintln!("SKIPPED: {path} is not installed");
    }
    found
}

/// Returns once `is_so`, or fails.
pub(crate) fn until(is_so: impl Fn() -> bool) {
    let so = (0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        is_so()
    });
    assert!(so, "it does not come");
}

/// A port that is free together with the one above it.
pub(crate) fn two_free_ports() -> u16 {
    let port = (0..100).find_map(|_| {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        TcpListener::bind(("127.0.0.1", port.checked_add(1)?)).ok().map(|_| port)
    });
    port.unwrap()
}

/// A foreground process that dies with this value, in a folder of its own.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) folder: TempDir,
}

impl Running {
    /// A test TPM, ready when its pid file is there.
    pub(crate) fn start(words: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), words)
    }

    /// As [`start`](Self::start), with what the folder holds.
    pub(crate) fn start_in(folder: TempDir, words: &str) -> Self {
        let line =
            format!("--tpm2 --unsealed-for-testing --tpmstate dir=. --pid file=pid --log file=log {words}");
        let child = husk(folder.path(), &line).stdin(Stdio::null()).spawn().unwrap();
        let running = Self { child, folder };
        until(|| fs::read_to_string(running.path("pid")).is_ok_and(|text| text.ends_with('\n')));
        running
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// Kills the process; what it leaves behind.
    pub(crate) fn killed(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        fs::remove_file(self.path("pid")).unwrap();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }

    /// One raw command at the socket `data`.
    pub(crate) fn command(&self, bytes: &[u8]) -> Vec<u8> {
        ask(&mut UnixStream::connect(self.path("data")).unwrap(), bytes)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// The response to one raw command.
pub(crate) fn ask(stream: &mut UnixStream, command: &[u8]) -> Vec<u8> {
    stream.write_all(command).unwrap();
    let mut header = [0; 10];
    stream.read_exact(&mut header).unwrap();
    let size = u32::from_be_bytes(header[2..6].try_into().unwrap());
    let mut rest = vec![0; size as usize - 10];
    stream.read_exact(&mut rest).unwrap();
    [&header[..], &rest].concat()
}
