//! Everything that `husk run` needs, in a folder of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A machine that says nothing for so long hangs; others may keep this host busy.
const SILENCE_MAX: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(50);
/// Where the layer is loaded.
const LAYER: u64 = 0x1000_0000;
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

fn image() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/husk/image/husk-image");
    assert!(path.is_file(), "{} is not there: run `cargo xtask image`", path.display());
    path
}

fn husk(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_husk")).args(words).output().expect("husk starts");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn daemon(words: &[&str]) -> Daemon {
    let mut command = Command::new(env!("CARGO_BIN_EXE_husk"));
    Daemon(command.args(words).stdin(Stdio::null()).spawn().expect("husk starts"))
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
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
        let serving = daemon(&[&["broker", "serve"], &stored[..], &keyed, &served].concat());
        let address =
            wait_for("the broker", || std::fs::read_to_string(&ready).ok().filter(|text| !text.is_empty()));
        wait_for("the processor", || Path::new(&path("psp.socket")).exists().then_some(()));
        let broker = format!("http://{}", address.trim());
        Self { folder, broker, _daemons: [processor, serving] }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a machine; when its guest is off it stands still until it is told to quit.
    pub(crate) fn run(&self, kernel: &Path, cpus: u8) -> Machine {
        self.run_with(kernel, cpus, &[], Stdio::null()).0
    }

    /// The same, with more words for `husk run`, and a hand on the guest's serial port.
    pub(crate) fn run_with(
        &self,
        kernel: &Path,
        cpus: u8,
        words: &[&str],
        serial: Stdio,
    ) -> (Machine, Option<ChildStdin>) {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let monitor = path("monitor");
        let mut command = Command::new(env!("CARGO_BIN_EXE_husk"));
        command.args(["run", "--memory", "512", "--vcpus", &cpus.to_string(), "--broker", &self.broker]);
        command.arg("--image").arg(image()).arg("--kernel").arg(kernel).args(words);
        command.args(["--volume", &path("disk"), "--config", &path("config"), "--psp", &path("psp.socket")]);
        command.args(["--", "-no-shutdown", "-monitor", &format!("unix:{monitor},server=on,wait=off")]);
        let mut child = command.stdin(serial).stdout(Stdio::piped()).spawn().expect("husk starts");
        let serial = child.stdin.take();
        let console = child.stdout.take().expect("piped");
        let (said, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                if said.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        let dump = self.folder.path().join("dump");
        (Machine { child: Daemon(child), lines, monitor: monitor.into(), dump }, serial)
    }
}

/// A machine with the image in it.
pub(crate) struct Machine {
    child: Daemon,
    lines: Receiver<String>,
    monitor: PathBuf,
    dump: PathBuf,
}

impl Machine {
    /// Everything that is said until a line begins so.
    pub(crate) fn until_line(&mut self, begin: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(SILENCE_MAX) {
                Ok(line) => seen.push(line),
                Err(why) => panic!("no line `{begin}` ({why}): {seen:#?}"),
            }
            if seen.last().is_some_and(|line| line.starts_with(begin)) {
                return seen;
            }
        }
    }

    /// What of the layer nobody may write, as the image's file has it and as the machine has it.
    pub(crate) fn constants_of_the_layer(&self) -> (Vec<u8>, Vec<u8>) {
        let constants = constants(&std::fs::read(image()).expect("the image"));
        self.tell(&format!("pmemsave {LAYER:#x} {:#x} \"{}\"", constants.len(), self.dump.display()));
        let found = wait_for("the dump", || {
            std::fs::read(&self.dump).ok().filter(|found| found.len() == constants.len())
        });
        (constants, found)
    }

    /// Ends the machine.
    pub(crate) fn quit(mut self) {
        self.tell("quit");
        let status = wait_for("the end", || self.child.0.try_wait().expect("a child"));
        assert!(status.success(), "{status}");
    }

    fn tell(&self, line: &str) {
        let mut monitor = wait_for("the monitor", || UnixStream::connect(&self.monitor).ok());
        monitor.set_read_timeout(Some(SILENCE_MAX)).expect("a socket");
        let mut greeting = [0; 1];
        monitor.read_exact(&mut greeting).expect("the monitor's greeting");
        monitor.write_all(format!("{line}\n").as_bytes()).expect("the monitor listens");
        std::thread::sleep(POLL);
    }
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
            let start = place - usize::try_from(LAYER).expect("an address");
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
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/below/{name}.S"));
    let [object, program, code, kernel] =
        ["o", "elf", "bin", "kernel"].map(|end| folder.join(format!("{name}.{end}")));
    let run = |command: &mut Command| {
        let status = command.status().expect("binutils are installed");
        assert!(status.success(), "{command:?}");
    };
    run(Command::new("as")
        .args(["--32", "--defsym", &format!("HAMMERS={hammers}"), "-o"])
        .arg(&object)
        .arg(source));
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
