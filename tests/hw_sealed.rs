//! Laws of the disconnected mode: who gets its keys, who may make a TPM in it, and what it does not promise.
//!
//! The processor is the simulated one, asked by the very messages that silicon gets.
#![expect(clippy::expect_used, reason = "a test says what it expects")]

#[path = "support/disk.rs"]
mod disk;
#[path = "world/toy.rs"]
mod toy;
#[path = "support/tpm_memory.rs"]
mod tpm_memory;

use disk::{SimDisk, Tears, every_crash};
use husk::attest::AttestFault;
use husk::attest::launch::{Kbs, LaunchConfig, Mode, Serve};
use husk::attest::report::Policy;
use husk::engine::{COMMAND_BYTES_MAX, Locality};
use husk::fault::{Family, Fault};
use husk::frontend::svsm::{Attested as _, Persistence, Serving};
use husk::keys::{CreateKey, Identity, VolumeKey};
use husk::release::hw_sealed::Permit;
use husk::release::transcript::{SigningKey, point_digest};
use husk::release::unsealed::Unsealed;
use husk::release::{Head, ReleaseFault};
use husk::seams::{
    Channel, ChannelError, DerivedKeyRequest, Entropy, EntropyError, Platform, REPORT_BYTES,
    REPORT_DATA_BYTES, Reporter, ReporterError,
};
use husk::secret::Secret;
use husk::volume::{STATE_BYTES_MAX, Stamp, Volume, VolumeFault, Wanted, Workspace};
use husk::vtpm::{Asked, Cold, Served, Vtpm};
use husk_psp::{Identity as Chip, LocalGuest, Processor, PspReporter};
use std::cell::Cell;
use std::sync::LazyLock;
use toy::{INCREMENT, RESET_COUNT, SHOW, Toy};
use tpm_memory::memory;
use zerocopy::IntoBytes as _;

const DISK_BYTES: usize = 64 * 1024;
/// TPM2_Startup.
const STARTUP: u32 = 0x144;
const FIRMWARE: &[u8] = b"firmware of a test";
const GUEST_POLICY: u64 = Policy::RESERVED_ONE.union(Policy::SMT).bits();

static CHIPS: LazyLock<[Chip; 2]> =
    LazyLock::new(|| [0, 1].map(|chip| Chip::published(chip).expect("a published chip")));

thread_local! { static DRAWS: Cell<u8> = const { Cell::new(0) }; }

struct Dice;

impl Entropy for Dice {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError> {
        into.iter_mut().for_each(|byte| {
            DRAWS.set(DRAWS.get().wrapping_add(1));
            *byte = DRAWS.get();
        });
        Ok(())
    }
}

/// The host gives no network.
struct Disconnected;

impl Channel for Disconnected {
    fn exchange(&mut self, _: &[u8], _: &mut [u8]) -> Result<usize, ChannelError> {
        Err(ChannelError::Unreachable)
    }
}

/// A processor of firmware that can only report.
struct KeylessReporter(PspReporter<LocalGuest>);

impl Reporter for KeylessReporter {
    fn report(
        &mut self,
        data: &[u8; REPORT_DATA_BYTES],
        report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), ReporterError> {
        self.0.report(data, report)
    }

    fn certificate(&mut self, _: &mut [u8]) -> usize {
        0
    }
}

/// What a host launches.
#[derive(Clone, Copy)]
struct Launch {
    chip: u8,
    firmware: &'static [u8],
    policy: u64,
    config: LaunchConfig,
}

fn root() -> SigningKey {
    SigningKey::from_scalar(&mut [7; 48]).expect("a scalar")
}

const PROCESSOR: DerivedKeyRequest = DerivedKeyRequest { guest_svn: None, tcb: None };

fn honest() -> Launch {
    let config = LaunchConfig {
        tenant: [1; 16],
        vm: [2; 16],
        root: point_digest(root().point()),
        mode: Mode::HwSealed,
        serve: Serve::Nothing,
        kbs: Kbs::None,
        min_key_generation: 0,
        processor: Some(PROCESSOR),
        staleness: None,
        variables: None,
    };
    Launch { chip: 0, firmware: FIRMWARE, policy: GUEST_POLICY, config }
}

fn signed(config: &LaunchConfig, by: &SigningKey) -> Permit {
    let mut permit = Permit::of(config);
    permit.root = *by.point();
    permit.signature = by.sign(&permit.digest()).expect("a signature");
    permit
}

fn permitted(config: &LaunchConfig) -> SimDisk {
    let mut disk = SimDisk::new(DISK_BYTES, 512);
    disk.image[..Permit::BYTES].copy_from_slice(signed(config, &root()).as_bytes());
    disk
}

/// A machine that was launched; its memory is leaked, as a firmware's is never given back.
struct Machine<'d> {
    disk: &'d mut SimDisk,
    reporter: Box<dyn Reporter>,
    vtpm: Vtpm<'static, Toy>,
}

fn on<R>(disk: &mut SimDisk, reporter: &mut dyn Reporter, act: impl FnOnce(&mut Platform<'_>) -> R) -> R {
    act(&mut Platform {
        disk,
        channel: &mut Disconnected,
        reporter,
        entropy: &mut Dice,
        clock: None,
        console: &mut |_: &'static str, _: u32| {},
    })
}

impl Launch {
    fn processor(&self) -> PspReporter<LocalGuest> {
        let chip = CHIPS[usize::from(self.chip)].clone();
        let entropy = Box::new(|into: &mut [u8]| Dice.fill(into).map_err(|_| EntropyError));
        let processor = Processor::shared(chip, entropy);
        let (guest, secrets) =
            LocalGuest::launch(&processor, self.firmware, &self.config.host_data(), self.policy)
                .expect("a launch");
        PspReporter::new(guest, secrets, Vec::new())
    }

    fn boot<'d>(&self, disk: &'d mut SimDisk) -> Result<Machine<'d>, Fault> {
        self.boot_with(disk, Box::new(self.processor()))
    }

    fn boot_with<'d>(
        &self,
        disk: &'d mut SimDisk,
        mut reporter: Box<dyn Reporter>,
    ) -> Result<Machine<'d>, Fault> {
        let mut config = String::new();
        self.config.write(&mut config).expect("a configuration");
        let vtpm = on(disk, &mut *reporter, |platform| {
            let identified = Cold::new(memory(), Toy::default()).identify(platform, config.as_bytes())?;
            match identified.release(platform) {
                Asked::Released(released) => released.unseal(platform)?.confirm(platform),
                Asked::Busy { .. } => Err(ReleaseFault::Busy.fault()),
                Asked::Refused { fault, .. } => Err(fault),
            }
        })?;
        Ok(Machine { disk, reporter, vtpm })
    }

    #[track_caller]
    fn refused(&self, disk: &mut SimDisk, fault: impl Into<Fault>) {
        let before = disk.image.clone();
        assert_eq!(self.boot(disk).map(|_| ()), Err(fault.into()));
        assert!(disk.image == before, "a launch that is refused writes nothing");
    }
}

impl Machine<'_> {
    fn ask(&mut self, code: u32) -> u64 {
        let Self { disk, reporter, vtpm } = self;
        let mut buffer = [0; COMMAND_BYTES_MAX];
        let response = on(disk, &mut **reporter, |platform| {
            vtpm.execute(platform, Locality::Zero, &toy::command(code), &mut buffer).map(<[u8]>::to_vec)
        });
        toy::shown(&response.expect("it answers")).expect("it shows a number")
    }

    fn started(mut self) -> Self {
        self.ask(STARTUP);
        self
    }
}

/// A disk on which the honest launch made a TPM and counted to `count`.
fn counted(launch: &Launch, count: u64) -> SimDisk {
    let mut disk = permitted(&launch.config);
    let mut machine = launch.boot(&mut disk).expect("it is made").started();
    for _ in 0..count {
        machine.ask(INCREMENT);
    }
    disk
}

#[test]
fn a_tpm_lives_on_without_a_network_and_says_what_it_is() {
    let (launch, mut disk) = (honest(), permitted(&honest().config));
    for boot in 1..=5_u64 {
        let mut machine = launch.boot(&mut disk).expect("it boots").started();
        // One for each launch, and one for the reset with which attestation is offered.
        assert_eq!((machine.ask(RESET_COUNT), machine.ask(SHOW)), (2 * boot - 1, boot - 1));
        assert_eq!(machine.ask(INCREMENT), boot);
        let Machine { disk, reporter, vtpm } = &mut machine;
        on(disk, &mut **reporter, |platform| {
            vtpm.offer_attestation(platform).expect("a reset");
            let facts = Served { vtpm, platform }.facts().expect("facts");
            assert_eq!((facts.persistence, facts.serving), (Persistence::HwSealed, Serving::Nothing));
            assert_eq!((facts.identity.tenant, facts.identity.generation), ([1; 16], 0));
            vtpm.shutdown(platform).expect("an orderly end");
        });
    }
}

#[test]
fn a_blank_disk_never_makes_a_tpm_and_neither_does_rubbish() {
    honest().refused(&mut SimDisk::new(DISK_BYTES, 512), VolumeFault::Blank);
    let mut disk = SimDisk::new(DISK_BYTES, 512);
    disk.image.fill(0xA5);
    honest().refused(&mut disk, VolumeFault::NotAVolume);
}

/// `volume/format.md` §11. Signatures are deterministic (RFC 6979), so all of it is one value.
#[test]
fn a_permit_has_its_golden_bytes() {
    let permit = signed(&honest().config, &root());
    let bytes = permit.as_bytes();
    assert_eq!((bytes.len(), &bytes[..15]), (272, b"HUSKMAKE\x01\0\0\0\0\0\0".as_slice()));
    assert_eq!((&bytes[15..112], &bytes[112..144]), (&root().point()[..], &[[1; 16], [2; 16]].concat()[..]));
    assert_eq!(bytes[144..176], honest().config.host_data());
    let golden = include_str!("data/hw_sealed_permit.txt");
    assert_eq!(hex::encode(bytes), golden.trim());
}

/// `volume/format.md` §11: created only by a volume header that the operator signed.
#[test]
fn only_the_tenants_permit_for_this_very_configuration_makes_a_tpm() {
    let launch = honest();
    let good = permitted(&launch.config);
    for byte in 0..Permit::BYTES {
        let mut disk = good.clone();
        disk.image[byte] ^= 1;
        let fault =
            if byte < 8 { VolumeFault::NotAVolume.fault() } else { ReleaseFault::PermitRefused.fault() };
        launch.refused(&mut disk, fault);
    }
    let stranger = SigningKey::from_scalar(&mut [8; 48]).expect("a scalar");
    let mut forged = good.clone();
    forged.image[..Permit::BYTES].copy_from_slice(signed(&launch.config, &stranger).as_bytes());
    launch.refused(&mut forged, ReleaseFault::PermitRefused);
    for other in [
        LaunchConfig { vm: [3; 16], ..launch.config },
        LaunchConfig { tenant: [3; 16], ..launch.config },
        LaunchConfig { min_key_generation: 1, ..launch.config },
        LaunchConfig {
            processor: Some(DerivedKeyRequest { tcb: Some([0; 8]), ..PROCESSOR }),
            ..launch.config
        },
    ] {
        launch.refused(&mut permitted(&other), ReleaseFault::PermitRefused);
    }
    assert!(launch.boot(&mut good.clone()).is_ok());
}

/// Chip, MEASUREMENT and POLICY are mixed in by the processor, HOST_DATA by the component.
#[test]
fn no_other_chip_image_policy_or_configuration_opens_the_volume() {
    let launch = honest();
    let disk = counted(&launch, 2);
    let weaker = Policy::from_bits_retain(launch.policy).union(Policy::DEBUG).bits();
    let config = |config| Launch { config, ..launch };
    let asked = |processor| config(LaunchConfig { processor: Some(processor), ..launch.config });
    for other in [
        Launch { chip: 1, ..launch },
        Launch { firmware: b"another firmware", ..launch },
        Launch { policy: weaker, ..launch },
        config(LaunchConfig { min_key_generation: 1, ..launch.config }),
        config(LaunchConfig { root: [9; 48], ..launch.config }),
        asked(DerivedKeyRequest { guest_svn: Some(0), ..PROCESSOR }),
        asked(DerivedKeyRequest { tcb: Some([0; 8]), ..PROCESSOR }),
    ] {
        other.refused(&mut disk.clone(), VolumeFault::Damaged);
    }
    assert_eq!(launch.boot(&mut disk.clone()).expect("it opens").started().ask(SHOW), 2);
}

/// A processor that forgets to mix one thing in: the key is another launch's.
struct Forgetful {
    reports: PspReporter<LocalGuest>,
    derives: PspReporter<LocalGuest>,
}

impl Reporter for Forgetful {
    fn report(
        &mut self,
        data: &[u8; REPORT_DATA_BYTES],
        report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), ReporterError> {
        self.reports.report(data, report)
    }

    fn certificate(&mut self, _: &mut [u8]) -> usize {
        0
    }

    fn derived_key(&mut self, asked: &DerivedKeyRequest) -> Result<Secret<32>, ReporterError> {
        self.derives.derived_key(asked)
    }
}

/// Amendment 15.
#[test]
fn every_mutant_of_a_processor_that_forgets_what_it_mixes_in_is_found() {
    let launch = honest();
    let disk = counted(&launch, 2);
    let weaker = Policy::from_bits_retain(launch.policy).union(Policy::DEBUG).bits();
    for (forgotten, other) in [
        ("the chip", Launch { chip: 1, ..launch }),
        ("MEASUREMENT", Launch { firmware: b"another firmware", ..launch }),
        ("POLICY", Launch { policy: weaker, ..launch }),
    ] {
        other.refused(&mut disk.clone(), VolumeFault::Damaged);
        let forgetful = Box::new(Forgetful { reports: other.processor(), derives: launch.processor() });
        let opened = other.boot_with(&mut disk.clone(), forgetful).map(|machine| machine.started().ask(SHOW));
        assert_eq!(opened, Ok(2), "{forgotten} is forgotten, and nobody noticed");
    }
}

/// What a TCB update does: nothing, as long as the platform reaches what the configuration names.
#[test]
fn a_platform_below_the_named_tcb_or_an_image_below_the_named_svn_gets_no_key() {
    let named = |guest_svn, tcb| {
        let config =
            LaunchConfig { processor: Some(DerivedKeyRequest { guest_svn, tcb }), ..honest().config };
        Launch { config, ..honest() }
    };
    let reached = named(Some(0), Some([0; 8]));
    assert!(reached.boot(&mut permitted(&reached.config)).is_ok());
    for beyond in [named(Some(1), None), named(None, Some([0xFF; 8]))] {
        beyond.refused(&mut permitted(&beyond.config), ReleaseFault::NoProcessorKey);
    }
}

#[test]
fn a_launch_whose_processor_gives_no_key_ends_before_the_disk_is_read() {
    let (launch, mut disk) = (honest(), permitted(&honest().config));
    let keyless = Box::new(KeylessReporter(launch.processor()));
    let refused = launch.boot_with(&mut disk, keyless).map(|_| ());
    assert_eq!(refused, Err(ReleaseFault::NoProcessorKey.fault()));
    assert_eq!(disk.take_counts().reads, 0);
}

/// A configuration names one mode, and nothing of another comes to its launch.
#[test]
fn a_configuration_that_does_not_name_the_mode_does_not_boot_without_a_broker() {
    let launch = honest();
    let strict = LaunchConfig { mode: Mode::Strict, serve: Serve::Detect, ..launch.config };
    for config in [strict, LaunchConfig { processor: None, ..strict }] {
        let launch = Launch { config, ..launch };
        launch.refused(&mut counted(&honest(), 1), ReleaseFault::Unreachable);
        launch.refused(&mut permitted(&launch.config), ReleaseFault::Unreachable);
    }
    for unnamed in [
        LaunchConfig { processor: None, ..launch.config },
        LaunchConfig { serve: Serve::Lease, ..launch.config },
        LaunchConfig { serve: Serve::Detect, ..launch.config },
        LaunchConfig { kbs: Kbs::Required, ..launch.config },
    ] {
        let launch = Launch { config: unnamed, ..launch };
        launch.refused(&mut permitted(&unnamed), AttestFault::ConfigUnsupported);
    }
}

/// The host moves a VM of a broker to the mode without one: its volume does not open there, and no permit makes another over it.
#[test]
fn a_brokers_volume_is_no_volume_of_this_mode_even_with_a_permit_beside_it() {
    let launch = honest();
    let mut disk = SimDisk::new(DISK_BYTES, 512);
    let (identity, mut work) =
        (Identity { tenant: [1; 16], vm: [2; 16], generation: 0 }, Box::new(Workspace::new()));
    let key = CreateKey::unsealed(&Unsealed::for_testing().key(1), &identity);
    let stamp = Stamp { token: 1, fingerprint: [0; 32] };
    let made = on(&mut disk, &mut launch.processor(), |platform| {
        let written = Volume::create(platform, key, stamp, &mut work, b"state")?;
        written.flush(platform).map(|flushed| *flushed.next())
    });
    assert_ne!(made, Ok(Head::NONE));
    let mode_at = 10;
    for (mode, fault) in [(1, VolumeFault::Sealed), (4, VolumeFault::Sealed), (2, VolumeFault::Unsealed)] {
        disk.image[mode_at] = mode;
        launch.refused(&mut disk.clone(), fault);
        let mut beside = disk.clone();
        let second = DISK_BYTES / 2;
        beside.image[second..second + Permit::BYTES]
            .copy_from_slice(signed(&launch.config, &root()).as_bytes());
        launch.refused(&mut beside, VolumeFault::Occupied);
    }
}

/// The other way round: a volume of this mode is nothing to a launch that has a broker or is a test.
#[test]
fn a_volume_of_this_mode_opens_under_no_other_modes_key() {
    let mut disk = counted(&honest(), 1);
    let identity = Identity { tenant: [1; 16], vm: [2; 16], generation: 0 };
    let key = VolumeKey::unsealed(&Unsealed::for_testing().key(1), &identity);
    let (mut work, mut state) = (Box::new(Workspace::new()), Box::new([0; STATE_BYTES_MAX]));
    let head = Head { sequence: 1, digest: [1; 48] };
    let opened = Volume::open(&mut disk, &key, &Wanted::exactly(head), &mut work, &mut state).map(|_| ());
    assert_eq!(opened, Err(VolumeFault::HwSealed));
}

/// Power fails at any write of making, booting and counting: the TPM is as before or after.
#[test]
fn a_cut_at_any_write_leaves_the_state_before_or_after() {
    let launch = honest();
    let mut disk = permitted(&launch.config);
    let mut acknowledged = 0;
    for boot in 0..3 {
        let before = disk.image.clone();
        disk.trace.clear();
        let mut machine = launch.boot(&mut disk).expect("it boots").started();
        if boot > 0 {
            machine.ask(INCREMENT);
        }
        let trace = disk.take_trace();
        let after = acknowledged + u64::from(boot > 0);
        let tears = Tears { block: 512, step: 512 };
        every_crash(&before, &trace, tears, |image, _| {
            let mut cut = SimDisk::new(DISK_BYTES, 512);
            cut.image = image;
            let shown = launch.boot(&mut cut).expect("it recovers").started().ask(SHOW);
            assert!(shown == acknowledged || shown == after, "{shown} after boot {boot}");
        });
        acknowledged = after;
    }
}

/// What the mode does not promise: said everywhere, and shown here.
#[test]
fn an_old_copy_of_the_disk_is_taken_for_the_newest() {
    let launch = honest();
    let mut disk = counted(&launch, 1);
    let old = disk.image.clone();
    let mut machine = launch.boot(&mut disk).expect("it boots").started();
    for _ in 0..3 {
        machine.ask(INCREMENT);
    }
    assert_eq!(machine.ask(SHOW), 4);
    disk.image = old;
    assert_eq!(launch.boot(&mut disk).expect("nobody remembers").started().ask(SHOW), 1);
}

/// Not newest, but authentic: what was altered does not open.
#[test]
fn an_altered_state_stops_the_launch() {
    let launch = honest();
    let mut disk = counted(&launch, 3);
    // The second boot's checkpoint is where the permit was, which was taken away: both areas hold a state.
    assert!(Permit::read(&disk.image).is_none());
    drop(launch.boot(&mut disk).expect("it boots"));
    let both = [0, DISK_BYTES / 2];
    for at in [8, 40, 100, 150, 210, 260] {
        let mut altered = disk.clone();
        both.iter().for_each(|area| altered.image[area + at] ^= 1);
        let fault = launch.boot(&mut altered).map(|_| ()).expect_err("it is altered");
        assert_eq!(fault.family(), Family::Seal, "byte {at}");
    }
}
