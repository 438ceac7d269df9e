//! IBM's TSS, which others wrote, over each of its ways to a TPM.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "support/running.rs"]
mod running;

use running::{Running, is_installed, two_free_ports, until};
use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How the TSS is told where a TPM is.
struct Tss<'f> {
    folder: &'f Path,
    /// `mssim` for the simulator's frames, `raw` for swtpm's data channel.
    server_type: &'f str,
    port: u16,
}

impl Tss<'_> {
    /// Runs a tool, which must succeed; what it printed.
    #[track_caller]
    fn tool(&self, line: &str) -> String {
        let mut words = line.split(' ');
        let mut command = Command::new(PathBuf::from("/usr/bin").join(words.next().unwrap()));
        let output = command
            .args(words)
            .current_dir(self.folder)
            .env("TPM_INTERFACE_TYPE", "socsim")
            .env("TPM_SERVER_NAME", "127.0.0.1")
            .env("TPM_SERVER_TYPE", self.server_type)
            .env("TPM_COMMAND_PORT", self.port.to_string())
            .env("TPM_PLATFORM_PORT", (self.port + 1).to_string())
            .env("TPM_DATA_DIR", self.folder)
            // Else a session would be of one process.
            .env("TPM_ENCRYPT_SESSIONS", "0")
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {}", running::said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a user of a TPM does, of a TPM that is started up.
    fn uses_the_tpm(&self) {
        assert!(self.tool("tssgetrandom -by 8").contains("length 8"));
        let before = self.tool("tsspcrread -ha 16 -halg sha256");
        self.tool("tsspcrextend -ha 16 -halg sha256 -ic abc");
        assert_ne!(self.tool("tsspcrread -ha 16 -halg sha256"), before);
        self.tool("tssnvdefinespace -ha 01000000 -hi o -sz 8 -pwdn pin");
        self.tool("tssnvwrite -ha 01000000 -pwdn pin -ic 12345678");
        assert!(self.tool("tssnvread -ha 01000000 -pwdn pin -sz 8").contains("31 32 33 34 35 36 37 38"));
        self.tool("tsscreateprimary -hi o -ecc nistp256 -st");
        self.tool("tssflushcontext -ha 80000000");
        // An HMAC session, whose state the TSS keeps between two processes.
        self.tool("tssstartauthsession -se h");
        let read = self.tool("tssnvread -ha 01000000 -pwdn pin -sz 8 -se0 02000000 1");
        assert!(read.contains("31 32 33 34 35 36 37 38"), "{read}");
        self.tool("tssflushcontext -ha 02000000");
        self.tool("tssnvundefinespace -hi o -ha 01000000");
    }
}

#[test]
fn ibms_tss_works_with_the_simulators_platform() {
    if !is_installed("/usr/bin/tssgetrandom") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = two_free_ports();
    File::create(folder.path().join("volume")).unwrap().set_len(1 << 20).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_husk"));
    command.args("vtpmd --unsealed-for-testing --volume volume --data".split(' '));
    command.arg(format!("tcp:127.0.0.1:{port}")).arg("--mssim-platform");
    let child = command.arg(format!("tcp:127.0.0.1:{}", port + 1)).current_dir(folder.path());
    let child = child.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _running = Running { child, folder: tempfile::tempdir().unwrap() };
    until(|| TcpStream::connect(("127.0.0.1", port + 1)).is_ok());
    let tss = Tss { folder: folder.path(), server_type: "mssim", port };
    tss.tool("tsspowerup");
    tss.tool("tssstartup");
    tss.uses_the_tpm();
    // Its power is cut and comes back, so that it waits for Startup again.
    tss.tool("tsspowerup");
    tss.tool("tssstartup");
}

#[test]
fn ibms_tss_works_at_swtpms_data_channel_raw_and_in_frames() {
    if !is_installed("/usr/bin/tssgetrandom") {
        return;
    }
    let port = two_free_ports();
    let words = format!("--port {port} --flags startup-clear --mssim-frames");
    let running = Running::start(&words);
    for server_type in ["raw", "mssim", "raw"] {
        Tss { folder: running.folder.path(), server_type, port }.uses_the_tpm();
    }
}
