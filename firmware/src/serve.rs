//! Serving a guest: the component's boot, the guest's start, and then one command after another.
//!
//! **What.** [`run`] opens the firmware's own devices, plans the guest, fences it in, earns the TPM's keys, measures and starts the
//! guest, and executes what comes from the TPM's registers, until the guest is off.
//! **Trust.** As `service`.
//! **Laws.** The guest's processors are let in only when everything is hidden from them. A reset of the guest is a reset of the TPM, and
//! neither happens without the other.
//! **Not here.** What a command does: `husk`.

use crate::boot::{self, Acpi, BootInfo, cpus};
use crate::clock::{self, Counter};
use crate::console::{self, Serial};
use crate::crb_private::PrivateCrb;
use crate::entropy::Processor;
use crate::guest::banks;
use crate::guest::files::{Files, sha384};
use crate::guest::map::{Map, RESERVED, Region, USABLE};
use crate::guest::measure::self_test;
use crate::guest::payload::PAYLOAD_AT;
use crate::guest::start::{self, Begin, Guest};
use crate::memory::{Kind, LAYER, Physical, take_secrets_page};
use crate::platform::{Emulated, Own};
use crate::service::show_usage;
use crate::stop::{self, Stop, stop, stop_for};
use crate::stopwatch::{Stopwatch, Timed};
use crate::svm::start::{Entry, Protected};
use crate::svm::{self, Call, GuestRam, Plan, Request};
use crate::variables::{Chip, Shown};
use crate::virtio::DeviceFault;
use crate::virtio::hardware::{DiskQueue, Stream, channel, volume};
use crate::wishes::{CrbPlace, Gate, Ways};
use crate::{arena, crb_device, fw_cfg, guest::GuestFault, variables};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};
use husk::attest::guest_message::PAGE_BYTES;
use husk::attest::launch::{CONFIG_BYTES_MAX, LaunchConfig};
use husk::engine::COMMAND_BYTES_MAX;
use husk::engine::reference::ReferenceEngine;
use husk::fault::Fault;
use husk::frontend::Tpm;
use husk::frontend::svsm::{self, CallMemory};
use husk::release::ReleaseFault;
use husk::seams::{Cells as _, Platform};
use husk::vtpm::{Cold, FlashOrigin, Memory, Served, Vtpm};
use husk_stubs::Canceller;
use spin::Once;

/// How long the boot waits for another instance's lease to end, in milliseconds; a lease lasts a minute at most.
const LEASE_PATIENCE_MS: u64 = 120_000;
/// How often a reset is tried whose outcome the broker does not say, and how long between, in milliseconds.
const RESETS_MAX: u32 = 30;
const RESET_PAUSE_MS: u64 = 1_000;
/// How often a change of the guest's flash is tried while its broker does not answer, with the same pause.
const KEEPS_MAX: u32 = 60;
/// For so long after something was asked for in the guest's memory it is looked at without a rest: a command is several writes.
const ATTENTIVE_MS: u64 = 2;

/// The guest is fenced in: its processors may enter.
static FENCED: AtomicBool = AtomicBool::new(false);
static CANCELLER: Once<Canceller> = Once::new();
/// What the guest's processors can do before there is a guest.
static FILES: Once<Files> = Once::new();
/// The guest is loaded.
static LOADED: AtomicBool = AtomicBool::new(false);

/// What the service processor knows of the machine.
#[derive(Debug)]
pub(crate) struct Machine<'i> {
    /// What the loader said.
    pub(crate) info: &'i BootInfo,
    /// Its memory.
    pub(crate) memory: Physical,
    /// This processor's number.
    pub(crate) cpu: usize,
    /// How the guest reaches its TPM.
    pub(crate) ways: Ways,
}

type Seams = Emulated<DiskQueue, Stream>;
type Component = Vtpm<'static, ReferenceEngine>;

/// Whether the guest's processors may run it.
#[must_use]
pub(crate) fn is_fenced() -> bool {
    FENCED.load(Ordering::Acquire)
}

/// Hashes the guest's files, on a processor of the guest's that has nothing else to do until there is one.
pub(crate) fn help() {
    if let (Some(files), Some(memory)) = (FILES.get(), Physical::machine()) {
        let worked = files.work(&memory, || stop::is_stopping() || LOADED.load(Ordering::Relaxed));
        worked.unwrap_or_else(|fault| stop_for(fault.into()));
        console::line("husk: nothing is left to hash, after ms", elapsed());
    }
}

/// Boots the component, starts the guest and serves it until it is off; then the machine is, too.
pub(crate) fn run(machine: &Machine<'_>, engine: ReferenceEngine, tpm: Memory<'static>) {
    let mut seams = seams().unwrap_or_else(|fault| stop_for(fault));
    let guest = plan(machine);
    set_clock(&mut seams);
    let measurement = seams.launch_measurement().unwrap_or_else(|fault| stop_for(fault.into()));
    let mut config = [0; CONFIG_BYTES_MAX];
    let config = guest.config(&machine.memory, &mut config).unwrap_or_else(|fault| stop_for(fault.into()));
    if !seams.suffice_for(config) {
        stop_for(DeviceFault::Absent.into());
    }
    CANCELLER.call_once(|| engine.canceller());
    crb_device::set_canceller(cancel);
    let vtpm = with(&mut seams, |platform| boot(Cold::new(tpm, engine), platform, config));
    let vtpm = vtpm.unwrap_or_else(|fault| stop_for(fault));
    console::line("husk: the TPM has its memory, after ms", elapsed());
    let files = FILES.call_once(|| guest.files());
    let Some(calls) = arena::call_memory() else { stop(Stop::Bug, line!()) };
    let crb = match machine.ways.crb {
        CrbPlace::Trapped => Registers::Trapped,
        CrbPlace::Private => Registers::Private(private_crb(machine, &guest)),
    };
    let stopwatch = Stopwatch::ZERO;
    let memory = machine.memory;
    let mut server =
        Server { seams, vtpm, guest, files, memory, measurement, crb, calls, stopwatch, asked_ms: 0 };
    server.open_flash(config);
    if machine.ways.gate == Gate::Open {
        server.offer_attestation();
    }
    if server.vtpm.are_banks_due() {
        server.allocate_banks();
        server.reset();
    } else {
        server.start();
    }
    server.serve();
}

/// Ends the running command early; on a guest's processor, beside it.
fn cancel() {
    if let Some(canceller) = CANCELLER.get() {
        canceller.cancel();
    }
}

fn private_crb(machine: &Machine<'_>, guest: &Guest<'_>) -> PrivateCrb<Physical> {
    let layout = guest.crb().unwrap_or_else(|fault| stop_for(fault.into()));
    let Some(work) = arena::crb_work() else { stop(Stop::Bug, line!()) };
    console::line("husk: the CRB is in the guest's memory, at", layout.base());
    let doorbell = (machine.ways.gate == Gate::Open).then_some(svm::gate::DOORBELL);
    PrivateCrb::new(layout, machine.memory, work, doorbell)
}

fn seams() -> Result<Seams, Fault> {
    let mut page = [0; PAGE_BYTES];
    take_secrets_page(&mut page);
    Ok(Emulated::open(volume()?, channel()?, &mut page)?)
}

/// The clock of leases runs as the secure processor says, or the machine stops.
fn set_clock(seams: &mut Seams) {
    let info = seams.tsc_info().unwrap_or_else(|fault| stop_for(fault.into()));
    let Some(mean_khz) = clock::follow(&info) else { stop_for(DeviceFault::NoTscInfo.into()) };
    console::line("husk: the counter's mean speed, kHz", u32::try_from(mean_khz).unwrap_or(u32::MAX));
    if !clock::is_invariant() {
        console::line("husk: the processor does not say that the counter keeps its speed", 0);
    }
}

fn elapsed() -> u32 {
    u32::try_from(clock::now_ms()).unwrap_or(u32::MAX)
}

fn with<T>(seams: &mut Seams, act: impl FnOnce(&mut Platform<'_>) -> T) -> T {
    seams.with(Own { entropy: &mut Processor, clock: &Counter, console: &mut Serial }, act)
}

/// Finds a place for the guest, and fences it in.
fn plan(machine: &Machine<'_>) -> Guest<'static> {
    let Machine { info, memory, cpu, ways } = machine;
    let Some(description) = arena::description() else { stop(Stop::Bug, line!()) };
    let Some(power) = Acpi::find(memory, info.rsdp).and_then(|acpi| acpi.power_block()) else {
        stop(Stop::NoAcpi, 1)
    };
    let guest =
        described(info, *cpu, ways.crb).and_then(|described| Guest::plan(memory, described, description));
    let guest = guest.unwrap_or_else(|fault| stop_for(fault.into()));
    let crb = guest.crb().unwrap_or_else(|fault| stop_for(fault.into()));
    let fenced = svm::prepare(
        *memory,
        &Plan {
            hidden: &guest.hidden(),
            power,
            service: *cpu,
            ways: *ways,
            crb,
            flash: guest.flash(),
            variables: guest.variables(),
        },
    );
    fenced.unwrap_or_else(|fault| stop_for(fault.into()));
    FILES.call_once(|| guest.files());
    FENCED.store(true, Ordering::Release);
    guest
}

/// The machine as the guest's boxes describe one.
fn described(info: &BootInfo, service: usize, crb: CrbPlace) -> Result<start::Machine, GuestFault> {
    let region = |stretch: &crate::memory::Stretch| Region {
        start: stretch.range.start,
        end: stretch.range.end,
        kind: if stretch.kind == Kind::Ram { USABLE } else { RESERVED },
    };
    let apic = cpus::ids().get(service).copied().unwrap_or_default();
    Ok(start::Machine {
        map: Map::of(info.map.stretches().iter().map(region))?,
        rsdp_at: info.rsdp,
        layer: LAYER,
        payload_at: PAYLOAD_AT,
        hidden_apic: apic.into(),
        guest_cpus: u32::try_from(service).unwrap_or(u32::MAX),
        crb,
    })
}

/// Earns the keys and wakes the TPM.
fn boot(
    cold: Cold<'static, ReferenceEngine>,
    platform: &mut Platform<'_>,
    config: &[u8],
) -> Result<Component, Fault> {
    let identified = cold.identify(platform, config)?;
    let deadline_ms = clock::now_ms() + LEASE_PATIENCE_MS;
    let mut vtpm = identified.earn(platform, &mut |retry_ms| {
        let is_worth_it = clock::now_ms() + u64::from(retry_ms) <= deadline_ms;
        if is_worth_it {
            console::line("husk: another instance may still be answering; asking again in ms", retry_ms);
            clock::pause_ms(retry_ms.into());
        }
        is_worth_it
    })?;
    vtpm.certify(platform)?.show(platform.console);
    vtpm.back_up(platform)?.show(platform.console);
    Ok(vtpm)
}

/// The TPM's registers, by the driver that serves them.
enum Registers {
    /// A guest's access exits.
    Trapped,
    /// They are looked at.
    Private(PrivateCrb<Physical>),
}

/// Everything that serves.
struct Server {
    seams: Seams,
    vtpm: Component,
    guest: Guest<'static>,
    files: &'static Files,
    memory: Physical,
    measurement: [u8; 48],
    crb: Registers,
    calls: &'static mut CallMemory,
    stopwatch: Stopwatch,
    /// When something was last asked for.
    asked_ms: u64,
}

impl Server {
    /// Works out what the attestation protocol shows.
    fn offer_attestation(&mut self) {
        let Self { seams, vtpm, .. } = self;
        with(seams, |platform| vtpm.offer_attestation(platform)).unwrap_or_else(|fault| stop_for(fault));
        console::line("husk: the endorsement keys are known, after ms", elapsed());
    }

    /// Gives a new TPM its PCR banks, which it has from its next reset on.
    fn allocate_banks(&mut self) {
        let Self { seams, vtpm, .. } = self;
        let allocated = with(seams, |platform| banks::allocate(&mut Served { vtpm, platform }));
        allocated.unwrap_or_else(|fault| stop_for(fault.into()));
        self.vtpm.give_banks_away();
        console::line("husk: a new TPM, its PCR banks are allocated, after ms", elapsed());
    }

    /// Measures and loads the guest, and lets it begin; the TPM, which was just powered on, tests itself meanwhile, before it is served.
    fn start(&mut self) {
        let Self { seams, vtpm, guest, files, memory, measurement, crb, .. } = self;
        let entry = with(seams, |platform| {
            let mut tpm = Served { vtpm, platform };
            let measured = guest.measure(memory, &mut tpm, measurement, files)?;
            console::line("husk: the guest is measured, after ms", elapsed());
            let entry = guest.load(memory, &mut fw_cfg::cabinet(), measured)?;
            match crb {
                Registers::Trapped => crb_device::reset(&mut tpm)?,
                Registers::Private(crb) => crb.reset(&mut tpm),
            }
            Ok::<_, Fault>(entry)
        });
        let entry = entry.unwrap_or_else(|fault| stop_for(fault));
        LOADED.store(true, Ordering::Relaxed);
        console::line("husk: the guest starts, after ms", elapsed());
        svm::begin(match entry {
            Begin::Kernel(entry) => Entry::Protected(Protected {
                eip: entry.eip,
                esi: entry.esi,
                descriptors: (entry.descriptors_at, entry.descriptors_limit),
            }),
            Begin::ResetVector => Entry::ResetVector,
        });
        let Self { seams, vtpm, .. } = self;
        with(seams, |platform| self_test(&mut Served { vtpm, platform }))
            .unwrap_or_else(|fault| stop_for(fault.into()));
    }

    /// Executes commands until the guest is off.
    fn serve(&mut self) {
        loop {
            stop::halt_if_stopping();
            let executed = self.execute();
            let answered = self.answer_call();
            let kept = self.keep_flash();
            if executed || answered || kept {
                self.asked_ms = clock::now_ms();
            }
            match svm::request() {
                // Whoever came meanwhile may have been heard already: only who found nothing to do rests.
                None if executed || answered || kept => {}
                None => self.rest(),
                Some(Request::Reset) => self.reset(),
                Some(Request::PowerOff) => return self.power_off(),
            }
        }
    }

    /// Executes what came by the registers, and says whether anything did.
    fn execute(&mut self) -> bool {
        let Self { seams, vtpm, crb, stopwatch, .. } = self;
        match crb {
            Registers::Trapped => execute_trapped(seams, vtpm, stopwatch),
            Registers::Private(crb) => with(seams, |platform| {
                crb.poll(&mut Timed { tpm: Served { vtpm, platform }, stopwatch, now_us: clock::now_us })
            }),
        }
    }

    /// Waits for something to do: until this processor is woken, or for a moment where nobody wakes it.
    ///
    /// Who spins all the time is last in line for a core of a busy host, and was seen to miss what a driver waits 200 ms for.
    fn rest(&self) {
        match self.crb {
            Registers::Trapped => boot::rest(),
            Registers::Private(_) if clock::now_ms() - self.asked_ms < ATTENTIVE_MS => spin_loop(),
            Registers::Private(_) => boot::rest_a_millisecond(),
        }
    }

    /// Answers one SVSM call, if one waits, and says whether one did.
    fn answer_call(&mut self) -> bool {
        let Some(call) = Call::next() else { return false };
        let Self { seams, vtpm, calls, .. } = self;
        let answer = with(seams, |platform| {
            svsm::call(call.registers, &mut GuestRam, &mut Served { vtpm, platform }, calls)
        });
        call.answer(answer);
        true
    }

    /// Shows a firmware's variables as they are kept, or keeps those that were brought from now on.
    fn open_flash(&mut self, config: &[u8]) {
        let Self { seams, vtpm, guest, memory, .. } = self;
        let config = LaunchConfig::parse(config).unwrap_or_else(|fault| stop_for(fault.into()));
        let Some(window) = guest.variables() else {
            // What the tenant named is not passed by, not even by a guest that begins in its kernel.
            if config.variables.is_some() || guest.flash().is_some() && vtpm.keeps_flash() {
                stop_for(GuestFault::VariablesMissing.into());
            }
            return;
        };
        if let Some(wanted) = config.variables.filter(|_| !vtpm.keeps_flash()) {
            let brought = sha384(memory, &(window.at..window.at + (window.window.end - window.window.start)));
            if brought.unwrap_or_else(|fault| stop_for(fault.into())) != wanted {
                stop_for(GuestFault::VariablesRefused.into());
            }
        }
        let mut cells = Shown::new(*memory, &window);
        let opened = with(seams, |platform| vtpm.open_flash(platform, &mut cells));
        let (flash, origin) = opened.unwrap_or_else(|fault| stop_for(fault));
        console::line(
            match origin {
                FlashOrigin::Kept => {
                    "husk: the firmware's variables are as the sealed volume keeps them, bytes"
                }
                FlashOrigin::Template => {
                    "husk: the firmware's variables are those that were brought; the sealed volume keeps them, bytes"
                }
                FlashOrigin::Brought => {
                    "husk: the firmware's variables are those that were brought; they end with the launch, bytes"
                }
            },
            u32::try_from(cells.size_bytes()).unwrap_or(u32::MAX),
        );
        variables::install(Chip { flash, cells, kept: (0, 0), mapped: true });
    }

    /// Makes durable what a guest waits for in its flash, and says whether one waited.
    fn keep_flash(&mut self) -> bool {
        if !variables::is_owed() {
            return false;
        }
        if self.keep_changes().unwrap_or_else(|fault| stop_for(fault)) {
            variables::settled();
        }
        // While somebody else is at the chip there is no rest.
        true
    }

    /// Makes durable what was changed in the flash; whether the chip was free for that.
    ///
    /// # Errors
    /// What stays when a fault that may pass was waited for. The guest must not run on: its firmware does not look at the status that would say so.
    fn keep_changes(&mut self) -> Result<bool, Fault> {
        let Self { seams, vtpm, .. } = self;
        for last in (0..KEEPS_MAX).map(|tried| tried + 1 == KEEPS_MAX) {
            let kept = variables::with(|Chip { flash, cells, kept, .. }| {
                let blocks = u32::try_from(flash.changed().iter().count()).unwrap_or(u32::MAX);
                with(seams, |platform| vtpm.keep_flash(platform, cells, flash))?;
                *kept = (kept.0 + u32::from(blocks > 0), kept.1.saturating_add(blocks));
                Ok::<(), Fault>(())
            });
            match kept {
                None => return Ok(false),
                Some(Ok(())) => return Ok(true),
                Some(Err(fault)) if last || vtpm.latched().is_some() => return Err(fault),
                Some(Err(_)) => clock::pause_ms(RESET_PAUSE_MS),
            }
        }
        Ok(false)
    }

    /// Shows what keeping a firmware's variables took.
    fn show_flash(&self) {
        if let Some((commits, blocks)) = variables::with(|chip| chip.kept) {
            console::line("husk: flash: commits", commits);
            console::line("husk: flash: blocks written", blocks);
        }
    }

    /// Resets the TPM with its machine, and starts the guest anew. What cannot be reset must not run on.
    fn reset(&mut self) {
        self.keep_changes().map(drop).unwrap_or_else(|fault| stop_for(fault));
        variables::with(|chip| chip.flash.reset()).unwrap_or_default();
        svm::show_variables();
        variables::settled();
        for _ in 0..RESETS_MAX {
            let Self { seams, vtpm, .. } = self;
            match with(seams, |platform| vtpm.reset(platform)) {
                Ok(()) => return self.start(),
                Err(fault) if fault == ReleaseFault::Undecided.fault() => clock::pause_ms(RESET_PAUSE_MS),
                Err(fault) => stop_for(fault),
            }
        }
        stop_for(ReleaseFault::Undecided.fault())
    }

    /// Shuts the TPM down and lets the machine go off.
    fn power_off(&mut self) {
        if let Err(fault) = self.keep_changes() {
            // Nobody was told that it is kept.
            console::line(fault.means(), fault.code());
        }
        let Self { seams, vtpm, .. } = self;
        match with(seams, |platform| vtpm.shutdown(platform)) {
            Ok(()) => console::line("husk: the TPM shut down in order", 0),
            // Nothing is lost: what was acknowledged is durable. The next launch waits for the lease.
            Err(fault) => console::line(fault.means(), fault.code()),
        }
        for (text, number) in self.stopwatch.lines() {
            console::line(text, number);
        }
        self.show_flash();
        show_usage();
        svm::shut_down();
        loop {
            stop::halt_if_stopping();
            boot::rest();
        }
    }
}

fn execute_trapped(seams: &mut Seams, vtpm: &mut Component, stopwatch: &mut Stopwatch) -> bool {
    let (mut command, mut response) = ([0; COMMAND_BYTES_MAX], [0; COMMAND_BYTES_MAX]);
    let Some((locality, bytes)) = crb_device::next_command(&mut command) else { return false };
    with(seams, |platform| {
        let mut tpm = Timed { tpm: Served { vtpm, platform }, stopwatch, now_us: clock::now_us };
        let bytes = tpm.execute(locality, &command[..bytes], &mut response);
        crb_device::finish(&response[..bytes], &mut tpm);
    });
    true
}
