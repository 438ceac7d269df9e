//! Laws of what may be stale: the data of ordinary indices that a tenant named, and nothing else that a TPM remembers.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "support/engine_bench.rs"]
mod engine_bench;
#[path = "support/tpm.rs"]
mod tpm;

use engine_bench::Bench;
use husk::engine::{Engine, Start};
use std::ops::RangeInclusive;

/// What a tenant named.
const NAMED: RangeInclusive<u32> = 0x0180_0100..=0x0180_01FF;
const FIRST: u32 = 0x0180_0100;
const LAST: u32 = 0x0180_01FF;
const COUNTER: u32 = 0x0180_0102;
const PIN: u32 = 0x0180_0103;
const BITS: u32 = 0x0180_0104;
const EXTENDED: u32 = 0x0180_0105;
const ORDERLY: u32 = 0x0180_0106;
const LOCKED: u32 = 0x0180_0107;
/// Beside it.
const BELOW: u32 = 0x0180_00FF;
const ABOVE: u32 = 0x0180_0200;

const PLAIN: u32 = tpm::NV_AUTH_AND_OWNER | tpm::NV_NO_DA;
/// TPMA_NV (TPM 2.0 part 2, section "TPMA_NV"): TPM_NT_BITS, TPM_NT_EXTEND, WRITEDEFINE, ORDERLY.
const NV_BITS: u32 = 0x20;
const NV_EXTEND: u32 = 0x40;
const NV_WRITEDEFINE: u32 = 0x2000;
const NV_ORDERLY: u32 = 0x0400_0000;

/// Whether what these commands did to the image may be stale.
#[track_caller]
fn stale(bench: &mut Bench, commands: &[Vec<u8>]) -> bool {
    let before = bench.nv.engine_state().to_vec();
    for command in commands {
        bench.send(command).ok();
    }
    assert_ne!(bench.nv.engine_state(), before, "nothing changed");
    bench.engine.may_be_stale(&before, bench.nv.engine_state(), &NAMED)
}

/// Persistent keys of each kind, in front of whatever is defined later.
fn keys(bench: &mut Bench) {
    let sealed = {
        let primary = bench.send(&tpm::create_primary(tpm::OWNER, &tpm::ecc_storage_template())).ok();
        let created = bench.send(&tpm::create_sealed(primary.handle(), 0x52, b"", &[], b"a secret")).ok();
        let loaded = bench.send(&tpm::load(primary.handle(), &created)).ok();
        bench.send(&tpm::evict(loaded.handle(), 0x8100_0003)).ok();
        bench.send(&tpm::flush(loaded.handle())).ok();
        primary
    };
    bench.send(&tpm::evict(sealed.handle(), 0x8100_0001)).ok();
    bench.send(&tpm::flush(sealed.handle())).ok();
    for (at, template) in [tpm::rsa_storage_template(&[]), tpm::ecc_signing_template(true)].iter().enumerate()
    {
        let key = bench.send(&tpm::create_primary(tpm::OWNER, template)).ok().handle();
        bench.send(&tpm::evict(key, 0x8100_0010 + u32::try_from(at).unwrap())).ok();
        bench.send(&tpm::flush(key)).ok();
    }
}

fn with_indices() -> Bench {
    let mut bench = Bench::started();
    keys(&mut bench);
    for (index, attributes, bytes) in [
        (BELOW, PLAIN, 32),
        (FIRST, PLAIN, 32),
        (LAST, PLAIN, 600),
        (ABOVE, PLAIN, 32),
        (COUNTER, PLAIN | tpm::NV_COUNTER, 8),
        (PIN, tpm::NV_AUTH_AND_OWNER & !0x4 | tpm::NV_NO_DA | tpm::NV_PIN_PASS, 8),
        (BITS, PLAIN | NV_BITS, 8),
        (EXTENDED, PLAIN | NV_EXTEND, 32),
        (ORDERLY, PLAIN | NV_ORDERLY, 16),
        (LOCKED, PLAIN | NV_WRITEDEFINE, 16),
    ] {
        assert!(!stale(&mut bench, &[tpm::nv_define(index, attributes, bytes, b"")]), "{index:x} is defined");
    }
    for index in [BELOW, FIRST, LAST, ABOVE, LOCKED] {
        assert!(!stale(&mut bench, &[tpm::nv_write(index, b"", b"first")]), "{index:x} is first written");
    }
    bench
}

#[test]
fn data_of_a_named_ordinary_index_may_be_stale() {
    let mut bench = with_indices();
    assert!(stale(&mut bench, &[tpm::nv_write(FIRST, b"", b"second")]));
    assert!(stale(&mut bench, &[tpm::nv_write(LAST, b"", &[7; 600])]));
    let both = [tpm::nv_write(FIRST, b"", b"third"), tpm::nv_write(LAST, b"", b"third")];
    assert!(stale(&mut bench, &both));
    // A power cut and a launch change more than that; what is written then does not.
    let image = bench.image();
    bench.put_back(&image);
    bench.power_on(Start::Load, 2).unwrap();
    assert!(!stale(&mut bench, &[tpm::startup_clear()]));
    assert!(stale(&mut bench, &[tpm::nv_write(FIRST, b"", b"fourth")]));
}

#[test]
fn whatever_else_a_tpm_remembers_is_strict() {
    let mut bench = with_indices();
    let first_use = |data: &[u8]| tpm::nv_write_by_owner(PIN, data);
    let set_bits = tpm::authorized(0x135, &[BITS, BITS], &[b""], &5_u64.to_be_bytes());
    let extend = tpm::authorized(0x136, &[EXTENDED, EXTENDED], &[b""], &tpm::Bytes::new().sized(b"x").0);
    let lock = tpm::authorized(0x138, &[LOCKED, LOCKED], &[b""], &[]);
    for (what, commands) in [
        ("an index that nobody named", vec![tpm::nv_write(BELOW, b"", b"second")]),
        ("another", vec![tpm::nv_write(ABOVE, b"", b"second")]),
        ("a named one beside", vec![tpm::nv_write(FIRST, b"", b"2"), tpm::nv_write(ABOVE, b"", b"2")]),
        ("a counter's first", vec![tpm::nv_increment(COUNTER, b"")]),
        ("a counter", vec![tpm::nv_increment(COUNTER, b"")]),
        ("a PIN's first", vec![first_use(&tpm::pin(0, 3))]),
        ("a PIN", vec![first_use(&tpm::pin(1, 3))]),
        ("bits' first", vec![set_bits.clone()]),
        ("an extension's first", vec![extend.clone()]),
        ("an extension", vec![extend]),
        ("a lock", vec![lock]),
        ("a definition", vec![tpm::nv_define(0x0180_01F0, PLAIN, 8, b"")]),
        ("an end", vec![tpm::nv_undefine(0x0180_01F0)]),
        ("the owner's authorization", vec![tpm::change_auth_of_hierarchy(tpm::OWNER, b"", b"o")]),
        ("and back", vec![tpm::change_auth_of_hierarchy(tpm::OWNER, b"o", b"")]),
        ("parameters against guessing", vec![tpm::lockout_parameters(b"", 9, 1, 1)]),
        ("a seed", vec![tpm::change_eps()]),
        ("a persistent key", vec![tpm::evict(0x8100_0010, 0x8100_0010)]),
        ("a shutdown", vec![tpm::shutdown_clear()]),
        ("Clear", vec![tpm::clear()]),
    ] {
        assert!(!stale(&mut bench, &commands), "{what}");
    }
}

#[test]
fn a_state_that_is_not_understood_to_its_last_byte_is_strict() {
    let mut bench = with_indices();
    let before = bench.nv.engine_state().to_vec();
    bench.send(&tpm::nv_write(FIRST, b"", b"second")).ok();
    let after = bench.nv.engine_state().to_vec();
    let judge = |old: &[u8], new: &[u8]| bench.engine.may_be_stale(old, new, &NAMED);
    assert!(judge(&before, &after));
    for cut in 0..after.len() {
        assert!(!judge(&before[..cut], &after[..cut]), "cut at {cut}");
    }
    let longer = |bytes: &[u8]| [bytes, &[0]].concat();
    assert!(!judge(&longer(&before), &longer(&after)));
    // A byte that differs is a reason to be strict, or one of the two indices' own data.
    let data = |at: usize| {
        let mut other = after.clone();
        other[at] ^= 0x10;
        judge(&after, &other)
    };
    let free = (0..after.len()).filter(|at| data(*at)).count();
    assert_eq!(free, 32 + 600 + 16, "of the ordinary indices that were named");
}

#[test]
fn a_state_that_holds_a_suspended_one_is_strict() {
    let mut bench = with_indices();
    bench.send(&tpm::shutdown_state()).ok();
    let before = bench.nv.engine_state().to_vec();
    let mut after = before.clone();
    let at = before.windows(5).rposition(|bytes| bytes == b"first").unwrap();
    after[at] ^= 1;
    assert!(!bench.engine.may_be_stale(&before, &after, &NAMED));
}
