//! A VM's keys from end to end: the component's client, the relay, the broker and a simulated processor, each its own
//! process but the client.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "../../../tests/support/nothing.rs"]
mod nothing;
#[path = "support/site.rs"]
mod site;
#[path = "support/tls.rs"]
mod tls;
#[path = "support/token.rs"]
mod token;

use husk::attest::launch::LaunchConfig;
use husk::release::open::{Granted, Verdict};
use husk::release::session::{Client, SessionMemory};
use husk::release::tenure::Tenure;
use husk::release::{Anchor, Head, ReleaseFault};
use husk::seams::{Clock, Entropy, EntropyError, Platform, Reporter};
use husk_psp::{Identity, LocalGuest, Processor, PspReporter, expected_measurement, os_entropy};
use husk_vtpmd::platform::SocketChannel;
use nothing::Nothing;
use site::{Process, Site};
use std::fs;
use std::time::Duration;
use std::time::Instant;

const FIRMWARE: &[u8] = b"firmware of a test";
/// POLICY: SMT allowed, and the bit that must be one.
const GUEST_POLICY: u64 = 0x3_0000;

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
struct Launch {
    config: LaunchConfig,
    channel: SocketChannel,
    reporter: PspReporter<LocalGuest>,
}

impl Launch {
    fn new(site: &Site, firmware: &[u8]) -> Self {
        let config = LaunchConfig::parse(&fs::read(site.path("config")).unwrap()).unwrap();
        let processor = Processor::shared(Identity::published(0).unwrap(), os_entropy());
        let (mut guest, secrets) =
            LocalGuest::launch(&processor, firmware, &config.host_data(), GUEST_POLICY).unwrap();
        let certificate = guest.certificate().unwrap();
        let reporter = PspReporter::new(guest, secrets, certificate);
        Self { config, channel: SocketChannel::new(site.path("relay"), Duration::from_secs(12)), reporter }
    }

    fn on<R>(&mut self, call: impl FnOnce(&mut Platform<'_>) -> R) -> R {
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

    fn boot(&mut self) -> Result<(Client<'static>, Verdict), ReleaseFault> {
        let config = self.config.bind(&self.config.host_data()).unwrap().anchored().unwrap();
        let memory = Box::leak(Box::new(SessionMemory::new()));
        let mut client = self.on(|platform| Client::new(platform, config, memory))?;
        let greeted = self.on(|platform| client.hello(platform))?;
        let attested = self.on(|platform| greeted.attest(platform, &mut client))?;
        let verdict = self.on(|platform| attested.grant(platform, &mut client))?;
        Ok((client, verdict))
    }

    fn refusal(&mut self) -> ReleaseFault {
        match self.boot() {
            Err(fault) => fault,
            Ok(_) => panic!("not refused"),
        }
    }
}

/// A site with a VM enrolled for `FIRMWARE`.
fn enrolled() -> Site {
    let (site, tenant) = Site::with_tenant();
    site.enrol(&tenant, &expected_measurement(FIRMWARE));
    fs::write(site.path("chain.pem"), Identity::published(0).unwrap().chain_pem().unwrap()).unwrap();
    site
}

const KEYS: [&str; 4] = ["--database", "db", "--root-key", "root"];
const SIMULATED: [&str; 2] = ["--accept-simulated-silicon", "chain.pem"];

fn relay(site: &Site, address: &str, more: &[&str]) -> Process {
    relay_to(site, &format!("http://{address}"), more)
}

fn relay_to(site: &Site, broker: &str, more: &[&str]) -> Process {
    let fixed = ["relay", "--socket", "relay", "--broker", broker, "--ready-file", "relay-ready"];
    site.start(&[&fixed[..], more].concat(), "relay-ready").0
}

fn head(sequence: u64) -> Head {
    Head { sequence, digest: [u8::try_from(sequence).unwrap(); 48] }
}

/// A launch that made its TPM, whose first head is confirmed.
fn created(site: &Site) -> (Launch, Tenure<'static>) {
    let mut launch = Launch::new(site, FIRMWARE);
    let (client, Verdict::Granted(Granted::Create(grant))) = launch.boot().unwrap() else {
        panic!("not a creation")
    };
    let mut tenure = Tenure::new(client, grant.pending);
    launch.on(|platform| tenure.confirm(platform, &head(1))).map(drop).unwrap();
    (launch, tenure)
}

#[test]
fn a_vm_lives_through_a_restart_of_its_broker() {
    let site = enrolled();
    let (broker, address) = site.serve("127.0.0.1:0", &SIMULATED);
    let relay = relay(&site, &address, &[]);
    let (mut launch, mut tenure) = created(&site);
    drop(broker);
    let lost = launch.on(|platform| tenure.anchor(platform, &head(1), &head(2)).map(drop));
    assert_eq!(lost, Err(ReleaseFault::Undecided), "an unreachable broker is silence, nothing else");
    let (_broker, _) = site.serve(&address, &SIMULATED);
    launch.on(|platform| tenure.anchor(platform, &head(1), &head(2))).map(drop).unwrap();
    launch.on(|platform| tenure.release(platform)).unwrap();
    let (_, verdict) = Launch::new(&site, FIRMWARE).boot().unwrap();
    let Verdict::Granted(Granted::Open(grant)) = verdict else { panic!("not an opening") };
    assert_eq!(grant.head, head(2));
    drop(relay);
}

#[test]
fn a_vm_gets_its_keys_over_tls() {
    let site = enrolled();
    let shown = tls::made(&site, "a");
    let (_broker, address) = site.serve("127.0.0.1:0", &[&SIMULATED[..], &shown.server()].concat());
    let relay = relay_to(&site, &format!("https://{address}"), &shown.client());
    let (mut launch, mut tenure) = created(&site);
    launch.on(|platform| tenure.release(platform)).unwrap();
    drop(relay);
}

/// A database is set back to a time before the VM's newest commits while no broker serves it; the token was not.
#[test]
fn a_counter_in_a_token_notices_a_database_that_was_set_back() {
    let site = enrolled();
    let place = token::make(&site);
    let counted =
        [&["broker", "count", "--counter-token-out", "commits", "--json"], &KEYS[..], &place].concat();
    assert!(site.json(&counted)["commits"].as_u64().unwrap() >= 2);
    assert_eq!(site.run(&counted).status.code(), Some(4), "a counter is never made anew");
    let serve = [&SIMULATED[..], &["--counter-token", "commits"], &place].concat();
    let (broker, address) = site.serve("127.0.0.1:0", &serve);
    let relay = relay(&site, &address, &[]);
    let (mut launch, mut tenure) = created(&site);
    drop(broker);
    let files = ["db", "db-wal"].map(|name| (site.path(name), fs::read(site.path(name)).ok()));
    let (broker, _) = site.serve(&address, &serve);
    launch.on(|platform| tenure.anchor(platform, &head(1), &head(2))).map(drop).unwrap();
    launch.on(|platform| tenure.release(platform)).unwrap();
    drop(broker);
    for (path, yesterday) in files {
        match yesterday {
            Some(bytes) => fs::write(path, bytes).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
    }
    let (_broker, _) = site.serve(&address, &serve);
    let mut next = Launch::new(&site, FIRMWARE);
    let fault = next.refusal();
    let fault = if fault == ReleaseFault::Unreachable { next.refusal() } else { fault };
    assert_eq!(fault, ReleaseFault::DeniedVm, "halted");
    drop(relay);
}

#[test]
fn simulated_silicon_and_other_firmware_are_refused() {
    let site = enrolled();
    let (broker, address) = site.serve("127.0.0.1:0", &[]);
    let _relay = relay(&site, &address, &[]);
    assert_eq!(Launch::new(&site, FIRMWARE).refusal(), ReleaseFault::DeniedSimulated);
    drop(broker);
    let (_broker, _) = site.serve(&address, &SIMULATED);
    // The pipe's connection went with the old broker; a refused hello says so and changes nothing.
    let mut other = Launch::new(&site, b"another firmware");
    let fault = other.refusal();
    let fault = if fault == ReleaseFault::Unreachable { other.refusal() } else { fault };
    assert_eq!(fault, ReleaseFault::DeniedMeasurement);
    assert!(Launch::new(&site, FIRMWARE).boot().is_ok());
}

#[test]
fn a_hostile_relay_gets_silence_or_refusals() {
    let site = enrolled();
    let (_broker, address) = site.serve("127.0.0.1:0", &SIMULATED);
    let record = relay(&site, &address, &["--test-tamper", "record:yesterday"]);
    assert!(Launch::new(&site, FIRMWARE).boot().is_ok());
    drop(record);
    let cases = [
        ("swap-broker-key", ReleaseFault::BrokerUntrusted),
        ("replay:yesterday", ReleaseFault::ReplyRefused),
        ("replay-all:yesterday", ReleaseFault::ReplyRefused),
        ("flip-reply:0:40", ReleaseFault::ReplyRefused),
        ("flip-reply:2:100", ReleaseFault::ReplyRefused),
        ("flip-request:1:500", ReleaseFault::DeniedOther),
        ("drop-request:0", ReleaseFault::Unreachable),
        ("drop-reply:2", ReleaseFault::Unreachable),
    ];
    for (mode, fault) in cases {
        let _relay = relay(&site, &address, &["--test-tamper", mode]);
        assert_eq!(Launch::new(&site, FIRMWARE).refusal(), fault, "{mode}");
    }
    let _relay = relay(&site, &address, &[]);
    let (_, verdict) = Launch::new(&site, FIRMWARE).boot().unwrap();
    assert!(matches!(verdict, Verdict::Granted(Granted::Create(_))), "the honest way still works");
}
