//! The glue: everything that an SVSM adds to its kernel for a TPM.

use crate::kernel::{Kernel, RequestParams, SvsmError, VsockStream};
use husk::attest::guest_message::{GuestRequestService, ServiceReporter};
use husk::engine::{EngineFault, reference::ReferenceEngine};
use husk::fault::Fault;
use husk::frontend::svsm::{self, CallMemory, Registers};
use husk::seams::{BadAddress, GuestMemory, Platform};
use husk::seams::{Channel, ChannelError, Clock, Disk, DiskError, EntropyError, Geometry};
use husk::vtpm::{Cold, Served, Storage, Vtpm};
use husk_stubs::Stack;
use spin::{Mutex, Once};

/// Where the host's relay listens, and how long it may take for each part of an exchange.
const RELAY_PORT: u32 = 1851;
const RELAY_PATIENCE_MS: u64 = 5_000;
/// How often another instance's lease is waited for.
const WAITS_MAX: u32 = 8;

static KERNEL: Once<Kernel> = Once::new();
/// What everything here runs on.
pub static STACK: Mutex<Option<Stack>> = Mutex::new(None);
/// The TPM, once it has booted. To take it away is to cut its power.
pub static VTPM: Mutex<Option<Instance>> = Mutex::new(None);

type Reporter = ServiceReporter<'static, Host>;

/// A TPM and what it stands on.
#[expect(missing_debug_implementations, reason = "it holds the TPM's secrets")]
pub struct Instance {
    kernel: Kernel,
    vtpm: Vtpm<'static, ReferenceEngine>,
    reporter: Reporter,
    call: &'static mut CallMemory,
}

/// The memory of one TPM: a static, or pages that are set aside. Neither guest nor device may reach it.
#[expect(missing_debug_implementations, reason = "it holds the TPM's secrets")]
pub struct TpmMemory(Storage, CallMemory, [u8; 16 * 1024]);

/// Memory with nothing in it yet.
pub const EMPTY: TpmMemory = TpmMemory(Storage::new(), CallMemory::EMPTY, [0; 16 * 1024]);

/// Once, at boot: the kernel, the heap of the engine's C code, and a stack for all of it. Whether they were taken.
pub fn prepare(kernel: Kernel, heap: &'static mut [u8], stack: &'static mut [u8]) -> bool {
    KERNEL.call_once(|| kernel);
    #[cfg(target_os = "none")]
    husk_stubs::runtime::install(husk_stubs::runtime::World { now_ms, trap }, heap);
    #[cfg(not(target_os = "none"))]
    heap.fill(0);
    *STACK.lock() = Stack::new(stack);
    STACK.lock().is_some()
}

/// The kernel's own stack carries nothing of a TPM.
fn on_stack<T>(act: impl FnOnce() -> T) -> Option<T> {
    STACK.lock().as_mut().map(|stack| stack.run(act))
}

/// Brings the TPM up, before the guest runs. `config` is the launch configuration that HOST_DATA names.
///
/// # Errors
/// A [`Fault`]: there is no TPM then. Show its code, and start no guest that counts on one.
pub fn boot(memory: &'static mut TpmMemory, config: &[u8]) -> Result<(), Fault> {
    on_stack(|| wake(memory, config)).unwrap_or(Err(EngineFault::Failed.fault()))
}

fn wake(memory: &'static mut TpmMemory, config: &[u8]) -> Result<(), Fault> {
    let (Some(kernel), Some(engine)) = (KERNEL.get(), ReferenceEngine::claim(draw)) else {
        return Err(EngineFault::Failed.fault());
    };
    let TpmMemory(storage, call, certificates) = memory;
    let mut reporter = ServiceReporter::new(Host(*kernel), certificates);
    let mut waits = 0..WAITS_MAX;
    let mut wait = |ms| waits.next().map(|_| kernel.cpu.pause_ms(ms)).is_some();
    let vtpm = with(*kernel, &mut reporter, |seams| {
        let mut vtpm = Cold::new(storage.lend(), engine).identify(seams, config)?.earn(seams, &mut wait)?;
        vtpm.certify(seams)?.show(seams.console);
        vtpm.back_up(seams)?.show(seams.console);
        vtpm.offer_attestation(seams).map(|()| vtpm)
    })?;
    *VTPM.lock() = Some(Instance { kernel: *kernel, vtpm, reporter, call });
    Ok(())
}

/// The versions of `protocol` that are served (SVSM_CORE_QUERY_PROTOCOL); `None` leaves the protocol to the kernel.
pub fn versions(protocol: u32) -> Option<(u32, u32)> {
    VTPM.lock().as_ref().and_then(|_| svsm::versions(protocol))
}

/// Serves `call` of protocol 1 or 2; what RAX says afterwards.
pub fn request(protocol: u32, call: u32, params: &mut RequestParams) -> u64 {
    let none = u64::from(svsm::ResultCode::UnsupportedProtocol as u32);
    on_stack(|| serve(protocol, call, params)).flatten().unwrap_or(none)
}

fn serve(protocol: u32, call: u32, params: &mut RequestParams) -> Option<u64> {
    let mut locked = VTPM.lock();
    let Instance { kernel, vtpm, reporter, call: memory } = locked.as_mut()?;
    let rax = u64::from(protocol) << 32 | u64::from(call);
    let asked = Registers { rax, rcx: params.rcx, rdx: params.rdx, r8: params.r8, r9: 0 };
    let answer = with(*kernel, reporter, |platform| {
        svsm::call(asked, &mut Host(*kernel), &mut Served { vtpm, platform }, memory)
    });
    *params = RequestParams { rcx: answer.rcx, rdx: answer.rdx, r8: answer.r8 };
    Some(answer.rax)
}

/// Resets the TPM with its guest, or (for good) shuts it down before power-off.
///
/// # Errors
/// A [`Fault`]. A guest whose TPM was not reset must not run on.
pub fn end_of_guest(starts_again: bool) -> Result<(), Fault> {
    let end = if starts_again { Vtpm::reset } else { Vtpm::shutdown };
    on_stack(|| {
        let mut locked = VTPM.lock();
        let Some(Instance { kernel, vtpm, reporter, .. }) = locked.as_mut() else { return Ok(()) };
        with(*kernel, reporter, |platform| end(vtpm, platform))
    })
    .unwrap_or(Ok(()))
}

fn with<T>(kernel: Kernel, reporter: &mut Reporter, act: impl FnOnce(&mut Platform<'_>) -> T) -> T {
    let (disk, channel, entropy) = (&mut Host(kernel), &mut Host(kernel), &mut draw);
    let clock: Option<&dyn Clock> = if kernel.cpu.secure_tsc_khz().is_some() { Some(&now_ms) } else { None };
    let console = &mut |text, code| kernel.cpu.log(text, code);
    act(&mut Platform { disk, channel, reporter, entropy, clock, console })
}

/// For the engine's C code: no platform is at hand in the middle of a command.
fn draw(into: &mut [u8]) -> Result<(), EntropyError> {
    KERNEL.get().and_then(|kernel| kernel.cpu.random(into).ok()).ok_or(EntropyError)
}

fn now_ms() -> u64 {
    KERNEL.get().and_then(|kernel| kernel.cpu.rdtsc().checked_div(kernel.cpu.secure_tsc_khz()?)).unwrap_or(0)
}

#[cfg(target_os = "none")]
fn trap(function: &'static str) -> ! {
    KERNEL.wait().cpu.stop(function)
}

struct Host(Kernel);

impl Host {
    fn block(&self, offset: u64) -> Result<usize, DiskError> {
        usize::try_from(offset >> self.0.disk.block_size_log2()).map_err(|_| DiskError)
    }
}

impl Disk for Host {
    fn geometry(&self) -> Geometry {
        let block_bytes = 1_u32.checked_shl(self.0.disk.block_size_log2().into()).unwrap_or_default();
        Geometry { size_bytes: self.0.disk.size() as u64, block_bytes }
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.0.disk.read_blocks(self.block(offset)?, into).map_err(|_| DiskError)
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        self.0.disk.write_blocks(self.block(offset)?, from).map_err(|_| DiskError)
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.0.disk.flush().map_err(|_| DiskError)
    }
}

/// One stream for each exchange: a late reply has nowhere to arrive. A frame begins with the length of its rest.
impl Channel for Host {
    fn exchange(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, ChannelError> {
        let gone = |_: SvsmError| ChannelError::Unreachable;
        let mut stream = VsockStream::connect(self.0.vsock, RELAY_PORT).map_err(gone)?;
        stream.write_all(request, RELAY_PATIENCE_MS).map_err(gone)?;
        let (length, rest) = reply.split_first_chunk_mut::<4>().ok_or(ChannelError::ReplyTooLong)?;
        stream.read_exact(length, RELAY_PATIENCE_MS).map_err(gone)?;
        let bytes = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let rest = rest.get_mut(..bytes).ok_or(ChannelError::ReplyTooLong)?;
        stream.read_exact(rest, RELAY_PATIENCE_MS).map_err(gone)?;
        Ok(length.len() + bytes)
    }
}

impl GuestRequestService for Host {
    fn extended_report(&mut self, message: &mut [u8], certificates: &mut [u8]) -> bool {
        self.0.greq.extended_report(message, certificates).is_ok()
    }
}

impl GuestMemory for Host {
    fn copy_in(&mut self, address: u64, into: &mut [u8]) -> Result<(), BadAddress> {
        self.0.mm.read_from_guest(address, into).map_err(|_| BadAddress)
    }

    fn copy_out(&mut self, address: u64, from: &[u8]) -> Result<(), BadAddress> {
        self.0.mm.write_to_guest(address, from).map_err(|_| BadAddress)
    }
}
