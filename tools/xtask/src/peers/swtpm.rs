//! swtpm: the TPM that others use.

use crate::failure::Failure;
use crate::process::Daemon;
use crate::setup;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// A running swtpm; it is killed when this value is dropped.
#[derive(Debug)]
pub(crate) struct Swtpm {
    daemon: Daemon,
    control_socket: PathBuf,
    port: u16,
}

impl Swtpm {
    /// Powered on and started up, reachable by tpm2-tools.
    pub(super) fn on_ports(folder: &Path) -> Result<Self, Failure> {
        let port = two_free_ports()?;
        let server = format!("type=tcp,port={port}");
        let control = format!("type=tcp,port={}", port + 1);
        let words = ["--server", &server, "--ctrl", &control, "--flags", "not-need-init,startup-clear"];
        Self::start(folder, &words, port)
    }

    /// Waiting for QEMU on its control socket.
    pub(crate) fn on_socket(folder: &Path) -> Result<Self, Failure> {
        let control = format!("type=unixio,path={}", folder.join("control").display());
        Self::start(folder, &["--ctrl", &control], 0)
    }

    /// How tpm2-tools name it.
    pub(super) fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.control_socket.clone()
    }

    pub(super) fn stop(self) -> Result<(), Failure> {
        self.daemon.stop(PATIENCE)
    }

    fn start(folder: &Path, words: &[&str], port: u16) -> Result<Self, Failure> {
        let state = folder.join("state");
        std::fs::create_dir_all(&state).map_err(|error| Failure::io("make", &state, &error))?;
        let pid_file = folder.join("pid");
        if pid_file.exists() {
            std::fs::remove_file(&pid_file).map_err(|error| Failure::io("remove", &pid_file, &error))?;
        }
        let [state, pid] = [&state, &pid_file].map(|path| path.display().to_string());
        let fixed = ["socket".to_owned(), "--tpm2".into(), "--tpmstate".into(), format!("dir={state}")];
        let ready = ["--pid".to_owned(), format!("file={pid}")];
        let line: Vec<String> =
            fixed.into_iter().chain(ready).chain(words.iter().map(ToString::to_string)).collect();
        let mut daemon = Daemon::start("swtpm", &setup::program("swtpm")?, &line, &folder.join("swtpm.log"))?;
        daemon.wait_until(PATIENCE, |_| pid_file.exists().then_some(()))?;
        Ok(Self { daemon, control_socket: folder.join("control"), port })
    }
}

/// Two neighbouring ports that nobody listens on: data, and control one above, as tpm2-tss expects.
pub(super) fn two_free_ports() -> Result<u16, Failure> {
    for _ in 0..50 {
        let Ok(data) = TcpListener::bind("127.0.0.1:0") else { continue };
        let Ok(address) = data.local_addr() else { continue };
        let Some(control) = address.port().checked_add(1) else { continue };
        if TcpListener::bind(("127.0.0.1", control)).is_ok() {
            return Ok(address.port());
        }
    }
    Err(Failure::failed("peers: no two neighbouring TCP ports are free"))
}
