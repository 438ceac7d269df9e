//! A thousand worlds: the real server and its database, the real component in a process of its own, and everything around
//! them goes wrong as one seed says.
//!
//! **What.** In each world two machines of one VM (reference engine, volume, protocol; a process each) talk HTTP to a broker
//! (the server of `husk broker serve` on a socket, SQLite on files). Processes die at any write, flush, request or reply;
//! messages are lost, late, doubled, or old; disks lose what was not flushed, or are old; time passes when the seed says so.
//! **Laws.** No acknowledged commit is lost. Nothing older answers after something newer did. Of all images the newest
//! honest one boots. Only the newest grant's holder comes to serve. Without one of the rules a world shows it.
//! **Not here.** Signatures of reports; PostgreSQL and real power cuts of a database (`tools/broker`); creation, which each
//! kind of world goes through once. A broker that dies is the server task aborted, and its files as they are at
//! that instant.
#![expect(clippy::expect_used, clippy::panic, reason = "a test says what it expects")]

#[path = "worlds/broker.rs"]
mod broker;
#[path = "worlds/component.rs"]
mod component;
#[path = "worlds/faults.rs"]
mod faults;
#[path = "worlds/hardware.rs"]
mod hardware;
#[path = "worlds/machine.rs"]
mod machine;
#[path = "worlds/pipe.rs"]
mod pipe;
#[path = "worlds/post.rs"]
mod post;
#[path = "worlds/run.rs"]
mod run;
#[path = "worlds/setting.rs"]
mod setting;
#[path = "support/tpm.rs"]
mod tpm;
#[path = "worlds/world.rs"]
mod world;

use run::{Run, Wish};
use std::process::{Command, ExitCode, Stdio};

/// Word by which this program is a component's process.
pub(crate) const COMPONENT: &str = "component";
/// Word by which it plays the worlds: what brokers log goes elsewhere then.
const PLAY: &str = "play";
/// Lines of the log that a failure shows.
const LOG_LINES: usize = 40;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some(COMPONENT) => {
            component::serve();
            ExitCode::SUCCESS
        }
        Some(PLAY) => play(&words[1..]),
        _ => outer(&words),
    }
}

/// The tests, by name; a filter chooses as libtest's does.
fn play(words: &[String]) -> ExitCode {
    let chosen = |name: &str| {
        let mut filters = words.iter().filter(|word| !word.starts_with('-')).peekable();
        filters.peek().is_none() || filters.any(|filter| name.contains(filter.as_str()))
    };
    let (mut passed, mut failed) = (0, 0);
    let wish = Wish::from_environment();
    for (name, run) in Run::all(&wish) {
        if !chosen(name) {
            continue;
        }
        let outcome = run.go(&wish);
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        let (Ok(said) | Err(said)) = &outcome;
        println!("test {name} ... {word}\n    {said}");
        *(if outcome.is_ok() { &mut passed } else { &mut failed }) += 1;
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plays in a process whose log is shown only where something fails.
fn outer(words: &[String]) -> ExitCode {
    let log = tempfile::NamedTempFile::new().expect("a log");
    let program = std::env::current_exe().expect("this program");
    let to = Stdio::from(log.reopen().expect("a log"));
    let status = Command::new(program).arg(PLAY).args(words).stderr(to).status().expect("it runs");
    if status.success() {
        return ExitCode::SUCCESS;
    }
    let said = std::fs::read(log.path()).expect("the log");
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].iter().for_each(|line| eprintln!("{line}"));
    ExitCode::FAILURE
}
