//! Laws of the reference engine on a state from a backup: whoever can have it restored gets no new guesses, and a clone is another TPM.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "support/engine_bench.rs"]
mod engine_bench;
#[path = "support/tpm.rs"]
mod tpm;

use engine_bench::Bench;
use husk::engine::{EndorsementKey, EngineFault, Start};

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

/// TPMA_NV_PPWRITE, PPREAD, NO_DA, PLATFORMCREATE.
const PLATFORMS: u32 = 0x4201_0001;
/// TPMA_NV_POLICY_DELETE.
const POLICY_DELETE: u32 = 1 << 10;
/// Where NV indices, an owner's and a platform's persistent objects begin.
const LISTS: [u32; 3] = [0x0100_0000, 0x8100_0000, 0x8180_0000];

/// An index of the platform's, with data.
fn platform_index(bench: &mut Bench, index: u32, attributes: u32) {
    let public = tpm::Bytes::new().u16(0).raw(&tpm::nv_public(index, attributes, 8)).0;
    bench.send(&tpm::authorized(0x12A, &[tpm::PLATFORM], &[b""], &public)).ok();
    let written = tpm::Bytes::new().sized(b"platform").u16(0).0;
    bench.send(&tpm::authorized(0x137, &[tpm::PLATFORM, index], &[b""], &written)).ok();
}

/// [`untried`], with what a platform leaves in a TPM: a certificate of an endorsement key, data, a persistent key.
fn original() -> (Bench, tpm::Reply) {
    let (mut bench, sealed) = untried();
    for index in [EndorsementKey::ALL[0].certificate_index(), COUNTER] {
        platform_index(&mut bench, index, PLATFORMS);
    }
    let key = bench.send(&tpm::create_primary(tpm::PLATFORM, &tpm::ecc_storage_template())).ok().handle();
    bench.send(&tpm::authorized(0x120, &[tpm::PLATFORM, key], &[b""], &0x8180_0001_u32.to_be_bytes())).ok();
    (bench, tpm::Reply(sealed))
}

/// The TPM that a first launch makes of a backup.
fn from_backup(bench: &mut Bench, start: Start, backup: &[u8]) {
    bench.put_back(backup);
    bench.power_on(start, 1).unwrap();
    bench.send(&tpm::startup_clear()).ok();
}

/// What shows each hierarchy's seed, and what its proof: a primary key, and a ticket of TPM2_Hash.
fn shown(bench: &mut Bench) -> Vec<Vec<u8>> {
    let of = |hierarchy: u32| {
        let made = bench.send(&tpm::create_primary(hierarchy, &tpm::ecc_storage_template())).ok();
        bench.send(&tpm::flush(made.handle())).ok();
        let hashed = tpm::Bytes::new().sized(b"data").u16(tpm::SHA256).u32(hierarchy).0;
        let ticket = bench.send(&tpm::plain(0x17D, &hashed)).ok();
        // outHash; then the ticket: tag, hierarchy, digest.
        [tpm::created_public(&made).to_vec(), ticket.sized_at(2 + 32 + 2 + 4).to_vec()]
    };
    [tpm::OWNER, tpm::ENDORSEMENT, tpm::PLATFORM].map(of).concat()
}

#[test]
fn a_clone_shares_no_seed_and_no_proof_with_its_original_nor_with_another_clone() {
    let (mut bench, _) = original();
    let of_original = shown(&mut bench);
    let backup = bench.image();
    from_backup(&mut bench, Start::Restore, &backup);
    assert_eq!(shown(&mut bench), of_original, "a restore shares them all");
    let [one, other] = [(); 2].map(|()| {
        from_backup(&mut bench, Start::Clone, &backup);
        shown(&mut bench)
    });
    for ((of_original, one), other) in of_original.iter().zip(&one).zip(&other) {
        assert!(of_original != one && of_original != other && one != other);
    }
}

#[test]
fn nothing_of_the_original_is_in_a_clone() {
    let (mut bench, sealed) = original();
    let clock_ms: u64 = 60 * 60 * 1000;
    bench.send(&tpm::authorized(0x128, &[tpm::OWNER], &[b""], &clock_ms.to_be_bytes())).ok();
    // Stores Clock.
    bench.send(&tpm::shutdown_clear()).ok();
    let backup = bench.image();
    let count = |bench: &mut Bench, first: u32| {
        let listed = bench.send(&tpm::capability(1, first, 64)).ok().u32_at(15);
        usize::try_from(listed).unwrap()
    };
    for (start, left) in [(Start::Restore, [7, 2, 1]), (Start::Clone, [0; 3])] {
        from_backup(&mut bench, start, &backup);
        assert_eq!(LISTS.map(|first| count(&mut bench, first)), left, "{start:?}");
        let loaded = bench.send(&tpm::load(PARENT, &sealed)).code();
        assert_eq!(loaded == 0, start == Start::Restore, "{start:?}");
        let clock = tpm::clock_of(&bench.send(&tpm::read_clock()).ok());
        assert_eq!(
            (clock.clock_ms >= clock_ms, clock.reset_count),
            (start == Start::Restore, 1),
            "{start:?}"
        );
    }
    let parent = bench.send(&tpm::create_primary(tpm::OWNER, &tpm::ecc_storage_template())).ok().handle();
    assert_ne!(bench.send(&tpm::load(parent, &sealed)).code(), 0, "nor does it load under the new root key");
    assert_eq!(bench.failed_tries(), 0, "what is not there is not guessed at");
    bench.send(&tpm::lockout_parameters(b"", 3, 1000, 1000)).ok();
    let image = bench.image();
    bench.relaunch(&image, 2);
    assert_eq!(LISTS.map(|first| count(&mut bench, first)), [0; 3], "and it stays gone");
}

#[test]
fn a_tpm_with_an_index_that_only_its_policy_undefines_is_not_cloned() {
    let (mut bench, _) = original();
    platform_index(&mut bench, DATA + 0x10, PLATFORMS | POLICY_DELETE);
    let backup = bench.image();
    bench.put_back(&backup);
    assert_eq!(bench.power_on(Start::Clone, 1), Err(EngineFault::CloneRefused));
}
