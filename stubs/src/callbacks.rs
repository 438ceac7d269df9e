//! What the library asks back, and whom.
//!
//! # Soundness
//! `CURRENT` holds a pointer to the [`Frame`] of the running call, or null. It is set by [`Lent`], which borrows the host
//! for as long as it exists, and cleared when that is dropped; so the pointer is never dangling, and the host is
//! reachable through nothing else meanwhile. A callback makes a `&mut` of it for its own duration; callbacks do not nest,
//! as no host method enters the library. The library calls back on the thread that entered it, so the relaxed atomic is only a
//! way to have a static without a lock.

use crate::extern_c::{LibtpmsCallbacks, TPM_FAIL, TPM_RETRY, TpmResult, malloc};
use core::ffi::{CStr, c_char, c_int};
use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// Zeros behind a blob that is loaded, in bytes.
///
/// The library skips blocks of later versions by a length of two bytes that it does not hold against the length of the
/// blob (libtpms 0.9: the remaining size turns negative and is compared as unsigned). A damaged length so makes it read up to 64 KiB
/// behind the end. There it finds zeros, which no header allows, and refuses the blob.
const SLACK_BYTES: usize = 68 * 1024;

/// A state that the library keeps outside itself (`libtpms/tpm_nvfilename.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blob {
    /// "permall": all that survives power-off.
    Permanent,
    /// "volatilestate": a running TPM, to be resumed.
    Volatile,
}

impl Blob {
    fn from_name(name: &CStr) -> Option<Self> {
        match name.to_bytes() {
            b"permall" => Some(Self::Permanent),
            b"volatilestate" => Some(Self::Volatile),
            _ => None,
        }
    }
}

/// The world as the library sees it during one call.
pub trait Host {
    /// The length in bytes of a blob to load, or `None` if there is none.
    fn load_len(&mut self, blob: Blob) -> Option<usize>;

    /// Fills `into`, which has the length that [`load_len`](Host::load_len) returned. Returns whether it did.
    fn load(&mut self, blob: Blob, into: &mut [u8]) -> bool;

    /// Takes the permanent blob. Returns whether it did; the library fails if not.
    fn store(&mut self, permanent: &[u8]) -> bool;

    /// The locality of the running command, 0 to 4.
    fn locality(&mut self) -> u8;

    /// Fills `into` with random bytes. Returns whether it did; the library fails if not.
    fn entropy(&mut self, into: &mut [u8]) -> bool;
}

/// One level of indirection, so that a thin pointer names the host.
struct Frame<'h> {
    host: &'h mut dyn Host,
}

static CURRENT: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Runs `call` with `host` as the one that callbacks reach.
pub(crate) fn lend<T>(host: &mut dyn Host, call: impl FnOnce() -> T) -> T {
    let mut frame = Frame { host };
    let lent = Lent::to_library(&mut frame);
    let result = call();
    drop(lent);
    result
}

/// Proof that a frame is reachable; dropping it ends that.
struct Lent<'f>(PhantomData<&'f mut ()>);

impl<'f> Lent<'f> {
    fn to_library(frame: &'f mut Frame<'_>) -> Self {
        CURRENT.store(ptr::from_mut(frame).cast(), Relaxed);
        Self(PhantomData)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        CURRENT.store(ptr::null_mut(), Relaxed);
    }
}

/// Runs `ask` on the host of the running call, if a call runs.
pub(crate) fn with_host<T>(ask: impl FnOnce(&mut dyn Host) -> T) -> Option<T> {
    let frame: *mut Frame<'_> = CURRENT.load(Relaxed).cast();
    // SAFETY: not null means lent, and then it is valid and exclusive (see above).
    unsafe { frame.as_mut() }.map(|frame| ask(frame.host))
}

/// Size of the table in bytes: an int and seven pointers, by the x86-64 ABI.
const CALLBACKS_BYTES: c_int = 64;
const _: () = assert!(size_of::<LibtpmsCallbacks>() == 64, "the table's size is what the library is told");

/// The table for `TPMLIB_RegisterCallbacks`.
pub(crate) static CALLBACKS: LibtpmsCallbacks = LibtpmsCallbacks {
    size_of_struct: CALLBACKS_BYTES,
    nvram_init: Some(init),
    nvram_loaddata: Some(load),
    nvram_storedata: Some(store),
    nvram_deletename: Some(delete),
    io_init: Some(init),
    io_getlocality: Some(locality),
    io_getphysicalpresence: Some(physical_presence),
};

extern "C" fn init() -> TpmResult {
    0
}

/// # Safety
/// `name` is null or a C string.
unsafe fn blob(name: *const c_char) -> Option<Blob> {
    if name.is_null() {
        return None;
    }
    // SAFETY: by this function's contract.
    Blob::from_name(unsafe { CStr::from_ptr(name) })
}

unsafe extern "C" fn load(data: *mut *mut u8, len: *mut u32, _tpm: u32, name: *const c_char) -> TpmResult {
    // SAFETY: the library passes a C string.
    let Some(blob) = (unsafe { blob(name) }) else { return TPM_RETRY };
    let Some(size) = with_host(|host| host.load_len(blob)).flatten() else { return TPM_RETRY };
    let Ok(size_c) = u32::try_from(size) else { return TPM_FAIL };
    let Some(room) = size.checked_add(SLACK_BYTES) else { return TPM_FAIL };
    // SAFETY: any size may be asked for.
    let block: *mut u8 = unsafe { malloc(room) }.cast();
    if block.is_null() {
        return TPM_FAIL;
    }
    // SAFETY: `block` has `room` bytes that are ours.
    unsafe { block.write_bytes(0, room) };
    // SAFETY: as above, now initialised.
    let into = unsafe { core::slice::from_raw_parts_mut(block, size) };
    let loaded = with_host(|host| host.load(blob, into)).unwrap_or(false);
    // SAFETY: `data` is the library's variable, which takes the block over: the library frees it.
    unsafe { data.write(block) };
    // SAFETY: `len` is the library's variable.
    unsafe { len.write(size_c) };
    if loaded { 0 } else { TPM_FAIL }
}

unsafe extern "C" fn store(data: *const u8, len: u32, _tpm: u32, name: *const c_char) -> TpmResult {
    // SAFETY: the library passes a C string.
    if unsafe { blob(name) } != Some(Blob::Permanent) {
        return TPM_FAIL;
    }
    let Ok(len) = usize::try_from(len) else { return TPM_FAIL };
    if data.is_null() {
        return TPM_FAIL;
    }
    // SAFETY: the library passes `len` bytes that stay as they are during the call.
    let bytes = unsafe { core::slice::from_raw_parts(data, len) };
    if with_host(|host| host.store(bytes)).unwrap_or(false) { 0 } else { TPM_FAIL }
}

/// The library deletes a state that it has resumed from; Husk's host gives each out once, so there is nothing to do.
/// A deletion of anything else would be a loss, and is refused.
unsafe extern "C" fn delete(_tpm: u32, name: *const c_char, _must_exist: u8) -> TpmResult {
    // SAFETY: the library passes a C string.
    if unsafe { blob(name) } == Some(Blob::Volatile) { 0 } else { TPM_FAIL }
}

unsafe extern "C" fn locality(into: *mut u32, _tpm: u32) -> TpmResult {
    let number = with_host(|host| host.locality()).unwrap_or(0);
    // SAFETY: `into` is the library's variable.
    unsafe { into.write(u32::from(number)) };
    0
}

/// A virtual machine has no button: physical presence is never asserted.
unsafe extern "C" fn physical_presence(into: *mut u8, _tpm: u32) -> TpmResult {
    // SAFETY: `into` is the library's variable.
    unsafe { into.write(0) };
    0
}
