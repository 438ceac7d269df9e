//! swtpm in a folder of its own.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

use husk_attester::tpm::{Place, Tpm};
use husk_attester::wire::Selection;
use husk_broker::unlock::PcrValues;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// TPM_ALG_SHA256.
const SHA256: u16 = 0x000B;

/// It ends with this value.
pub(crate) struct Swtpm(Child, tempfile::TempDir);

impl Swtpm {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = started(&folder);
        Self(child, folder)
    }

    /// Powers it off, and on again with what it remembers.
    pub(crate) fn restart(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        std::fs::remove_file(self.1.path().join("tpm")).ok();
        self.0 = started(&self.1);
    }

    pub(crate) fn place(&self) -> Place {
        Place::Unix(self.1.path().join("tpm"))
    }

    /// The folder that it lies in.
    pub(crate) fn folder(&self) -> PathBuf {
        self.1.path().to_owned()
    }

    /// TPM2_PCR_Extend (part 3) of the bank SHA-256, by 32 such bytes.
    pub(crate) fn extend(&self, pcr: u8, measured: u8) {
        let session = [&0x4000_0009_u32.to_be_bytes()[..], &[0; 5]].concat();
        let digests = [&1_u32.to_be_bytes()[..], &SHA256.to_be_bytes(), &[measured; 32]].concat();
        let body = [&u32::from(pcr).to_be_bytes()[..], &9_u32.to_be_bytes(), &session, &digests].concat();
        let size = u32::try_from(10 + body.len()).unwrap().to_be_bytes();
        let command = [&0x8002_u16.to_be_bytes()[..], &size, &0x182_u32.to_be_bytes(), &body].concat();
        let mut stream = UnixStream::connect(self.1.path().join("tpm")).unwrap();
        stream.write_all(&command).unwrap();
        let mut answer = [0; 64];
        let read = stream.read(&mut answer).unwrap();
        assert!(read >= 10 && answer[6..10] == [0; 4], "{answer:?}");
    }

    /// The values of these PCRs, in ascending order.
    pub(crate) fn values(&self, pcrs: &[u8]) -> PcrValues {
        let bits = pcrs.iter().fold(0, |bits, pcr| bits | 1 << pcr);
        let values =
            Tpm::open(&self.place()).unwrap().values(Selection { bank: SHA256, pcrs: bits }).unwrap();
        let values = values.chunks(32).map(|value| value.try_into().unwrap());
        pcrs.iter().copied().zip(values).collect()
    }
}

fn started(folder: &tempfile::TempDir) -> Child {
    let mut command = Command::new("/usr/bin/swtpm");
    command.args(["socket", "--tpm2", "--tpmstate", "dir=.", "--server", "type=unixio,path=tpm"]);
    command.args(["--flags", "not-need-init,startup-clear"]).current_dir(folder.path());
    let child = command.stdin(Stdio::null()).spawn().unwrap();
    let there = (0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        folder.path().join("tpm").exists()
    });
    assert!(there, "swtpm does not come; run `cargo xtask setup`");
    child
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            self.0.wait().unwrap();
        }
    }
}
