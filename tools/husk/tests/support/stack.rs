//! The sealed stack: processor, broker, relay and component, each its own process, and tpm2-tools as the client.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

use crate::site::{Process, Site, husk};
use husk_psp::{Identity, expected_measurement};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longer than any step takes on a loaded machine; a verdict never depends on it.
const PATIENCE: Duration = Duration::from_secs(60);
/// A volume of the common size.
const VOLUME_BYTES: u64 = 1 << 20;

/// Everything but the component.
pub(crate) struct Stack {
    pub(crate) site: Site,
    broker: Option<Process>,
    address: String,
    _processor: Process,
    relay: Option<Process>,
    /// The tenant's id.
    pub(crate) tenant: String,
}

/// How a start of the component may differ from the ordinary one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start<'a> {
    /// What its sockets and its log are named after.
    pub(crate) seat: &'a str,
    /// No name: none.
    pub(crate) volume: &'a str,
    pub(crate) firmware: &'a str,
    pub(crate) config: &'a str,
    pub(crate) wait_seconds: &'a str,
    /// Where what is suspended is kept.
    pub(crate) suspend_file: Option<&'a str>,
}

impl Default for Start<'_> {
    fn default() -> Self {
        let (seat, volume, firmware, config) = ("tpm", "volume", "firmware", "config");
        Self { seat, volume, firmware, config, wait_seconds: "30", suspend_file: None }
    }
}

/// How a start ended.
pub(crate) enum Started<'s> {
    Serves(Serving<'s>),
    /// With an exit code and what was said.
    Refused(i32, String),
}

impl Stack {
    /// A broker that accepts the simulated processor, and a VM enrolled at it whose disk is blank.
    pub(crate) fn new() -> Self {
        Self::enrolled_with(&[], &[])
    }

    /// As [`new`](Self::new), with more words for the enrolment and for the relay.
    pub(crate) fn enrolled_with(enrol: &[&str], relay: &[&str]) -> Self {
        let (site, tenant) = Site::with_tenant();
        let identity = Identity::published(0).unwrap();
        identity.save(&site.path("psp")).unwrap();
        fs::write(site.path("firmware"), b"firmware of a test").unwrap();
        site.enrol_as(&tenant, &expected_measurement(b"firmware of a test"), "config", enrol);
        blank(&site.path("volume"));
        let serve = ["psp", "serve", "--dir", "psp", "--socket", "psp.sock"];
        let (processor, _) = site.start(&serve, "psp.sock");
        let (broker, address) = serve_broker(&site, "127.0.0.1:0", true);
        let mut stack =
            Self { site, broker: Some(broker), address, _processor: processor, relay: None, tenant };
        stack.restart_relay(relay);
        stack
    }

    /// Ends the relay, and starts another with more words.
    pub(crate) fn restart_relay(&mut self, more: &[&str]) {
        drop(self.relay.take());
        let url = format!("http://{}", self.address);
        let relay = ["relay", "--socket", "relay.sock", "--broker", &url, "--ready-file", "relay-ready"];
        self.relay = Some(self.site.start(&[&relay[..], more].concat(), "relay-ready").0);
    }

    /// Where the broker serves.
    pub(crate) fn broker_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends the broker.
    pub(crate) fn stop_broker(&mut self) {
        drop(self.broker.take());
    }

    /// Ends the broker and serves the same database at the same address.
    pub(crate) fn restart_broker(&mut self, accepts_simulated: bool) {
        self.stop_broker();
        self.broker = Some(serve_broker(&self.site, &self.address, accepts_simulated).0);
    }

    /// Starts the component; it serves, or it has ended.
    pub(crate) fn start(&self, start: Start<'_>) -> Started<'_> {
        let (data, control) = (self.address(start.seat), self.address(&format!("{}.ctrl", start.seat)));
        let words = [
            "vtpmd",
            "--config",
            start.config,
            "--psp",
            "psp.sock",
            "--relay",
            "relay.sock",
            "--data",
            &data,
            "--control",
            &control,
            "--firmware",
            start.firmware,
            "--wait-for-lease-seconds",
            start.wait_seconds,
        ];
        let log = self.site.path(&format!("{}.log", start.seat));
        let child = husk(&words)
            .args(
                Some(start.volume).filter(|file| !file.is_empty()).iter().flat_map(|file| ["--volume", file]),
            )
            .args(start.suspend_file.iter().flat_map(|file| ["--suspend-file", file]))
            .current_dir(self.site.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut process = Process(child);
        let said = || fs::read_to_string(&log).unwrap();
        loop_until("the component serves or ends", || {
            if said().contains("vtpmd: ready") {
                return Some(None);
            }
            process.0.try_wait().unwrap().map(Some)
        })
        .map_or_else(
            || Started::Serves(Serving { stack: self, seat: start.seat.to_owned(), process }),
            |status| Started::Refused(status.code().unwrap_or(-1), said()),
        )
    }

    /// Starts the component, which must serve, and sends Startup.
    #[track_caller]
    pub(crate) fn boot(&self) -> Serving<'_> {
        self.boot_as(Start::default())
    }

    /// As [`boot`](Self::boot), started in another way.
    #[track_caller]
    pub(crate) fn boot_as(&self, start: Start<'_>) -> Serving<'_> {
        match self.start(start) {
            Started::Serves(serving) => {
                serving.tool("startup", ["-c"]);
                serving
            }
            Started::Refused(code, said) => panic!("the honest state is refused with {code}: {said}"),
        }
    }

    /// Starts the component, which must end with `family`'s exit code and name `fault`.
    #[track_caller]
    pub(crate) fn refuses(&self, start: Start<'_>, family: i32, fault: u32) {
        match self.start(start) {
            Started::Refused(code, said) => {
                assert_eq!(code, family, "{said}");
                assert!(said.contains(&format!("{fault:#010x}")), "{said}");
                let line = said.lines().last().unwrap_or_default();
                assert!(line.starts_with("husk: "), "the last line says why: {said}");
            }
            Started::Serves(_) => panic!("IT SERVED: {start:?}"),
        }
    }

    /// A file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.site.path(name)
    }

    fn address(&self, name: &str) -> String {
        format!("unix:{}", self.path(name).display())
    }
}

fn serve_broker(site: &Site, listen: &str, accepts_simulated: bool) -> (Process, String) {
    let mut more = vec!["--lease-seconds", "3"];
    if accepts_simulated {
        more.extend(["--accept-simulated-silicon", "psp/chain.pem"]);
    }
    site.serve(listen, &more)
}

/// A disk that was never written.
pub(crate) fn blank(path: &PathBuf) {
    File::create(path).unwrap().set_len(VOLUME_BYTES).unwrap();
}

/// A component that serves, and its client.
pub(crate) struct Serving<'s> {
    stack: &'s Stack,
    seat: String,
    process: Process,
}

impl Serving<'_> {
    /// Runs a tool, which must succeed; what it printed. Afterwards the TPM's three transient slots are empty: there is
    /// no resource manager here.
    #[track_caller]
    pub(crate) fn tool<S: AsRef<OsStr>>(&self, name: &str, words: impl IntoIterator<Item = S>) -> String {
        let output = self.run(name, words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tpm2_{name}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// As [`tool`](Self::tool) with the words in one line.
    #[track_caller]
    pub(crate) fn run_line(&self, line: &str) -> String {
        let (name, words) = line.split_once(' ').unwrap_or((line, ""));
        self.tool(name, words.split_whitespace())
    }

    /// Runs a tool, which must fail; what it complained.
    #[track_caller]
    pub(crate) fn refused(&self, line: &str) -> String {
        let (name, words) = line.split_once(' ').unwrap_or((line, ""));
        let output = self.run(name, words.split_whitespace());
        assert!(!output.status.success(), "not refused: {line}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs a tool to its end, whatever that is.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, name: &str, words: impl IntoIterator<Item = S>) -> Output {
        let output = self.command(name).args(words).output().unwrap();
        if !matches!(name, "startup" | "getrandom" | "flushcontext") && !name.starts_with("nv") {
            self.command("flushcontext").arg("-t").output().unwrap();
        }
        output
    }

    /// A tool at this TPM, in the stack's folder.
    pub(crate) fn command(&self, name: &str) -> Command {
        let program = format!("/usr/bin/tpm2_{name}");
        assert!(
            PathBuf::from(&program).exists(),
            "{program} is missing; run `cargo xtask setup`, or: apt-get install tpm2-tools libtss2-tcti-swtpm0"
        );
        let mut command = Command::new(program);
        command.current_dir(self.stack.site.folder.path()).stdin(Stdio::null());
        command.env("TPM2TOOLS_TCTI", format!("swtpm:path={}", self.path(&self.seat).display()));
        command
    }

    /// A file in the folder that the tools work in.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.stack.path(name)
    }

    /// Runs swtpm_ioctl; whether it succeeded, and what it said.
    pub(crate) fn ioctl(&self, line: &str) -> (bool, String) {
        let program = "/usr/bin/swtpm_ioctl";
        assert!(PathBuf::from(program).exists(), "{program} is missing; run `cargo xtask setup`");
        let mut command = Command::new(program);
        command.args(["--unix", "tpm.ctrl"]).args(line.split(' ')).current_dir(self.stack.site.folder.path());
        let Output { status, stdout, stderr } = command.output().unwrap();
        (status.success(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
    }

    /// What the component has said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path(&format!("{}.log", self.seat))).unwrap()
    }

    /// SIGTERM; the component must end in order.
    #[track_caller]
    pub(crate) fn shut_down(mut self) {
        assert!(Command::new("kill").arg(self.process.0.id().to_string()).status().unwrap().success());
        let status = end_of(&mut self.process.0);
        let said = self.log();
        assert_eq!(status, Some(0), "{said}");
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.process.0.kill().unwrap();
        end_of(&mut self.process.0);
    }
}

fn end_of(child: &mut Child) -> Option<i32> {
    loop_until("the component ends", || child.try_wait().unwrap()).code()
}

fn loop_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let patience = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < patience, "it never came to this: {what}");
        sleep(Duration::from_millis(10));
    }
}
