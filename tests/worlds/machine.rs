//! The driver's hold on one component's process.

use crate::faults::Faults;
use crate::pipe::{self, number, order, told};
use crate::setting::{Rule, Tenancy};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// How an order ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done(Vec<u8>),
    Busy(u64),
    Fault(u64),
    /// The process ended, or there was none.
    Dead,
}

impl Answer {
    /// For the log.
    fn word(&self) -> String {
        match self {
            Self::Done(response) => format!("done, code {:02x?}", response.get(6..10).unwrap_or_default()),
            Self::Busy(retry_ms) => format!("busy for {retry_ms} ms"),
            Self::Fault(code) => format!("fault 0x{code:08x}"),
            Self::Dead => "dead".to_owned(),
        }
    }
}

/// How far its launch has come, as the driver knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Off,
    Launched,
    Granted,
    Runs,
}

struct Process {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
}

/// A process that outlives worlds, a disk's file, and the launch that runs.
pub(crate) struct Machine {
    process: Option<Process>,
    pub(crate) disk: PathBuf,
    pub(crate) phase: Phase,
    pub(crate) launch: u64,
    /// Which grant of the world its launch holds: the broker's order, not the launches'.
    pub(crate) grant: u64,
}

impl Machine {
    pub(crate) fn new(disk: PathBuf) -> Self {
        Self { process: None, disk, phase: Phase::Off, launch: 0, grant: 0 }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.phase = Phase::Off;
        if let Some(Process { mut child, .. }) = self.process.take() {
            child.kill().and_then(|()| child.wait()).expect("it ends");
        }
    }

    /// Begins launch number `launch` on what its disk holds. What ran before loses its power; a process that is there is used
    /// again.
    pub(crate) fn launch(&mut self, faults: &mut Faults<'_>, tenancy: &Tenancy, (world, launch): (u64, u64)) {
        let program = std::env::current_exe().expect("this program");
        let start = || {
            let mut command = Command::new(program);
            command.arg(crate::COMPONENT).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().expect("a component's process");
            let (to, from) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
            Process { child, to, from }
        };
        self.process.get_or_insert_with(start);
        self.launch = launch;
        let config = tenancy.config.as_bytes();
        let has_clock = tenancy.serve() == husk::attest::launch::Serve::Lease;
        let lies = faults.nature.without == Some(Rule::FlushIsDurable);
        let mut report_id = [0x42; 32];
        report_id[..8].copy_from_slice(&launch.to_le_bytes());
        report_id[8..16].copy_from_slice(&world.to_le_bytes());
        let parts: [&[u8]; 6] = [
            &faults.broker.port().to_le_bytes(),
            &[u8::from(has_clock), u8::from(lies)],
            &(world << 20 | launch).wrapping_mul(0xD134_2543_DE82_EF95).to_le_bytes(),
            &report_id,
            &u16::try_from(config.len()).expect("it is short").to_le_bytes(),
            config,
        ];
        let path = self.disk.to_str().expect("a path of text").as_bytes();
        let answer = self.order(faults, order::LAUNCH, &[&parts.concat(), path].concat());
        assert_eq!(answer, Answer::Done(Vec::new()), "a launch begins");
        self.phase = Phase::Launched;
    }

    /// Gives an order, and says what becomes of its steps.
    pub(crate) fn order(&mut self, faults: &mut Faults<'_>, code: u8, rest: &[u8]) -> Answer {
        let answer = self.carry_out(faults, code, rest);
        eprintln!("world: launch {}, order {}: {}", self.launch, char::from(code), answer.word());
        if answer == Answer::Dead {
            self.kill();
        }
        answer
    }

    fn carry_out(&mut self, faults: &mut Faults<'_>, code: u8, rest: &[u8]) -> Answer {
        let Some(Process { to, from, .. }) = &mut self.process else { return Answer::Dead };
        let now = |faults: &Faults<'_>| faults.nature.vm_now_ms().to_le_bytes();
        if pipe::send(to, &[&[code], &now(faults), rest]).is_err() {
            return Answer::Dead;
        }
        loop {
            let Ok(mut told) = pipe::receive(from) else { return Answer::Dead };
            match told[0] {
                told::STEP => {
                    let (fate, choice) = faults.fate(told[1], &told[2..]);
                    if pipe::send(to, &[&[fate], &now(faults), &choice.to_le_bytes()]).is_err() {
                        return Answer::Dead;
                    }
                }
                told::DONE => return Answer::Done(told.split_off(1)),
                told::BUSY => return Answer::Busy(number(&told, 1)),
                _ => return Answer::Fault(number(&told, 1)),
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}
