//! A TPM that scripts run on: Husk's sealed stack, or swtpm.

use super::script::{Does, Line, Scenario, Wanted};
use crate::commands::{Reply, capability, clear, flush, startup_clear};
use crate::site::Process;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;
use tempfile::TempDir;

/// swtpm's CMD_INIT without flags, with which QEMU resets a TPM.
const INIT: [u8; 8] = [0, 0, 0, 2, 0, 0, 0, 0];
/// TPM_CAP_HANDLES.
const HANDLES: u32 = 1;
/// Beginnings of handles: of loaded sessions, of saved ones, of transient objects (TPM 2.0 part 2, TPM_HT).
const LOADED: u32 = 0x0200_0000;
const SAVED: u32 = 0x0300_0000;
const TRANSIENT: u32 = 0x8000_0000;

/// Where it listens, and what runs only for it.
pub(crate) struct Tpm {
    data: PathBuf,
    control: PathBuf,
    is_husk: bool,
    _own: Option<(Process, TempDir)>,
}

/// How one line ended.
#[derive(Debug, Default)]
pub(crate) struct Said {
    line: String,
    as_wanted: bool,
    differs: bool,
    exit: Option<i32>,
    /// The response codes that the tool complained of.
    codes: BTreeSet<String>,
    complaint: String,
}

impl Said {
    /// What to tell of it if it did not end as the script says.
    pub(crate) fn complaint(&self, who: &str) -> Option<String> {
        let Self { line, exit, complaint, .. } = self;
        (!self.as_wanted).then(|| format!("{line}: on {who} it ends with {exit:?}: {complaint}"))
    }

    /// What to tell of it if it ended in another way on another TPM.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        let same = self.exit == other.exit && self.codes == other.codes;
        let same = (same || self.differs) && self.line == other.line;
        let seen = |said: &Self| format!("{:?} {:?}", said.exit, said.codes);
        (!same).then(|| format!("{}: husk {}, swtpm {}", self.line, seen(self), seen(other)))
    }
}

impl Tpm {
    /// Husk, which serves commands at `data` and control messages at `data` with `.ctrl`, as tpm2-tss expects.
    pub(crate) fn husk(data: &Path) -> Self {
        let control = PathBuf::from(format!("{}.ctrl", data.display()));
        Self { data: data.to_owned(), control, is_husk: true, _own: None }
    }

    /// Debian's swtpm with nothing in it.
    pub(crate) fn swtpm() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let child = Command::new("/usr/bin/swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init", "--tpmstate"])
            .arg(format!("dir={}", path("")))
            .args(["--server", &format!("type=unixio,path={}", path("tpm"))])
            .args(["--ctrl", &format!("type=unixio,path={}", path("tpm.ctrl"))])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("swtpm does not start: {error}; run `cargo xtask setup`"));
        let own = Process(child);
        let tpm = Self::husk(&folder.path().join("tpm"));
        while !(tpm.data.exists() && tpm.control.exists()) {
            sleep(Duration::from_millis(10));
        }
        Self { is_husk: false, _own: Some((own, folder)), ..tpm }
    }

    /// Runs a script to its end, whatever happens.
    pub(crate) fn run(&self, scenario: &Scenario) -> Vec<Said> {
        let folder = tempfile::tempdir().unwrap();
        self.reset();
        self.exchange(&startup_clear()).ok();
        self.exchange(&clear()).ok();
        self.configure_feature_api(folder.path());
        let said = scenario.lines.iter().map(|line| self.line(scenario, line, folder.path())).collect();
        self.flush(&[LOADED, SAVED]);
        said
    }

    fn line(&self, scenario: &Scenario, line: &Line, folder: &Path) -> Said {
        let mut said = match &line.does {
            Does::Tool { words, output, wanted } => self.tool(words, *output, *wanted, folder),
            Does::Shell => {
                let mut shell = Command::new("sh");
                ended(shell.args(["-c", &line.text[2..]]).current_dir(folder), None, true)
            }
            Does::Power => {
                self.reset();
                Said { as_wanted: true, ..Said::default() }
            }
            Does::Reset => {
                self.reset();
                self.exchange(&startup_clear()).ok();
                Said { as_wanted: true, ..Said::default() }
            }
        };
        said.line = format!("{} ({}): {}", line.place, scenario.name, line.text);
        said
    }

    /// Afterwards the three slots for transient objects are empty: there is no resource manager here.
    fn tool(&self, words: &[&str], output: Option<&str>, wanted: Wanted, folder: &Path) -> Said {
        let program =
            if words[0].starts_with("tss2_") { words[0].to_owned() } else { format!("tpm2_{}", words[0]) };
        let mut command = Command::new(Path::new("/usr/bin").join(program));
        command.args(words[1..].iter().map(|word| filled(word, folder)));
        command.current_dir(folder).env("TPM2TOOLS_TCTI", self.tcti());
        command.env("TSS2_FAPICONF", folder.join("fapi.json"));
        let succeeds = match wanted {
            Wanted::Success => true,
            Wanted::Failure => false,
            Wanted::Difference => !self.is_husk,
        };
        let said = ended(&mut command, output.map(|name| folder.join(name)), succeeds);
        self.flush(&[TRANSIENT]);
        Said { differs: wanted == Wanted::Difference, ..said }
    }

    fn tcti(&self) -> String {
        format!("swtpm:path={}", self.data.display())
    }

    /// What the Feature API needs to find: this TPM, and folders for its keys.
    fn configure_feature_api(&self, folder: &Path) {
        let within = |name: &str| {
            let path = folder.join(name);
            fs::create_dir(&path).unwrap();
            path.display().to_string()
        };
        let configuration = serde_json::json!({
            "profile_name": "P_ECCP256SHA256",
            "profile_dir": "/etc/tpm2-tss/fapi-profiles/",
            "user_dir": within("fapi-user"),
            "system_dir": within("fapi-system"),
            "log_dir": within("fapi-events"),
            "tcti": self.tcti(),
            "system_pcrs": [],
            "ek_cert_less": "yes",
        });
        fs::write(folder.join("fapi.json"), configuration.to_string()).unwrap();
    }

    fn reset(&self) {
        let mut control = UnixStream::connect(&self.control).unwrap();
        control.write_all(&INIT).unwrap();
        let mut outcome = [0xFF; 4];
        control.read_exact(&mut outcome).unwrap();
        assert_eq!(outcome, [0; 4], "INIT");
    }

    /// Flushes everything that has such a handle; a TPM that is not started up has nothing.
    fn flush(&self, kinds: &[u32]) {
        let listings = kinds.iter().map(|kind| self.exchange(&capability(HANDLES, *kind, 64)));
        for listing in listings.filter(|listing| listing.code() == 0) {
            for bytes in listing.after(9).chunks_exact(4) {
                let handle = u32::from_be_bytes(bytes.try_into().unwrap());
                // A saved session is flushed by the handle that it had.
                let is_saved = handle & 0xFF00_0000 == SAVED;
                self.exchange(&flush(if is_saved { LOADED | handle & 0x00FF_FFFF } else { handle })).ok();
            }
        }
    }

    fn exchange(&self, command: &[u8]) -> Reply {
        let mut data = UnixStream::connect(&self.data).unwrap();
        data.write_all(command).unwrap();
        let mut response = vec![0; 10];
        data.read_exact(&mut response).unwrap();
        let bytes = u32::from_be_bytes(response[2..6].try_into().unwrap()) as usize;
        response.resize(bytes, 0);
        data.read_exact(&mut response[10..]).unwrap();
        Reply(response)
    }
}

/// `{name}` is what the file holds, `""` is nothing.
fn filled(word: &str, folder: &Path) -> String {
    match word.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some(name) => fs::read_to_string(folder.join(name)).unwrap_or_default().trim().to_owned(),
        None if word == "\"\"" => String::new(),
        None => word.to_owned(),
    }
}

fn ended(command: &mut Command, output: Option<PathBuf>, succeeds: bool) -> Said {
    let ended = command.stdin(Stdio::null()).output().unwrap();
    if let Some(path) = output {
        fs::write(path, &ended.stdout).unwrap();
    }
    let complaint = String::from_utf8_lossy(&ended.stderr).into_owned();
    let as_wanted = ended.status.success() == succeeds;
    let codes = codes(&complaint);
    Said { as_wanted, exit: ended.status.code(), codes, complaint, ..Said::default() }
}

/// The response codes in what a tool complained, such as `(0x98E)`.
fn codes(complaint: &str) -> BTreeSet<String> {
    let errors = complaint.lines().filter(|line| line.starts_with("ERROR"));
    let parts = errors.flat_map(|line| line.split("(0x").skip(1)).filter_map(|rest| rest.split_once(')'));
    parts.map(|(digits, _)| digits.trim_start_matches('0').to_ascii_lowercase()).collect()
}
