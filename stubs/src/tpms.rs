//! The one TPM of this address space.
//!
//! # Soundness
//! libtpms keeps its state in C globals. [`Tpms`] is made once at a time ([`Tpms::claim`] over an atomic flag), is
//! neither `Copy` nor `Sync`, and every method that enters the library takes `&mut self`; so there is one thread in it at
//! a time, and moving the token to another thread is an ordinary hand-over. Buffers that Rust lends have the length
//! that the library is told; buffers that the library lends are copied and freed before the method returns.

use crate::callbacks::{Blob, CALLBACKS, Host, lend};
use crate::entropy;
use crate::extern_c as c;
use crate::guard::{GaveUp, enter};
use core::cell::Cell;
use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

/// TPM_BUFFER_MAX of libtpms in bytes: the largest command or response.
pub const BUFFER_BYTES: usize = 4096;

/// The same for C.
const BUFFER_BYTES_C: u32 = 4096;

/// Why a call gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The library returned this code (`libtpms/tpm_error.h`, or a TPM_RC).
    Code(u32),
    /// The library gave up in the middle: power it off.
    GaveUp,
    /// The result does not fit the caller's buffer.
    TooLarge,
}

impl From<GaveUp> for Failure {
    fn from(_: GaveUp) -> Self {
        Self::GaveUp
    }
}

/// Version of the linked libtpms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// 0 so far.
    pub major: u8,
    /// 9 or 10: the state's format level goes with it.
    pub minor: u8,
    /// The patch level.
    pub micro: u8,
}

/// The token of the process-global library.
#[derive(Debug)]
pub struct Tpms {
    on: bool,
    /// `Cell` is `Send` but not `Sync`, and so is the token.
    not_sync: PhantomData<Cell<()>>,
}

static CLAIMED: AtomicBool = AtomicBool::new(false);

/// Ends the running command early; may be used beside it, from another thread or processor.
#[derive(Clone, Copy, Debug)]
pub struct Canceller(());

impl Canceller {
    /// Raises the flag that long commands look at. It falls when the next command starts.
    pub fn cancel(self) {
        // The library answers with success always: it stores one flag.
        c::TPMLIB_CancelCommand();
    }
}

impl Tpms {
    /// Takes the library, unless somebody has it.
    #[must_use]
    pub fn claim() -> Option<Self> {
        if CLAIMED.swap(true, Ordering::Acquire) {
            return None;
        }
        let tpms = Self { on: false, not_sync: PhantomData };
        tpms.set_up().then_some(tpms)
    }

    fn set_up(&self) -> bool {
        #[cfg(target_os = "none")]
        crate::processor::look();
        // SAFETY: a constant that the header defines; the library is off.
        let chosen = unsafe { c::TPMLIB_ChooseTPMVersion(c::TPMLIB_TPM_VERSION_2) };
        // SAFETY: the table is static.
        let registered = unsafe { c::TPMLIB_RegisterCallbacks(&raw const CALLBACKS) };
        chosen == 0 && registered == 0 && entropy::route()
    }

    /// The version of the linked library.
    #[must_use]
    pub fn version(&self) -> Version {
        let [_, major, minor, micro] = c::TPMLIB_GetVersion().to_be_bytes();
        Version { major, minor, micro }
    }

    /// A handle that cancels commands.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        Canceller(())
    }

    /// Whether the library is powered on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Powers on from the host's blobs, or makes a new TPM if the host has no permanent one. Powers off first.
    ///
    /// # Errors
    /// [`Failure`]; the library is off then.
    pub fn power_on(&mut self, host: &mut dyn Host) -> Result<(), Failure> {
        self.power_off();
        self.on = true;
        let powered = self.enter(host, c::TPMLIB_MainInit as *const (), [0; 5]);
        if powered.is_err() {
            self.power_off();
        }
        powered
    }

    /// Powers off; the library wipes and frees what it holds.
    pub fn power_off(&mut self) {
        if !self.on {
            return;
        }
        self.on = false;
        // SAFETY: no arguments, no result.
        match unsafe { enter(c::TPMLIB_Terminate as *const (), [0; 5]) } {
            // Giving up while tearing down leaves the library off all the same.
            Ok(_) | Err(GaveUp) => {}
        }
    }

    /// Runs `command`, which the library may write into, and returns the length of the response.
    ///
    /// # Errors
    /// [`Failure`], also if `response` has less than [`BUFFER_BYTES`] bytes.
    pub fn process(
        &mut self,
        host: &mut dyn Host,
        command: &mut [u8],
        response: &mut [u8],
    ) -> Result<usize, Failure> {
        let (Ok(command_len), true) = (u32::try_from(command.len()), response.len() >= BUFFER_BYTES) else {
            return Err(Failure::TooLarge);
        };
        let lent = response.as_mut_ptr();
        // The library takes a buffer of at least its maximum as it is, and allocates only in place of a smaller one.
        let (mut buffer, mut len, mut size) = (lent, 0_u32, BUFFER_BYTES_C);
        let arguments = [
            (&raw mut buffer).expose_provenance(),
            (&raw mut len).expose_provenance(),
            (&raw mut size).expose_provenance(),
            command.as_mut_ptr().expose_provenance(),
            command_len as usize,
        ];
        self.enter(host, c::TPMLIB_Process as *const (), arguments)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if ptr::eq(buffer, lent) && len <= BUFFER_BYTES { Ok(len) } else { Err(Failure::TooLarge) }
    }

    /// Copies the state of the running TPM into `into` and returns its length.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn volatile_state(&mut self, into: &mut [u8]) -> Result<usize, Failure> {
        let (mut block, mut len) = (ptr::null_mut::<u8>(), 0_u32);
        let arguments = [(&raw mut block).expose_provenance(), (&raw mut len).expose_provenance(), 0, 0, 0];
        let stored = self.enter(&mut At(0), c::TPMLIB_VolatileAll_Store as *const (), arguments);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if block.is_null() {
            return stored.and(Err(Failure::TooLarge));
        }
        let copied = stored.and_then(|()| {
            let room = into.get_mut(..len).ok_or(Failure::TooLarge)?;
            // SAFETY: on success the library made a block of `len` bytes, which no one else has.
            unsafe { ptr::copy_nonoverlapping(block, room.as_mut_ptr(), len) };
            // SAFETY: as above. The block holds secrets and is freed next.
            unsafe { block.write_bytes(0, len) };
            Ok(len)
        });
        // SAFETY: the block came from the C heap and is ours to free.
        unsafe { c::free(block.cast()) };
        copied
    }

    /// `_TPM_Hash_Start`.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn hash_start(&mut self, host: &mut dyn Host) -> Result<(), Failure> {
        self.enter(host, c::TPM_IO_Hash_Start as *const (), [0; 5])
    }

    /// `_TPM_Hash_Data`.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn hash_data(&mut self, host: &mut dyn Host, data: &[u8]) -> Result<(), Failure> {
        let len = u32::try_from(data.len()).map_err(|_| Failure::TooLarge)?;
        let arguments = [data.as_ptr().expose_provenance(), len as usize, 0, 0, 0];
        self.enter(host, c::TPM_IO_Hash_Data as *const (), arguments)
    }

    /// `_TPM_Hash_End`.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn hash_end(&mut self, host: &mut dyn Host) -> Result<(), Failure> {
        self.enter(host, c::TPM_IO_Hash_End as *const (), [0; 5])
    }

    /// The TPM_ESTABLISHED flag.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn established(&mut self) -> Result<bool, Failure> {
        let mut flag = 0_u8;
        let arguments = [(&raw mut flag).expose_provenance(), 0, 0, 0, 0];
        self.enter(&mut At(0), c::TPM_IO_TpmEstablished_Get as *const (), arguments)?;
        Ok(flag != 0)
    }

    /// Clears the TPM_ESTABLISHED flag, if `locality` may.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn reset_established(&mut self, locality: u8) -> Result<(), Failure> {
        self.enter(&mut At(locality), c::TPM_IO_TpmEstablished_Reset as *const (), [0; 5])
    }

    /// Enters a function of the library that returns a TPM_RESULT, for a library that is on.
    fn enter(
        &mut self,
        host: &mut dyn Host,
        function: *const (),
        arguments: [usize; 5],
    ) -> Result<(), Failure> {
        if !self.on {
            return Err(Failure::Code(c::TPM_FAIL));
        }
        // SAFETY: the callers above pass what each function's declaration asks for; `&mut self` excludes others.
        match lend(host, || unsafe { enter(function, arguments) })? {
            0 => Ok(()),
            code => Err(Failure::Code(code)),
        }
    }
}

/// The host of calls that need nothing but a locality.
struct At(u8);

impl Host for At {
    fn load_len(&mut self, _blob: Blob) -> Option<usize> {
        None
    }

    fn load(&mut self, _blob: Blob, _into: &mut [u8]) -> bool {
        false
    }

    fn store(&mut self, _permanent: &[u8]) -> bool {
        false
    }

    fn locality(&mut self) -> u8 {
        self.0
    }

    fn entropy(&mut self, _into: &mut [u8]) -> bool {
        false
    }
}

impl Drop for Tpms {
    fn drop(&mut self) {
        self.power_off();
        CLAIMED.store(false, Ordering::Release);
    }
}
