//! The image under QEMU's emulation: started with what a launcher would give it, heard on its serial port.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long an image may say nothing before it counts as hanging: the machine may be busy with other things.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// What `isa-debug-exit` makes of the verdict of an orderly end, 0x10.
pub(crate) const ENDED: i32 = 0x10 << 1 | 1;

/// The image that `cargo xtask image` makes.
pub(crate) fn image() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/husk/image/husk-image");
    assert!(path.is_file(), "{} is not there: run `cargo xtask image`", path.display());
    path
}

/// What a family's verdict becomes as QEMU's exit code.
pub(crate) fn stopped(family: i32) -> i32 {
    family << 1 | 1
}

/// A machine that runs, and is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Machine {
    child: Child,
    lines: Receiver<String>,
}

impl Machine {
    /// Starts the image on the machine that it is made for, with so many processors and more of QEMU's arguments.
    pub(crate) fn start(cpus: u32, memory: &str, more: &[&str]) -> Self {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-M", "q35,smm=off", "-cpu", "EPYC,+svm,+npt,+rdrand", "-m", memory]);
        qemu.args([
            "-smp",
            &cpus.to_string(),
            "-nodefaults",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
        ]);
        qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel"]).arg(image()).args(more);
        let mut child = qemu
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("qemu-system-x86_64 starts: `cargo xtask setup` installs it");
        let serial = child.stdout.take().expect("piped");
        let (said, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(serial).lines().map_while(Result::ok) {
                if said.send(line.trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line, or nothing if the machine has ended.
    pub(crate) fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(SILENCE_MAX) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the machine says nothing for {SILENCE_MAX:?}"),
        }
    }

    /// Everything that the machine says until it ends, and its exit code.
    pub(crate) fn until_it_ends(mut self) -> (Vec<String>, i32) {
        let lines: Vec<String> = std::iter::from_fn(|| self.line()).collect();
        let began = Instant::now();
        loop {
            match self.child.try_wait().expect("a child") {
                Some(status) => return (lines, status.code().unwrap_or(-1)),
                None if began.elapsed() > SILENCE_MAX => panic!("the machine does not end: {lines:#?}"),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        if let Ok(None) = self.child.try_wait() {
            self.child.kill().expect("a child that runs");
            self.child.wait().expect("a child that was killed");
        }
    }
}

/// The code at the end of the first line that starts with `text`.
pub(crate) fn code(lines: &[String], text: &str) -> u64 {
    codes(lines, text).first().copied().unwrap_or_else(|| panic!("no line `{text}` in {lines:#?}"))
}

/// The codes of all such lines.
pub(crate) fn codes(lines: &[String], text: &str) -> Vec<u64> {
    let rest = lines.iter().filter_map(|line| line.strip_prefix(text)?.strip_prefix(" 0x"));
    rest.map(|code| u64::from_str_radix(code.split(' ').next().unwrap_or(code), 16).expect("a code"))
        .collect()
}
