//! Hashes by libcrypto's assembly, which is in the image anyhow, under the engine, and faster than portable code.
//!
//! # Soundness
//! The functions read and write what their arguments point to, and read libcrypto's word of what the processor can do, which
//! [`Tpms::claim`](crate::Tpms::claim) writes before; they allocate nothing and keep nothing. So they may run beside the library, on any processor.
//! A [`Digest`] lends them its own memory, which is as large and as aligned as the largest of their contexts, SHA512_CTX
//! (`openssl/sha.h`).

use crate::extern_c as c;
use core::ffi::{c_int, c_void};
use core::fmt;

/// Words of SHA512_CTX: eight of state, two of length, sixteen of data, one for two counters.
const CONTEXT_WORDS: usize = 27;
/// SHA512_DIGEST_LENGTH.
const DIGEST_BYTES_MAX: usize = 64;
/// What these functions return if they did it.
const DONE: c_int = 1;

/// Which hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    const fn functions(self) -> Functions {
        let (init, update, finish, bytes): (Init, Update, Finish, _) = match self {
            Self::Sha1 => (c::SHA1_Init, c::SHA1_Update, c::SHA1_Final, 20),
            Self::Sha256 => (c::SHA256_Init, c::SHA256_Update, c::SHA256_Final, 32),
            Self::Sha384 => (c::SHA384_Init, c::SHA384_Update, c::SHA384_Final, 48),
            Self::Sha512 => (c::SHA512_Init, c::SHA512_Update, c::SHA512_Final, DIGEST_BYTES_MAX),
        };
        Functions { init, update, finish, bytes }
    }
}

type Init = unsafe extern "C" fn(*mut c_void) -> c_int;
type Update = unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> c_int;
type Finish = unsafe extern "C" fn(*mut u8, *mut c_void) -> c_int;

#[derive(Clone, Copy)]
struct Functions {
    init: Init,
    update: Update,
    finish: Finish,
    /// Size of the digest in bytes.
    bytes: usize,
}

/// A hash of bytes that come piece by piece.
pub struct Digest {
    functions: Functions,
    context: [u64; CONTEXT_WORDS],
    sound: bool,
}

impl Digest {
    /// Nothing hashed yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        let functions = algorithm.functions();
        let mut context = [0_u64; CONTEXT_WORDS];
        // SAFETY: the context is large enough for any of them.
        let done = unsafe { (functions.init)(context.as_mut_ptr().cast()) };
        Self { functions, context, sound: done == DONE }
    }

    /// Hashes `bytes` after what came before.
    pub fn update(&mut self, bytes: &[u8]) {
        let context = self.context.as_mut_ptr().cast();
        // SAFETY: the context was initialised by this algorithm's function; there are so many bytes.
        let done = unsafe { (self.functions.update)(context, bytes.as_ptr().cast(), bytes.len()) };
        self.sound &= done == DONE;
    }

    /// The digest, at the front of a buffer as long as the longest of them, and its size in bytes; nothing if libcrypto refused
    /// a step.
    #[must_use]
    pub fn finish(mut self) -> Option<([u8; DIGEST_BYTES_MAX], usize)> {
        let mut digest = [0; DIGEST_BYTES_MAX];
        // SAFETY: as above; no digest is longer than the buffer.
        let done = unsafe { (self.functions.finish)(digest.as_mut_ptr(), self.context.as_mut_ptr().cast()) };
        (self.sound && done == DONE).then_some((digest, self.functions.bytes))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digest").finish_non_exhaustive()
    }
}
