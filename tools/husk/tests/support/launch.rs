//! Launches of the component's client at a simulated processor, behind a relay.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

use crate::nothing::Nothing;
use crate::site::{Process, Site};
use husk::attest::launch::LaunchConfig;
use husk::release::open::{Granted, Verdict};
use husk::release::session::{Client, SessionMemory};
use husk::release::tenure::Tenure;
use husk::release::{Head, ReleaseFault};
use husk::seams::{Clock, Entropy, EntropyError, Platform, Reporter};
use husk_psp::{Identity, LocalGuest, Processor, PspReporter, expected_measurement, os_entropy};
use husk_vtpmd::platform::SocketChannel;
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};

pub(crate) const FIRMWARE: &[u8] = b"firmware of a test";
/// POLICY: SMT allowed, and the bit that must be one.
pub(crate) const GUEST_POLICY: u64 = 0x3_0000;

/// What the session needs of the machine.
struct Machine(Instant);

impl Clock for Machine {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
}

impl Entropy for Machine {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(into).map_err(|_| EntropyError)
    }
}

/// One launch at the simulated processor.
pub(crate) struct Launch {
    pub(crate) config: LaunchConfig,
    channel: SocketChannel,
    reporter: PspReporter<LocalGuest>,
}

impl Launch {
    pub(crate) fn new(site: &Site, firmware: &[u8]) -> Self {
        let config = LaunchConfig::parse(&fs::read(site.path("config")).unwrap()).unwrap();
        let processor = Processor::shared(Identity::published(0).unwrap(), os_entropy());
        let (mut guest, secrets) =
            LocalGuest::launch(&processor, firmware, &config.host_data(), GUEST_POLICY).unwrap();
        let certificate = guest.certificate().unwrap();
        let reporter = PspReporter::new(guest, secrets, certificate);
        Self { config, channel: SocketChannel::new(site.path("relay"), Duration::from_secs(12)), reporter }
    }

    pub(crate) fn on<R>(&mut self, call: impl FnOnce(&mut Platform<'_>) -> R) -> R {
        let started = Instant::now();
        let reporter: &mut dyn Reporter = &mut self.reporter;
        call(&mut Platform {
            disk: &mut Nothing,
            channel: &mut self.channel,
            reporter,
            entropy: &mut Machine(started),
            clock: Some(&Machine(started)),
            console: &mut Nothing,
        })
    }

    pub(crate) fn boot(&mut self) -> Result<(Client<'static>, Verdict), ReleaseFault> {
        let config = self.config.bind(&self.config.host_data()).unwrap().anchored().unwrap();
        let memory = Box::leak(Box::new(SessionMemory::new()));
        let mut client = self.on(|platform| Client::new(platform, config, memory))?;
        let greeted = self.on(|platform| client.hello(platform))?;
        let attested = self.on(|platform| greeted.attest(platform, &mut client))?;
        let verdict = self.on(|platform| attested.grant(platform, &mut client))?;
        Ok((client, verdict))
    }

    pub(crate) fn refusal(&mut self) -> ReleaseFault {
        match self.boot() {
            Err(fault) => fault,
            Ok(_) => panic!("not refused"),
        }
    }
}

/// A site with a VM enrolled for `FIRMWARE`, and what enrolling it told.
pub(crate) fn enrolled() -> (Site, Value) {
    let (site, tenant) = Site::with_tenant();
    let vm = site.enrol(&tenant, &expected_measurement(FIRMWARE));
    fs::write(site.path("chain.pem"), Identity::published(0).unwrap().chain_pem().unwrap()).unwrap();
    (site, vm)
}

pub(crate) const KEYS: [&str; 4] = ["--database", "db", "--root-key", "root"];
pub(crate) const SIMULATED: [&str; 2] = ["--accept-simulated-silicon", "chain.pem"];

pub(crate) fn relay(site: &Site, address: &str, more: &[&str]) -> Process {
    relay_to(site, &format!("http://{address}"), more)
}

pub(crate) fn relay_to(site: &Site, broker: &str, more: &[&str]) -> Process {
    let fixed = ["relay", "--socket", "relay", "--broker", broker, "--ready-file", "relay-ready"];
    site.start(&[&fixed[..], more].concat(), "relay-ready").0
}

pub(crate) fn head(sequence: u64) -> Head {
    Head { sequence, digest: [u8::try_from(sequence).unwrap(); 48] }
}

/// A launch that made its TPM, whose first head is confirmed.
pub(crate) fn created(site: &Site) -> (Launch, Tenure<'static>) {
    let mut launch = Launch::new(site, FIRMWARE);
    let (client, Verdict::Granted(Granted::Create(grant))) = launch.boot().unwrap() else {
        panic!("not a creation")
    };
    let mut tenure = Tenure::new(client, grant.pending);
    launch.on(|platform| tenure.confirm(platform, &head(1))).map(drop).unwrap();
    (launch, tenure)
}
