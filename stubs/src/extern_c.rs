//! Declarations of libtpms, libcrypto and the C heap, by hand: the headers are `libtpms/tpm_library.h`,
//! `libtpms/tpm_tis.h`, `openssl/rand.h` and `openssl/sha.h`.
//!
//! # Soundness
//! Each signature was compared with the installed header; all types are the C ABI's. Calling any of the functions
//! demands what [`Tpms`](crate::Tpms) guarantees: one thread in the library at a time (`TPMLIB_CancelCommand` excepted,
//! which stores one flag, and the hashes, which have no state but their arguments').

use core::ffi::{c_char, c_double, c_int, c_void};

/// TPM_RESULT of the library: 0 is success (`libtpms/tpm_error.h`).
pub(crate) type TpmResult = u32;

/// TPM_RETRY: a state that does not exist (`libtpms/tpm_error.h`, TPM_NON_FATAL + 0).
pub(crate) const TPM_RETRY: TpmResult = 0x800;
/// TPM_FAIL (`libtpms/tpm_error.h`).
pub(crate) const TPM_FAIL: TpmResult = 9;
/// TPMLIB_TPM_VERSION_2 (`libtpms/tpm_library.h`).
pub(crate) const TPMLIB_TPM_VERSION_2: c_int = 1;

/// `struct libtpms_callbacks`.
#[repr(C)]
pub(crate) struct LibtpmsCallbacks {
    pub(crate) size_of_struct: c_int,
    pub(crate) nvram_init: Option<extern "C" fn() -> TpmResult>,
    pub(crate) nvram_loaddata:
        Option<unsafe extern "C" fn(*mut *mut u8, *mut u32, u32, *const c_char) -> TpmResult>,
    pub(crate) nvram_storedata: Option<unsafe extern "C" fn(*const u8, u32, u32, *const c_char) -> TpmResult>,
    pub(crate) nvram_deletename: Option<unsafe extern "C" fn(u32, *const c_char, u8) -> TpmResult>,
    pub(crate) io_init: Option<extern "C" fn() -> TpmResult>,
    pub(crate) io_getlocality: Option<unsafe extern "C" fn(*mut u32, u32) -> TpmResult>,
    pub(crate) io_getphysicalpresence: Option<unsafe extern "C" fn(*mut u8, u32) -> TpmResult>,
}

/// `RAND_METHOD` of libcrypto.
#[repr(C)]
pub(crate) struct RandMethod {
    pub(crate) seed: Option<extern "C" fn(*const c_void, c_int) -> c_int>,
    pub(crate) bytes: Option<unsafe extern "C" fn(*mut u8, c_int) -> c_int>,
    pub(crate) cleanup: Option<extern "C" fn()>,
    pub(crate) add: Option<extern "C" fn(*const c_void, c_int, c_double) -> c_int>,
    pub(crate) pseudorand: Option<unsafe extern "C" fn(*mut u8, c_int) -> c_int>,
    pub(crate) status: Option<extern "C" fn() -> c_int>,
}

unsafe extern "C" {
    pub(crate) safe fn TPMLIB_GetVersion() -> u32;
    pub(crate) fn TPMLIB_ChooseTPMVersion(version: c_int) -> TpmResult;
    pub(crate) fn TPMLIB_RegisterCallbacks(callbacks: *const LibtpmsCallbacks) -> TpmResult;
    pub(crate) fn TPMLIB_MainInit() -> TpmResult;
    pub(crate) fn TPMLIB_Terminate();
    pub(crate) fn TPMLIB_Process(
        response: *mut *mut u8,
        response_len: *mut u32,
        response_size: *mut u32,
        command: *mut u8,
        command_len: u32,
    ) -> TpmResult;
    pub(crate) fn TPMLIB_VolatileAll_Store(buffer: *mut *mut u8, len: *mut u32) -> TpmResult;
    /// Stores one flag, and so may be called beside a running command.
    pub(crate) safe fn TPMLIB_CancelCommand() -> TpmResult;
    pub(crate) fn TPM_IO_Hash_Start() -> TpmResult;
    pub(crate) fn TPM_IO_Hash_Data(data: *const u8, len: u32) -> TpmResult;
    pub(crate) fn TPM_IO_Hash_End() -> TpmResult;
    pub(crate) fn TPM_IO_TpmEstablished_Get(established: *mut u8) -> TpmResult;
    pub(crate) fn TPM_IO_TpmEstablished_Reset() -> TpmResult;

    /// Looks at what the processor can do; libcrypto's constructor, where somebody runs constructors.
    #[cfg(target_os = "none")]
    pub(crate) safe fn OPENSSL_cpuid_setup();
    /// What it saw: EDX and ECX of leaf 1, EBX and ECX of leaf 7.
    #[cfg(target_os = "none")]
    pub(crate) static mut OPENSSL_ia32cap_P: [u32; 4];
    pub(crate) fn RAND_set_rand_method(method: *const RandMethod) -> c_int;
    pub(crate) fn RAND_set_DRBG_type(
        library: *mut c_void,
        drbg: *const c_char,
        properties: *const c_char,
        cipher: *const c_char,
        digest: *const c_char,
    ) -> c_int;

    // `struct` contexts are named by their address only: see `digest.rs`.
    pub(crate) fn SHA1_Init(context: *mut c_void) -> c_int;
    pub(crate) fn SHA1_Update(context: *mut c_void, data: *const c_void, len: usize) -> c_int;
    pub(crate) fn SHA1_Final(digest: *mut u8, context: *mut c_void) -> c_int;
    pub(crate) fn SHA256_Init(context: *mut c_void) -> c_int;
    pub(crate) fn SHA256_Update(context: *mut c_void, data: *const c_void, len: usize) -> c_int;
    pub(crate) fn SHA256_Final(digest: *mut u8, context: *mut c_void) -> c_int;
    pub(crate) fn SHA384_Init(context: *mut c_void) -> c_int;
    pub(crate) fn SHA384_Update(context: *mut c_void, data: *const c_void, len: usize) -> c_int;
    pub(crate) fn SHA384_Final(digest: *mut u8, context: *mut c_void) -> c_int;
    pub(crate) fn SHA512_Init(context: *mut c_void) -> c_int;
    pub(crate) fn SHA512_Update(context: *mut c_void, data: *const c_void, len: usize) -> c_int;
    pub(crate) fn SHA512_Final(digest: *mut u8, context: *mut c_void) -> c_int;

    pub(crate) fn malloc(size: usize) -> *mut c_void;
    pub(crate) fn free(block: *mut c_void);

    /// `ExecuteCommand` of the TCG reference code: runs a command, writes the response in place.
    pub(crate) fn ExecuteCommand(
        request_len: u32,
        request: *mut u8,
        response_len: *mut u32,
        response: *mut *mut u8,
    );
}
