//! A VM: the component's client over one connection that stays open.

use crate::nothing::Nothing;
use crate::site::{FIRMWARE, Site};
use anyhow::{Context as _, anyhow, bail};
use husk::attest::launch::LaunchConfig;
use husk::release::open::{Granted, Verdict};
use husk::release::session::{Client, SessionMemory};
use husk::release::tenure::Tenure;
use husk::release::{Anchor as _, Head, ReleaseFault};
use husk::seams::{Channel, ChannelError, Clock, EntropyError, Platform};
use husk_psp::{LocalGuest, PspReporter};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

/// SMT allowed, and the reserved bit that must be one (SEV-SNP ABI, table 10).
const GUEST_POLICY: u64 = 0x3_0000;

/// One VM that serves.
pub(crate) struct Vm {
    machine: Machine,
    tenure: Tenure<'static>,
    head: Head,
}

struct Machine {
    started: Instant,
    reporter: PspReporter<LocalGuest>,
    relay: Relay,
}

struct MachineClock(Instant);

impl Clock for MachineClock {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A launched VM that has not asked for its keys yet.
pub(crate) struct Launch {
    machine: Machine,
    config: LaunchConfig,
}

impl Launch {
    pub(crate) fn new(site: &Site, number: usize, config: LaunchConfig) -> anyhow::Result<Self> {
        let (mut guest, secrets) =
            LocalGuest::launch(&site.processor, &FIRMWARE, &config.host_data(), GUEST_POLICY)?;
        let certificate = guest.certificate()?;
        let reporter = PspReporter::new(guest, secrets, certificate);
        let relay = Relay::connect(site.address(number))?;
        Ok(Self { machine: Machine { started: Instant::now(), reporter, relay }, config })
    }

    /// Hello, attestation, grant and confirmation.
    pub(crate) fn boot(self) -> anyhow::Result<Vm> {
        let Self { mut machine, config } = self;
        let config = config.bind(&config.host_data()).map_err(|fault| anyhow!("{fault:?}"))?;
        let config = config.anchored().context("not a configuration with a broker")?;
        let memory = Box::leak(Box::new(SessionMemory::new()));
        let asked = |fault: ReleaseFault| anyhow!("{fault:?}");
        let mut client = machine.on(|platform| Client::new(platform, config, memory)).map_err(asked)?;
        let greeted = machine.on(|platform| client.hello(platform)).map_err(asked)?;
        let attested = machine.on(|platform| greeted.attest(platform, &mut client)).map_err(asked)?;
        let verdict = machine.on(|platform| attested.grant(platform, &mut client)).map_err(asked)?;
        let Verdict::Granted(Granted::Create(grant)) = verdict else { bail!("not a creation") };
        let mut tenure = Tenure::new(client, grant.pending);
        let head = Head { sequence: 1, digest: [1; 48] };
        machine.on(|platform| tenure.confirm(platform, &head).map(drop)).map_err(asked)?;
        Ok(Vm { machine, tenure, head })
    }
}

impl Vm {
    /// One commit.
    pub(crate) fn anchor(&mut self) -> anyhow::Result<()> {
        let Self { machine, tenure, head } = self;
        let mut new = Head { sequence: head.sequence + 1, digest: head.digest };
        new.digest[..8].copy_from_slice(&new.sequence.to_le_bytes());
        let anchored = machine.on(|platform| tenure.anchor(platform, head, &new).map(drop));
        anchored.map_err(|fault| anyhow!("{fault:?}"))?;
        *head = new;
        Ok(())
    }
}

impl Machine {
    fn on<R>(&mut self, call: impl FnOnce(&mut Platform<'_>) -> R) -> R {
        call(&mut Platform {
            disk: &mut Nothing,
            channel: &mut self.relay,
            reporter: &mut self.reporter,
            entropy: &mut |into: &mut [u8]| getrandom::fill(into).map_err(|_| EntropyError),
            clock: Some(&MachineClock(self.started)),
            console: &mut Nothing,
        })
    }
}

/// HTTP with one connection, as `husk relay` speaks it.
struct Relay(BufReader<TcpStream>);

impl Relay {
    fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    fn exchanged(&mut self, request: &[u8], reply: &mut [u8]) -> std::io::Result<usize> {
        let mut bytes = format!(
            "POST /husk/v1/frame HTTP/1.1\r\nhost: broker\r\ncontent-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
            request.len()
        )
        .into_bytes();
        bytes.extend_from_slice(request);
        self.0.get_mut().write_all(&bytes)?;
        let broken = || std::io::Error::from(std::io::ErrorKind::InvalidData);
        let (mut line, mut length) = (String::new(), None);
        loop {
            line.clear();
            self.0.read_line(&mut line)?;
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse::<usize>().ok();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let length = length.ok_or_else(broken)?;
        self.0.read_exact(reply.get_mut(..length).ok_or_else(broken)?)?;
        Ok(length)
    }
}

impl Channel for Relay {
    fn exchange(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, ChannelError> {
        self.exchanged(request, reply).map_err(|_| ChannelError::Unreachable)
    }
}
