//! Launches of one VM: boot, commit, answer, and end in one way or another.

use crate::broker::{Cluster, Dice, MEASUREMENT};
use crate::laws::Ledger;
use crate::nothing::Nothing;
use husk::attest::launch::LaunchConfig;
use husk::attest::report::Layout;
use husk::release::open::{Granted, Verdict};
use husk::release::session::{Client, SessionMemory};
use husk::release::tenure::Tenure;
use husk::release::{Anchor, Head, ReleaseFault};
use husk::seams::{
    Channel, ChannelError, Clock, EntropyError, Platform, REPORT_BYTES, REPORT_DATA_BYTES, Reporter,
    ReporterError,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use zerocopy::{FromZeros, IntoBytes};

/// A relay that stays with one broker until that one fails, and now and then goes to another without a reason.
struct Relay<'c> {
    cluster: &'c Cluster,
    dice: Dice,
    address: SocketAddr,
    is_cut: bool,
}

impl Channel for Relay<'_> {
    fn exchange(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, ChannelError> {
        if self.is_cut {
            return Err(ChannelError::Unreachable);
        }
        if self.dice.below(30) == 0 {
            self.address = self.cluster.address(&mut self.dice);
        }
        let Some(answer) = self.posted(request) else {
            self.address = self.cluster.address(&mut self.dice);
            return Err(ChannelError::Unreachable);
        };
        reply[..answer.len()].copy_from_slice(&answer);
        Ok(answer.len())
    }
}

impl Relay<'_> {
    fn posted(&self, request: &[u8]) -> Option<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(5)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        let head = "POST /husk/v1/frame HTTP/1.1\r\ncontent-type: application/octet-stream\r\nhost: x\r\nconnection: close";
        write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n", request.len()).ok()?;
        stream.write_all(request).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
        answer.starts_with(b"HTTP/1.1 200").then(|| answer[end + 4..].to_vec())
    }
}

struct Machine {
    started: Instant,
    layout: Layout,
}

impl Clock for Machine {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap()
    }
}

impl Reporter for &Machine {
    fn report(
        &mut self,
        data: &[u8; REPORT_DATA_BYTES],
        report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), ReporterError> {
        let mut layout = self.layout;
        layout.report_data = *data;
        report.copy_from_slice(layout.as_bytes());
        Ok(())
    }

    fn certificate(&mut self, _: &mut [u8]) -> usize {
        0
    }
}

struct Launch<'c> {
    config: LaunchConfig,
    machine: Machine,
    relay: Relay<'c>,
}

impl<'c> Launch<'c> {
    fn new(cluster: &'c Cluster, vm: u8, dice: &mut Dice) -> Self {
        let config = cluster.config(vm);
        let mut layout = Layout::new_zeroed();
        layout.version.set(2);
        layout.policy.set(1 << 17);
        layout.signature_algo.set(1);
        layout.measurement = MEASUREMENT;
        layout.host_data = config.host_data();
        layout.report_id[..8].copy_from_slice(&dice.word().to_le_bytes());
        let mut own = Dice::new(dice.word(), 3);
        let address = cluster.address(&mut own);
        let relay = Relay { cluster, dice: own, address, is_cut: false };
        Self { config, machine: Machine { started: Instant::now(), layout }, relay }
    }

    fn on<R>(&mut self, call: impl FnOnce(&mut Platform<'_>) -> R) -> R {
        call(&mut Platform {
            disk: &mut Nothing,
            channel: &mut self.relay,
            reporter: &mut &self.machine,
            entropy: &mut |into: &mut [u8]| getrandom::fill(into).map_err(|_| EntropyError),
            clock: Some(&self.machine),
            console: &mut Nothing,
        })
    }

    /// From power-on to a confirmed tenure, or nothing: busy, or the network was not with us.
    fn boot(&mut self, ledger: &Ledger) -> Result<Option<(Tenure<'static>, Head)>, ReleaseFault> {
        let before = ledger.acknowledged();
        let config = self.config.bind(&self.config.host_data()).unwrap().anchored().unwrap();
        let memory = Box::leak(Box::new(SessionMemory::new()));
        let mut client = self.on(|platform| Client::new(platform, config, memory))?;
        let greeted = self.on(|platform| client.hello(platform))?;
        let attested = self.on(|platform| greeted.attest(platform, &mut client))?;
        let (previous, is_open, pending) = match self.on(|platform| attested.grant(platform, &mut client))? {
            Verdict::Busy { .. } => return Ok(None),
            Verdict::Granted(Granted::Create(grant)) => (Head::NONE, false, grant.pending),
            Verdict::Granted(Granted::Open(grant)) => (grant.head, true, grant.pending),
            Verdict::Granted(Granted::Restore(_) | Granted::Ephemeral(_)) => return Ok(None),
        };
        let mut tenure = Tenure::new(client, pending);
        ledger.granted(tenure.standing().token(), is_open.then_some(&previous), before);
        let first = ledger.successor(&previous);
        insist(|| self.on(|platform| tenure.confirm(platform, &first).map(drop)))?;
        ledger.committed(&first);
        Ok(Some((tenure, first)))
    }
}

/// Asks again while the outcome is unknown.
fn insist(mut ask: impl FnMut() -> Result<(), ReleaseFault>) -> Result<(), ReleaseFault> {
    loop {
        match ask() {
            Err(ReleaseFault::Undecided | ReleaseFault::Unreachable) => {}
            settled => return settled,
        }
    }
}

/// Launches the VM again and again until it is over.
pub(crate) fn live(
    cluster: &Cluster,
    (vm, _): (u8, u64),
    ledger: &Ledger,
    mut dice: Dice,
    over: &AtomicBool,
) {
    while !over.load(Ordering::SeqCst) {
        let mut launch = Launch::new(cluster, vm, &mut dice);
        let Ok(Some((mut tenure, mut head))) = launch.boot(ledger) else {
            std::thread::sleep(Duration::from_millis(dice.below(60)));
            continue;
        };
        for _ in 0..dice.below(40) {
            let mut answers = dice.below(12);
            let mut goes_on = committed(&mut launch, &mut tenure, &mut head, ledger);
            while goes_on && answers > 0 {
                std::thread::sleep(Duration::from_millis(2));
                goes_on = answer(&mut launch, &mut tenure, ledger) != Some(false);
                answers -= 1;
            }
            if !goes_on || over.load(Ordering::SeqCst) {
                break;
            }
        }
        end(&mut launch, tenure, ledger, &mut dice);
    }
}

/// One commit; false if the tenure is over.
fn committed(
    launch: &mut Launch<'_>,
    tenure: &mut Tenure<'static>,
    head: &mut Head,
    ledger: &Ledger,
) -> bool {
    let new = ledger.successor(head);
    let anchored = insist(|| launch.on(|platform| tenure.anchor(platform, head, &new).map(drop)));
    if anchored.is_err() {
        return false;
    }
    ledger.committed(&new);
    *head = new;
    true
}

/// Asks for the right to answer: whether it was given, or nothing where it may be later.
fn answer(launch: &mut Launch<'_>, tenure: &mut Tenure<'static>, ledger: &Ledger) -> Option<bool> {
    let asked = Instant::now();
    match launch.on(|platform| tenure.permit(platform).map(drop)) {
        Ok(()) => {
            ledger.answered(tenure.standing().token(), asked);
            Some(true)
        }
        Err(ReleaseFault::LeaseOver | ReleaseFault::Undecided | ReleaseFault::Unreachable) => None,
        Err(_) => Some(false),
    }
}

/// In order, dead at once, or cut off and answering for as long as it may.
fn end(launch: &mut Launch<'_>, mut tenure: Tenure<'static>, ledger: &Ledger, dice: &mut Dice) {
    match dice.below(3) {
        0 => drop(launch.on(|platform| tenure.release(platform))),
        1 => {}
        _ => {
            launch.relay.is_cut = true;
            while answer(launch, &mut tenure, ledger) == Some(true) {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// Boots once more, however long it takes, and finds everything that was acknowledged.
pub(crate) fn boots(cluster: &Cluster, vm: u8, ledger: &Ledger, mut dice: Dice) {
    let started = Instant::now();
    while !matches!(Launch::new(cluster, vm, &mut dice).boot(ledger), Ok(Some(_))) {
        assert!(started.elapsed() < Duration::from_secs(60), "an honest disk does not boot");
        std::thread::sleep(Duration::from_millis(50));
    }
}
