//! Everything that `husk run` needs, in a folder of its own.

use crate::layer::{LAYER, Memory};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A machine that says nothing for so long hangs; others may keep this host busy.
const SILENCE_MAX: Duration = Duration::from_secs(240);
/// How often a silent machine is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);
/// A machine that was killed must not keep the next one waiting for long.
const LEASE_SECONDS: &str = "3";
/// The whole machine's memory.
const MEMORY_MIB: &str = "512";
const MEMORY_BYTES: usize = 512 << 20;
/// A payload's header, whose last eight bytes are the length of the whole (`guest::payload` of the firmware).
const PAYLOAD_HEADER_BYTES: usize = 72;
const PT_LOAD: u32 = 1;
const WRITE: u32 = 2;

/// A daemon that is ended with its test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.0.kill().expect("a child that runs");
            self.0.wait().expect("a child that was killed");
        }
    }
}

/// A processor, a broker and one enrolled VM.
pub(crate) struct World {
    folder: tempfile::TempDir,
    broker: String,
    _daemons: [Daemon; 2],
}

/// The image that `cargo xtask image` makes.
pub(crate) fn image() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/husk/image/husk-image");
    assert!(path.is_file(), "{} is not there: run `cargo xtask image`", path.display());
    path
}

fn husk(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_husk")).args(words).output().expect("husk starts");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// The command under test, which the kernel kills with the test that starts it.
fn bound_husk() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_husk")]);
    command
}

fn daemon(words: &[&str]) -> Daemon {
    let mut command = bound_husk();
    Daemon(command.args(words).stdin(Stdio::null()).spawn().expect("husk starts"))
}

/// Looks until it is found.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < SILENCE_MAX, "{what} does not come");
        std::thread::sleep(POLL);
    }
}

impl World {
    /// Starts what serves, and enrols a VM that runs this image.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        husk(&["psp", "init", "--dir", &path("psp")]);
        let processor = daemon(&["psp", "serve", "--dir", &path("psp"), "--socket", &path("psp.socket")]);
        let stored = ["--database", &path("broker.db")];
        let keyed = ["--root-key", &path("broker.key")];
        husk(&[&["broker", "init"], &stored[..], &keyed].concat());
        let made = husk(
            &[&["tenant", "init", "--json"], &stored[..], &keyed, &["--root-out", &path("tenant.key")]]
                .concat(),
        );
        let made: serde_json::Value = serde_json::from_str(&made).expect("JSON");
        let tenant = made["tenant"].as_str().expect("a tenant");
        let measurement = husk(&["run", "--measure-only", "--image", &image().display().to_string()]);
        let enrolled = ["--tenant", tenant, "--measurement", &measurement, "--config-out", &path("config")];
        husk(&[&["vm", "enroll"], &stored[..], &enrolled].concat());
        let disk = std::fs::File::create(path("disk")).expect("a file");
        disk.set_len(1 << 20).expect("a size");
        let (ready, chain) = (path("ready"), path("psp/chain.pem"));
        let served =
            ["--listen", "127.0.0.1:0", "--ready-file", &ready, "--accept-simulated-silicon", &chain];
        let leased = ["--lease-seconds", LEASE_SECONDS];
        let serving =
            daemon(&[&["broker", "serve", "--plain-http"], &stored[..], &keyed, &served, &leased].concat());
        let address =
            wait_for("the broker", || std::fs::read_to_string(&ready).ok().filter(|text| !text.is_empty()));
        wait_for("the processor", || Path::new(&path("psp.socket")).exists().then_some(()));
        let broker = format!("http://{}", address.trim());
        Self { folder, broker, _daemons: [processor, serving] }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends what serves; the folder, with what it left there.
    pub(crate) fn without_daemons(self) -> tempfile::TempDir {
        self.folder
    }

    /// Starts a machine; when its guest is off it stands still until it is told to quit.
    pub(crate) fn run(&self, kernel: &Path, cpus: u8) -> Machine {
        self.run_on("disk", kernel, cpus)
    }

    /// The same, on a disk of that name.
    pub(crate) fn run_on(&self, disk: &str, kernel: &Path, cpus: u8) -> Machine {
        self.start(Start { disk, kernel, cpus, words: &[], serial: Stdio::null() }).0
    }

    /// The same, in every way that it can differ; with a hand on the guest's serial port if that is piped.
    pub(crate) fn start(&self, start: Start<'_>) -> (Machine, Option<ChildStdin>) {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let [monitor, pid] = ["monitor", "pid"].map(|name| path(&format!("{}.{name}", start.disk)));
        let (disk, cpus) = (path(start.disk), start.cpus.to_string());
        let mut command = bound_husk();
        command.args(["run", "--memory", MEMORY_MIB, "--vcpus", &cpus, "--broker", &self.broker]);
        command.arg("--image").arg(image()).arg("--kernel").arg(start.kernel).args(start.words);
        command.args(["--volume", &disk, "--config", &path("config"), "--psp", &path("psp.socket")]);
        command.args(["--", "-no-shutdown", "-pidfile", &pid]);
        command.args(["-monitor", &format!("unix:{monitor},server=on,wait=off")]);
        let mut child = command.stdin(start.serial).stdout(Stdio::piped()).spawn().expect("husk starts");
        let serial = child.stdin.take();
        let console = child.stdout.take().expect("piped");
        let (said, lines) = channel();
        let heard = Heard::default();
        let hears = Arc::clone(&heard);
        std::thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                hears.lock().expect("nobody died").extend_from_slice(&line);
                if said.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        let dump = self.folder.path().join("dump");
        let (monitor, pid) = (Monitor(monitor.into()), pid.into());
        (Machine { child: Daemon(child), lines, heard, monitor, pid, dump }, serial)
    }
}

/// How a machine is started.
pub(crate) struct Start<'a> {
    /// The volume's file in the folder.
    pub(crate) disk: &'a str,
    pub(crate) kernel: &'a Path,
    pub(crate) cpus: u8,
    /// More words for `husk run`.
    pub(crate) words: &'a [&'a str],
    pub(crate) serial: Stdio,
}

/// All bytes of a console.
type Heard = Arc<Mutex<Vec<u8>>>;

/// A machine with the image in it.
pub(crate) struct Machine {
    child: Daemon,
    lines: Receiver<String>,
    heard: Heard,
    monitor: Monitor,
    pid: PathBuf,
    dump: PathBuf,
}

impl Machine {
    /// Everything that is said until a line begins so. A machine that stops, whose guest triple faults or that ends is told at once.
    pub(crate) fn until_line(&mut self, begin: &str) -> Vec<String> {
        let mut seen: Vec<String> = Vec::new();
        loop {
            match self.line() {
                Ok(line) => seen.push(line),
                Err(why) => panic!("no line `{begin}` ({why}): {seen:#?}"),
            }
            let Some(line) = seen.last() else { continue };
            if line.starts_with(begin) {
                return seen;
            }
            let dead = ["husk: stopped", "husk: count: odd", "husk: ended", "WRITER-FAILED"];
            assert!(!dead.iter().any(|end| line.starts_with(end)), "`{line}` before `{begin}`: {seen:#?}");
        }
    }

    /// The next line, or why there is none: a machine that ended or stands still is not waited for.
    fn line(&self) -> Result<String, &'static str> {
        let began = Instant::now();
        loop {
            match self.lines.recv_timeout(LOOK_EVERY) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => return Err("the machine ended"),
                Err(RecvTimeoutError::Timeout) if began.elapsed() > SILENCE_MAX => return Err("silence"),
                Err(RecvTimeoutError::Timeout) if self.monitor.ask("info status").contains("paused") => {
                    // Its last line may just be coming.
                    return self.lines.recv_timeout(LOOK_EVERY).map_err(|_| "the machine stands still");
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Passes over what was said until now.
    pub(crate) fn forget_lines(&self) {
        self.lines.try_iter().for_each(drop);
    }

    /// How this machine is watched.
    pub(crate) const fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Sends a signal to the launcher, and returns how that ended.
    pub(crate) fn signalled(mut self, signal: &str) -> ExitStatus {
        kill(signal, self.child.0.id());
        wait_for("the end", || self.child.0.try_wait().expect("a child"))
    }

    /// Kills the launcher, as the one that runs out of memory is.
    pub(crate) fn orphaned(mut self) {
        kill("-KILL", self.child.0.id());
        wait_for("the launcher's end", || self.child.0.try_wait().expect("a child"));
    }

    /// Waits until the launcher has begun to start QEMU, and no longer.
    pub(crate) fn wait_for_qemu(&self) {
        let launcher = self.child.0.id();
        let children = format!("/proc/{launcher}/task/{launcher}/children");
        wait_for("QEMU", || {
            let children = std::fs::read_to_string(&children).unwrap_or_default();
            let lines =
                children.split_whitespace().map(|child| std::fs::read(format!("/proc/{child}/cmdline")));
            // Earlier ones were asked for their version.
            lines.flatten().any(|line| line.windows(4).any(|word| word == b"-qmp")).then_some(())
        });
    }

    /// The process that is the machine itself.
    pub(crate) fn qemu(&self) -> u32 {
        wait_for("QEMU's number", || std::fs::read_to_string(&self.pid).ok()?.trim().parse().ok())
    }

    /// Cuts the machine's power: SIGKILL of QEMU. What was still said.
    pub(crate) fn cut_power(self) -> Vec<String> {
        self.cut_power_once(|_| true)
    }

    /// As [`cut_power`](Self::cut_power), as soon as it is time.
    pub(crate) fn cut_power_once(mut self, mut is_time: impl FnMut(&Monitor) -> bool) -> Vec<String> {
        // It waits at its input: to start a process would take longer than a commit.
        let mut killer = Command::new("sh");
        killer.args(["-c", "read end; kill -KILL $0", &self.qemu().to_string()]).stdin(Stdio::piped());
        let mut killer = killer.spawn().expect("a shell");
        while !is_time(&self.monitor) {
            assert!(self.child.0.try_wait().expect("a child").is_none(), "the machine ended before its time");
        }
        drop(killer.stdin.take());
        assert!(killer.wait().expect("a child").success());
        let rest = self.lines.iter().collect();
        wait_for("the launcher's end", || self.child.0.try_wait().expect("a child"));
        std::fs::remove_file(&self.pid).expect("QEMU wrote it, and had no time to remove it");
        rest
    }

    /// Waits until the processor that serves, which is the last one, has nothing to do: it halts then. It tests its TPM while the guest begins.
    pub(crate) fn wait_until_idle(&self) {
        wait_for("the rest of the processor that serves", || {
            let said = self.monitor.ask("info registers -a");
            said.rsplit("CPU#").next().is_some_and(|last| last.contains("HLT=1")).then_some(())
        });
    }

    /// All of its memory at one instant.
    pub(crate) fn memory(&self) -> Memory {
        self.monitor.ask("stop");
        let memory = self.dump(0, MEMORY_BYTES);
        self.monitor.ask("cont");
        Memory::new(0, memory)
    }

    /// All of its memory when it has gone off, and stands still.
    pub(crate) fn memory_when_off(&self) -> Memory {
        self.wait_until_off();
        Memory::new(0, self.dump(0, MEMORY_BYTES))
    }

    /// Waits until its power is off; then it stands still.
    pub(crate) fn wait_until_off(&self) {
        wait_for("the power's end", || {
            self.monitor.ask("info status").contains("paused (shutdown)").then_some(())
        });
    }

    /// All that its guest may not reach, at one instant: the layer, and the payload behind it.
    pub(crate) fn hidden_memory(&self) -> Memory {
        self.monitor.ask("stop");
        let header = Memory::new(LAYER.end, self.dump(LAYER.end, PAYLOAD_HEADER_BYTES));
        let bytes = *header.all()[PAYLOAD_HEADER_BYTES - 8..].first_chunk().expect("eight bytes");
        let end = LAYER.end + u64::from_le_bytes(bytes);
        assert!(end > LAYER.end, "there is a payload");
        let memory = self.dump(LAYER.start, usize::try_from(end - LAYER.start).expect("a size"));
        self.monitor.ask("cont");
        Memory::new(LAYER.start, memory)
    }

    /// Changes a byte of its memory, as no guest can.
    pub(crate) fn overwrite(&self, at: u64, byte: u8) {
        let socket = self.dump.with_extension("debugger");
        self.monitor.ask(&format!("gdbserver unix:{},server=on,wait=off", socket.display()));
        let mut debugger = wait_for("the debugger", || UnixStream::connect(&socket).ok());
        debugger.set_read_timeout(Some(SILENCE_MAX)).expect("a socket");
        // Remote Serial Protocol: by physical addresses, one byte.
        for packet in ["Qqemu.PhyMemMode:1".to_owned(), format!("M{at:x},1:{byte:02x}")] {
            let sum = packet.bytes().fold(0u8, u8::wrapping_add);
            debugger.write_all(format!("+${packet}#{sum:02x}").as_bytes()).expect("it listens");
            // Where the machine stands is told besides.
            assert!(until(&mut debugger, b"$OK#9a").ends_with("$OK#9a"), "{packet}");
        }
        self.monitor.ask("gdbserver none");
    }

    /// What its console said until now.
    pub(crate) fn console(&self) -> Vec<u8> {
        self.heard.lock().expect("nobody died").clone()
    }

    fn dump(&self, from: u64, bytes: usize) -> Vec<u8> {
        self.monitor.ask(&format!("pmemsave {from:#x} {bytes:#x} \"{}\"", self.dump.display()));
        let dumped = std::fs::read(&self.dump).expect("the monitor wrote it");
        std::fs::remove_file(&self.dump).expect("a file of ours");
        assert_eq!(dumped.len(), bytes, "the dump is cut");
        dumped
    }

    /// What of the layer nobody may write, as the image's file has it and as the machine has it.
    pub(crate) fn constants_of_the_layer(&self) -> (Vec<u8>, Vec<u8>) {
        let constants = constants(&std::fs::read(image()).expect("the image"));
        let found = self.dump(LAYER.start, constants.len());
        (constants, found)
    }

    /// Ends the machine.
    pub(crate) fn quit(mut self) {
        self.monitor.ask("quit");
        let status = wait_for("the end", || self.child.0.try_wait().expect("a child"));
        assert!(status.success(), "{status}");
    }
}

/// A machine's monitor (QEMU's human one), at this socket.
pub(crate) struct Monitor(PathBuf);

/// What the monitor says when it waits for a line.
const PROMPT: &[u8] = b"(qemu) ";

impl Monitor {
    /// Says a line, and returns what the monitor answers to it.
    pub(crate) fn ask(&self, line: &str) -> String {
        let mut stream = wait_for("the monitor", || UnixStream::connect(&self.0).ok());
        stream.set_read_timeout(Some(SILENCE_MAX)).expect("a socket");
        until(&mut stream, PROMPT);
        stream.write_all(format!("{line}\n").as_bytes()).expect("the monitor listens");
        until(&mut stream, PROMPT)
    }

    /// How many writes to the volume are done.
    pub(crate) fn writes(&self) -> u64 {
        let text = self.ask("info blockstats");
        let volume = text.lines().find(|line| line.starts_with("volume")).expect("a volume");
        let count = volume.split_whitespace().find_map(|word| word.strip_prefix("wr_operations="));
        count.and_then(|count| count.parse().ok()).expect("a count")
    }
}

/// What is said until it ends so, or until the other end closes: at `quit` there is no prompt any more.
fn until(stream: &mut UnixStream, end: &[u8]) -> String {
    let mut said = Vec::new();
    let mut byte = [0];
    while !said.ends_with(end) && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        said.extend(byte);
    }
    String::from_utf8_lossy(&said).into_owned()
}

fn kill(signal: &str, process: u32) {
    let status = Command::new("kill").args([signal, &process.to_string()]).status().expect("kill starts");
    assert!(status.success(), "kill {signal} {process}");
}

/// The bytes of an image's read-only segments, from the layer's start on.
fn constants(file: &[u8]) -> Vec<u8> {
    let number = |at: usize, bytes: usize| {
        file[at..at + bytes].iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let [table, size, count] = [(0x20, 8), (0x36, 2), (0x38, 2)].map(|(at, bytes)| number(at, bytes));
    let mut constants = Vec::new();
    for n in 0..count {
        let at = usize::try_from(table + n * size).expect("an offset");
        let is_constant = number(at, 4) == u64::from(PT_LOAD) && number(at + 4, 4) & u64::from(WRITE) == 0;
        if is_constant {
            let [offset, place, bytes] =
                [8, 16, 32].map(|field| usize::try_from(number(at + field, 8)).expect("a size"));
            let start = place - usize::try_from(LAYER.start).expect("an address");
            constants.resize(constants.len().max(start + bytes), 0);
            constants[start..start + bytes].copy_from_slice(&file[offset..offset + bytes]);
        }
    }
    constants
}

/// The code at the end of the first line that begins so.
pub(crate) fn code(lines: &[String], text: &str) -> u64 {
    let rest = lines.iter().find_map(|line| line.strip_prefix(text)?.strip_prefix(" 0x"));
    rest.and_then(|code| u64::from_str_radix(code, 16).ok())
        .unwrap_or_else(|| panic!("no `{text}` in {lines:#?}"))
}

/// Assembles a guest of `tests/below` as a kernel.
pub(crate) fn kernel(folder: &Path, name: &str, hammers: u64) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/below");
    let [object, program, code, kernel] =
        ["o", "elf", "bin", "kernel"].map(|end| folder.join(format!("{name}.{end}")));
    let run = |command: &mut Command| {
        let status = command.status().expect("binutils are installed");
        assert!(status.success(), "{command:?}");
    };
    run(Command::new("as")
        .args(["--32", "--defsym", &format!("HAMMERS={hammers}"), "-o"])
        .arg(&object)
        .arg("-I")
        .arg(&sources)
        .arg(sources.join(format!("{name}.S"))));
    run(Command::new("ld")
        .args(["-m", "elf_i386", "-Ttext", "0x1000000", "-e", "_start", "-o"])
        .arg(&program)
        .arg(object));
    run(Command::new("objcopy").args(["-O", "binary"]).arg(program).arg(&code));
    let code = std::fs::read(code).expect("code");
    std::fs::write(&kernel, [bzimage_front().as_slice(), &code].concat()).expect("a file");
    kernel
}

/// What a kernel of one setup sector that wants 1 MiB at 16 MiB says of itself (Linux, Documentation/arch/x86/boot.rst).
fn bzimage_front() -> [u8; 1024] {
    let mut front = [0; 1024];
    let mut put = |at: usize, bytes: &[u8]| front[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1F1, &[1]);
    put(0x1FE, &[0x55, 0xAA, 0xEB, 0x6A]);
    put(0x202, b"HdrS\x0F\x02");
    put(0x211, &[1]);
    put(0x22C, &0x7FFF_FFFF_u32.to_le_bytes());
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x238, &2047_u32.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x10_0000_u32.to_le_bytes());
    front
}
