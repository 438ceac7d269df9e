//! Which of its assembly libcrypto uses on this processor.
//!
//! libcrypto writes down once what CPUID says (`OPENSSL_ia32cap_P`, its manual page OPENSSL_ia32cap(3)), and each routine chooses by that. Where
//! there is AES-NI but not the SHA extensions, which is what software emulation has, SSSE3 decides about hashes alone, and plain code hashes
//! SHA-256 there up to three times as fast. Every processor with SEV-SNP has both; one without AES-NI keeps SSSE3, for the sake of an AES
//! without tables.
//!
//! # Soundness
//! libcrypto's words are written by itself and here, once, both before the first [`Tpms::claim`](crate::Tpms::claim) returns, and read only
//! afterwards: a second look changes nothing.

use crate::extern_c as c;

/// Leaf 1, ECX.
const FIRST_ECX: usize = 1;
const SSSE3: u32 = 1 << 9;
const AES_NI: u32 = 1 << 25;
/// Leaf 7, EBX.
const SEVENTH_EBX: usize = 2;
const SHA: u32 = 1 << 29;

/// Has libcrypto look at the processor; whoever holds the library's token calls this.
pub(crate) fn look() {
    c::OPENSSL_cpuid_setup();
    let words = &raw mut c::OPENSSL_ia32cap_P;
    // SAFETY: see the essay.
    let mut saw = unsafe { words.read() };
    let chosen = hashing_plainly(saw[FIRST_ECX], saw[SEVENTH_EBX]);
    if chosen != saw[FIRST_ECX] {
        saw[FIRST_ECX] = chosen;
        // SAFETY: see the essay.
        unsafe { words.write(saw) };
    }
}

const fn hashing_plainly(first_ecx: u32, seventh_ebx: u32) -> u32 {
    if first_ecx & AES_NI != 0 && seventh_ebx & SHA == 0 { first_ecx & !SSSE3 } else { first_ecx }
}
