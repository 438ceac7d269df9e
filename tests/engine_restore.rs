//! Laws of the reference engine on a state from a backup: whoever can have it restored gets no new guesses.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "support/engine_bench.rs"]
mod engine_bench;
#[path = "support/tpm.rs"]
mod tpm;

use engine_bench::Bench;
use husk::engine::{EngineFault, Start};

const FAIL: u32 = 0x0150_0010;
const PASS: u32 = 0x0150_0011;
const ORDERLY: u32 = 0x0150_0012;
const UNWRITTEN: u32 = 0x0150_0013;
const DATA: u32 = 0x0150_0014;
const COUNTER: u32 = 0x0150_0015;
/// Written and read by the owner, read with the index's own password.
const ACCESS: u32 = tpm::NV_NO_DA | 0x0002_0002 | 0x0004_0000;
/// TPMA_NV_ORDERLY.
const NV_ORDERLY: u32 = 1 << 26;
const PARENT: u32 = 0x8100_0001;

/// A TPM with everything that counts attempts, in which nothing was tried; and an object that is protected.
fn untried() -> (Bench, Vec<u8>) {
    let mut bench = Bench::started();
    let pins = [
        (FAIL, tpm::NV_PIN_FAIL),
        (PASS, tpm::NV_PIN_PASS),
        (ORDERLY, tpm::NV_PIN_FAIL | NV_ORDERLY),
        (UNWRITTEN, tpm::NV_PIN_FAIL),
    ];
    for (index, kind) in pins {
        bench.send(&tpm::nv_define(index, ACCESS | kind, 8, b"pin")).ok();
        if index != UNWRITTEN {
            bench.send(&tpm::nv_write_by_owner(index, &tpm::pin(1, 5))).ok();
        }
    }
    bench.send(&tpm::nv_define(DATA, tpm::NV_AUTH_AND_OWNER | tpm::NV_NO_DA, 8, b"")).ok();
    bench.send(&tpm::nv_write(DATA, b"", &tpm::pin(1, 5))).ok();
    let parent = bench.send(&tpm::create_primary(tpm::OWNER, &tpm::ecc_storage_template())).ok().handle();
    bench.send(&tpm::evict(parent, PARENT)).ok();
    let sealed = bench.send(&tpm::create_sealed(parent, 0x52, b"right", b"", b"data")).ok();
    bench.send(&tpm::change_auth_of_hierarchy(tpm::LOCKOUT, b"", b"secret")).ok();
    bench.send(&tpm::lockout_parameters(b"secret", 3, 1000, 1000)).ok();
    (bench, sealed.0)
}

fn restored(bench: &mut Bench) {
    let backup = bench.image();
    bench.put_back(&backup);
    bench.power_on(Start::Restore, 2).unwrap();
    bench.send(&tpm::startup_clear()).ok();
}

fn data(bench: &mut Bench, index: u32) -> Vec<u8> {
    let reply = bench.send(&tpm::nv_read_by_owner(index, 8)).ok();
    tpm::nv_data_of(&reply).to_vec()
}

#[test]
fn a_restored_tpm_takes_every_guess_as_made() {
    let (mut bench, sealed) = untried();
    let sealed = tpm::Reply(sealed);
    assert_eq!(bench.failed_tries(), 0);
    restored(&mut bench);
    assert_eq!(bench.failed_tries(), 3, "maxTries");
    let object = bench.send(&tpm::load(PARENT, &sealed)).ok().handle();
    assert_eq!(bench.send(&tpm::unseal(object, b"right")).code(), 0x921, "TPM_RC_LOCKOUT");
    assert_eq!(bench.send(&tpm::lockout_reset(b"secret")).code(), 0x921, "TPM_RC_LOCKOUT");
    for index in [FAIL, PASS] {
        assert_eq!(data(&mut bench, index), tpm::pin(5, 5), "{index:#x}");
        assert_ne!(bench.send(&tpm::nv_read(index, b"pin", 8)).code(), 0, "{index:#x}");
    }
    // As after any power loss, an orderly one is not written, so that it authorizes nothing.
    assert_ne!(bench.send(&tpm::nv_read(ORDERLY, b"pin", 8)).code(), 0);
    assert_eq!(bench.send(&tpm::nv_read_by_owner(ORDERLY, 8)).code(), 0x14A, "TPM_RC_NV_UNINITIALIZED");
    assert_eq!(data(&mut bench, DATA), tpm::pin(1, 5), "what only looks like a PIN is not touched");
    bench.send(&tpm::nv_write_by_owner(UNWRITTEN, &tpm::pin(0, 2))).ok();
    bench.send(&tpm::nv_read(UNWRITTEN, b"pin", 8)).ok();
    // The owner gives PINs anew, as for any PIN that is used up.
    bench.send(&tpm::nv_write_by_owner(FAIL, &tpm::pin(0, 5))).ok();
    bench.send(&tpm::nv_read(FAIL, b"pin", 8)).ok();
}

#[test]
fn what_is_spent_stays_spent_after_another_power_loss() {
    let (mut bench, _) = untried();
    restored(&mut bench);
    let image = bench.image();
    bench.relaunch(&image, 3);
    assert_eq!(bench.failed_tries(), 3);
    assert_eq!(data(&mut bench, FAIL), tpm::pin(5, 5));
}

#[test]
fn a_state_that_was_shut_down_in_order_or_saved_for_a_resume_is_restored_too() {
    for shutdown in [tpm::shutdown_clear(), tpm::shutdown_state()] {
        let (mut bench, _) = untried();
        bench.send(&shutdown).ok();
        restored(&mut bench);
        assert_eq!(bench.failed_tries(), 3);
        for index in [FAIL, PASS] {
            assert_eq!(data(&mut bench, index), tpm::pin(5, 5), "{index:#x}");
        }
        assert_ne!(bench.send(&tpm::nv_read(ORDERLY, b"pin", 8)).code(), 0);
        let orderly = bench.send(&tpm::nv_read_by_owner(ORDERLY, 8));
        let is_spent = orderly.code() == 0x14A || tpm::nv_data_of(&orderly) == tpm::pin(5, 5);
        assert!(is_spent, "not written, or used up");
    }
}

/// Where the owner has switched the protection off there are no tries to spend; nothing is locked for good.
#[test]
fn without_a_recovery_time_nothing_counts() {
    let (mut bench, sealed) = untried();
    bench.send(&tpm::lockout_parameters(b"secret", 3, 0, 1000)).ok();
    restored(&mut bench);
    assert_eq!(bench.failed_tries(), 0);
    let object = bench.send(&tpm::load(PARENT, &tpm::Reply(sealed))).ok().handle();
    bench.send(&tpm::unseal(object, b"right")).ok();
}

#[test]
fn a_state_that_is_not_understood_to_its_last_byte_is_not_restored() {
    let (mut bench, _) = untried();
    let backup = bench.image();
    let longer = [&backup[..], &[0]].concat();
    for bytes in [&longer[..], &backup[..backup.len() - 1]] {
        bench.put_back(bytes);
        assert_eq!(bench.power_on(Start::Restore, 2), Err(EngineFault::StateRefused));
    }
}

/// What no restore can give: an NV counter is the backup's again. The generation tells.
#[test]
fn nv_counters_are_the_backups() {
    let (mut bench, _) = untried();
    let attributes = tpm::NV_AUTH_AND_OWNER | tpm::NV_NO_DA | tpm::NV_COUNTER;
    bench.send(&tpm::nv_define(COUNTER, attributes, 8, b"")).ok();
    bench.send(&tpm::nv_increment(COUNTER, b"")).ok();
    let backup = bench.image();
    let before = data(&mut bench, COUNTER);
    bench.send(&tpm::nv_increment(COUNTER, b"")).ok();
    assert_ne!(data(&mut bench, COUNTER), before);
    bench.put_back(&backup);
    bench.power_on(Start::Restore, 2).unwrap();
    bench.send(&tpm::startup_clear()).ok();
    assert_eq!(data(&mut bench, COUNTER), before);
}
