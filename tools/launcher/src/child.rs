//! QEMU as a child of this process.
//!
//! It ends in order when this process is asked to end, and it does not outlive it: the kernel kills it with whoever started it.

use anyhow::Context;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long QEMU may take to open its control socket, and to end once it was told.
const QUIT_WAIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// Runs QEMU to its end. `control` is where its words have it take control messages.
///
/// # Errors
/// It does not start, or is lost.
pub(crate) fn run(qemu: &Path, words: &[String], control: PathBuf) -> anyhow::Result<ExitStatus> {
    end_with_signals(control)?;
    // The signal comes when the thread that starts it ends, which is this one, and it waits.
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(qemu)
        .args(words)
        .spawn()
        .context("setpriv does not start; install util-linux")?;
    child.wait().context("QEMU is lost")
}

/// Has QEMU end in order when this process is asked to, from now on.
fn end_with_signals(control: PathBuf) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    drop(entered);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(obey(interrupt, terminate, &control)))?;
    Ok(())
}

async fn obey(mut interrupt: Signal, mut terminate: Signal, control: &Path) {
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if let Err(error) = quit(control) {
            eprintln!("husk run: QEMU cannot be told to end: {error}");
        }
    }
}

/// Tells QEMU to end, by its control socket (QEMU Machine Protocol), which it may not have opened yet.
fn quit(control: &Path) -> std::io::Result<()> {
    let mut stream = connect(control)?;
    stream.set_read_timeout(Some(QUIT_WAIT))?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    for command in ["qmp_capabilities", "quit"] {
        stream.write_all(format!("{{\"execute\":\"{command}\"}}\n").as_bytes())?;
        line.clear();
        lines.read_line(&mut line)?;
    }
    Ok(())
}

fn connect(control: &Path) -> std::io::Result<UnixStream> {
    let began = Instant::now();
    loop {
        match UnixStream::connect(control) {
            Err(_) if began.elapsed() < QUIT_WAIT => sleep(POLL),
            done => return done,
        }
    }
}
