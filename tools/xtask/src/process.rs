//! Child processes: run to the end, or kept as daemons that die with this one.

use crate::failure::Failure;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(50);

/// Runs a command to its end with the terminal as its output.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    let shown = shown(command);
    let status = command
        .status()
        .map_err(|error| Failure::failed(format!("xtask: `{shown}` does not start: {error}")))?;
    if status.success() { Ok(()) } else { Err(Failure::failed(format!("xtask: `{shown}` failed: {status}"))) }
}

/// Runs a command to its end and returns what it wrote to its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    let shown = shown(command);
    let output = command
        .output()
        .map_err(|error| Failure::failed(format!("xtask: `{shown}` does not start: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::failed(format!("xtask: `{shown}` failed: {}\n{complaint}", output.status)))
}

/// Runs a command to its end and returns what it wrote to its standard output, whether it succeeded or not.
pub(crate) fn transcript(command: &mut Command) -> Result<String, Failure> {
    let shown = shown(command);
    let output = command
        .output()
        .map_err(|error| Failure::failed(format!("xtask: `{shown}` does not start: {error}")))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as a person would type it.
fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// A process in the background, whose output goes to a log file. It is killed when this value is dropped, and by
/// the kernel if this process dies without dropping it.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `program` with `arguments`, writing to `log`.
    pub(crate) fn start(
        name: &str,
        program: &Path,
        arguments: &[String],
        log: &Path,
    ) -> Result<Self, Failure> {
        let open = || {
            File::options()
                .create(true)
                .append(true)
                .open(log)
                .map_err(|error| Failure::io("write", log, &error))
        };
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            .spawn()
            .map_err(|error| {
                Failure::failed(format!("xtask: {name} ({}) does not start: {error}", program.display()))
            })?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The process' number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything the process wrote so far.
    pub(crate) fn log_text(&self) -> String {
        tail(&self.log, 0).0
    }

    /// Waits until `seen` finds what it looks for in the log, the process ends, or the time is over.
    pub(crate) fn wait_until<T>(
        &mut self,
        patience: Duration,
        mut seen: impl FnMut(&str) -> Option<T>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + patience;
        let mut text = String::new();
        let mut offset = 0;
        loop {
            let ended = self.has_ended()?;
            let (more, next) = tail(&self.log, offset);
            offset = next;
            text.push_str(&more);
            if let Some(found) = seen(&text) {
                return Ok(found);
            }
            if ended {
                return Err(self.complaint("ended early", &text));
            }
            if Instant::now() > deadline {
                return Err(
                    self.complaint(&format!("said nothing of it within {} s", patience.as_secs()), &text)
                );
            }
            sleep(POLL);
        }
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait_end(&mut self, patience: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + patience;
        while !self.has_ended()? {
            if Instant::now() > deadline {
                return Err(
                    self.complaint(&format!("did not end within {} s", patience.as_secs()), &self.log_text())
                );
            }
            sleep(POLL);
        }
        Ok(())
    }

    /// Waits for the process to end by itself, with the exit code of success.
    pub(crate) fn wait_success(&mut self, patience: Duration) -> Result<(), Failure> {
        self.wait_end(patience)?;
        match self.child.try_wait() {
            Ok(Some(status)) if status.success() => Ok(()),
            other => Err(self.complaint(&format!("ended badly ({other:?})"), &self.log_text())),
        }
    }

    /// Asks the process to end (SIGTERM) and waits until it has.
    pub(crate) fn stop(mut self, patience: Duration) -> Result<(), Failure> {
        output(Command::new("sh").args(["-c", "kill \"$0\""]).arg(self.child.id().to_string()))?;
        self.wait_end(patience)
    }

    /// Ends the process at once (SIGKILL), as a power cut would.
    pub(crate) fn kill(self) {
        drop(self);
    }

    fn has_ended(&mut self) -> Result<bool, Failure> {
        let status = self
            .child
            .try_wait()
            .map_err(|error| Failure::failed(format!("xtask: {}: {error}", self.name)))?;
        Ok(status.is_some())
    }

    fn complaint(&self, what: &str, text: &str) -> Failure {
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n    ");
        Failure::failed(format!("{} {what}; its log {} ends:\n    {last}", self.name, self.log.display()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if the process has ended already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a file holds from `offset` on, as text, and the offset after it.
fn tail(path: &Path, offset: u64) -> (String, u64) {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(offset))?;
        file.read_to_end(&mut bytes)
    });
    match read {
        Ok(count) => (String::from_utf8_lossy(&bytes).into_owned(), offset + count as u64),
        Err(_) => (String::new(), offset),
    }
}

#[cfg(test)]
mod tests {
    use super::Daemon;
    use std::path::Path;
    use std::time::Duration;

    fn shell(script: &str, name: &str) -> Daemon {
        let folder = crate::house::fresh_workshop(name).expect("folder");
        let arguments = ["-c".to_owned(), script.to_owned()];
        Daemon::start("shell", Path::new("/bin/sh"), &arguments, &folder.join("log")).expect("starts")
    }

    #[test]
    fn a_line_is_waited_for_and_the_process_ends_with_its_value() {
        let mut daemon = shell("echo one; sleep 0.1; echo two; sleep 60", "unit-daemon-waits");
        let found = daemon.wait_until(Duration::from_secs(10), |text| text.contains("two").then_some(2));
        assert_eq!(found.ok(), Some(2));
        let pid = daemon.child.id();
        daemon.kill();
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn an_early_end_is_told_with_the_last_lines() {
        let mut daemon = shell("echo reason; exit 1", "unit-daemon-ends");
        let failure = daemon.wait_until(Duration::from_secs(10), |_| None::<()>).expect_err("ended");
        assert!(failure.to_string().contains("reason"), "{failure}");
    }
}
