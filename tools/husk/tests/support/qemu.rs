//! A machine of QEMU's without a guest, driven by its monitor.

use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// A machine without a guest that dies with this value.
pub(crate) struct Machine {
    child: Child,
    monitor: UnixStream,
    lines: Lines<BufReader<UnixStream>>,
}

impl Machine {
    /// With a TPM whose control channel is `control`.
    pub(crate) fn start(folder: &Path, control: &str, more: &[&str]) -> Self {
        let socket = folder.join("monitor");
        let arguments = [
            "-M q35 -m 32 -nodefaults -display none -no-user-config".to_owned(),
            format!("-chardev socket,id=c,path={}", folder.join(control).display()),
            "-tpmdev emulator,id=t,chardev=c -device tpm-crb,tpmdev=t".to_owned(),
            format!("-qmp unix:{},server=on,wait=off", socket.display()),
        ];
        let words = arguments.iter().flat_map(|line| line.split(' '));
        let mut command = Command::new(QEMU);
        let child = command.args(words).args(more).stdin(Stdio::null()).spawn().unwrap();
        let monitor = (0..600).find_map(|_| {
            std::thread::sleep(Duration::from_millis(50));
            UnixStream::connect(&socket).ok()
        });
        let monitor = monitor.unwrap();
        let lines = BufReader::new(monitor.try_clone().unwrap()).lines();
        let mut machine = Self { child, monitor, lines };
        machine.ask(r#"{"execute":"qmp_capabilities"}"#, "return");
        machine
    }

    /// Asks, and reads on until a line contains `answer`.
    #[track_caller]
    pub(crate) fn ask(&mut self, question: &str, answer: &str) -> String {
        self.monitor.write_all(question.as_bytes()).unwrap();
        let line = self.lines.by_ref().map(Result::unwrap).find(|line| line.contains(answer));
        line.unwrap_or_else(|| unreachable!("{question} has no {answer}"))
    }

    /// Asks again and again until the answer contains `wanted`.
    #[track_caller]
    pub(crate) fn until(&mut self, question: &str, wanted: &str) {
        let came = (0..600).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            self.ask(question, "return").contains(wanted)
        });
        assert!(came, "{question} never says {wanted}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            self.child.wait().unwrap();
        }
    }
}
