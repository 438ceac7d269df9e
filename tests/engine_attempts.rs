//! Laws of authorization attempts: an attempt is counted even if its answer was never committed.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "support/engine_bench.rs"]
mod engine_bench;
#[path = "support/tpm.rs"]
mod tpm;

use engine_bench::Bench;

use husk::engine::{Engine, Start};

const PIN: u32 = 0x0150_0010;
const DATA: u32 = 0x0150_0011;
const PIN_ATTRIBUTES: u32 = tpm::NV_PIN_FAIL | tpm::NV_NO_DA | 0x0002_0002 | 0x0004_0000;

/// A started TPM with a PIN index of five tries (password "pin", written by the owner), and a plain index.
fn with_pin() -> Bench {
    let mut bench = Bench::started();
    bench.send(&tpm::nv_define(PIN, PIN_ATTRIBUTES, 8, b"pin")).ok();
    bench.send(&tpm::nv_write_by_owner(PIN, &tpm::pin(0, 5))).ok();
    let plain = tpm::NV_AUTH_AND_OWNER | tpm::NV_NO_DA;
    bench.send(&tpm::nv_define(DATA, plain, 8, b"")).ok();
    bench.send(&tpm::nv_write(DATA, b"", &[1; 8])).ok();
    bench
}

fn pin_count(bench: &mut Bench) -> u32 {
    let reply = bench.send(&tpm::nv_read_by_owner(PIN, 8)).ok();
    u32::from_be_bytes(tpm::nv_data_of(&reply)[..4].try_into().unwrap())
}

#[test]
fn only_what_counts_attempts_opens_one() {
    let mut bench = with_pin();
    let trial = bench.send(&tpm::start_session(tpm::SE_TRIAL)).ok().handle();
    let opens = [
        (tpm::nv_read(PIN, b"guess", 8), vec![PIN]),
        (tpm::policy_secret(PIN, trial, b"guess"), vec![PIN]),
        (tpm::policy_secret(tpm::LOCKOUT, trial, b"guess"), vec![tpm::LOCKOUT]),
        (tpm::lockout_reset(b"guess"), vec![tpm::LOCKOUT]),
        (tpm::lockout_parameters(b"guess", 1, 1, 1), vec![tpm::LOCKOUT]),
        (tpm::change_auth_of_hierarchy(tpm::LOCKOUT, b"guess", b""), vec![tpm::LOCKOUT]),
        (tpm::change_auth_of_hierarchy(tpm::OWNER, b"guess", b""), vec![]),
        (tpm::nv_read_by_owner(PIN, 8), vec![]),
        (tpm::nv_read(DATA, b"guess", 8), vec![]),
        (tpm::nv_read(0x0150_0099, b"guess", 8), vec![]),
        (tpm::nv_read_public(PIN), vec![]),
        (tpm::random(8), vec![]),
    ];
    let image = bench.image();
    for (command, handles) in opens {
        assert_eq!(bench.attempts(&command), handles, "{command:x?}");
    }
    assert_eq!(bench.image(), image, "asking changed something");
}

#[test]
fn a_certified_pin_index_is_the_second_handle() {
    let mut bench = with_pin();
    let key = bench.send(&tpm::create_primary(tpm::OWNER, &tpm::ecc_signing_template(false))).ok().handle();
    let certify =
        |auth| tpm::authorized(0x184, &[key, auth, PIN], &[b"", b"guess"], &[0, 0, 0, 0x10, 0, 8, 0, 0]);
    assert_eq!(bench.attempts(&certify(PIN)), [PIN]);
    assert_eq!(bench.attempts(&certify(tpm::OWNER)), []);
}

#[test]
fn where_an_inquiry_would_be_audited_every_index_is_taken_for_a_pin() {
    let mut bench = with_pin();
    assert_eq!(bench.attempts(&tpm::nv_read(DATA, b"", 8)), []);
    // SetCommandCodeAuditStatus: SHA-256 for the audit, then NV_ReadPublic into the list.
    let set = |hash: u16, code: u32| {
        let lists = tpm::Bytes::new().u16(hash).u32(1).u32(code).u32(0).0;
        tpm::authorized(0x140, &[tpm::OWNER], &[b""], &lists)
    };
    bench.send(&set(tpm::ALG_NULL, 0x169)).ok();
    assert_eq!(bench.attempts(&tpm::nv_read(DATA, b"", 8)), [DATA]);
    let image = bench.image();
    bench.engine.charge(&mut bench.nv, DATA).unwrap();
    assert_eq!(bench.failed_tries(), 0);
    bench.put_back(&image);
}

#[test]
fn a_session_bound_to_lockout_may_try_its_password_anywhere() {
    let mut bench = with_pin();
    let hmac = bench.send(&tpm::start_session(tpm::SE_HMAC)).ok().handle();
    let read = |session: u32| {
        let area = tpm::Bytes::new().u32(session).u16(0).u8(1).u16(0).0;
        tpm::with_area(0x14E, &[DATA, DATA], &area, &[0, 8, 0, 0])
    };
    assert_eq!(bench.attempts(&read(hmac)), []);
    let bound = bench.send(&tpm::start_bound_session(tpm::SE_HMAC, tpm::LOCKOUT)).ok().handle();
    assert_eq!(bench.attempts(&read(bound)), [tpm::LOCKOUT]);
    assert_eq!(bench.attempts(&tpm::nv_read(DATA, b"", 8)), [], "a password tries nothing else");
    assert_ne!(
        bench.send(&tpm::start_bound_session(tpm::SE_HMAC, PIN)).code(),
        0,
        "a PIN index binds nothing"
    );
}

#[test]
fn a_charge_on_a_pin_index_is_one_failed_attempt() {
    let mut bench = with_pin();
    let image = bench.image();
    bench.relaunch(&image, 2);
    for count in 1..=5 {
        bench.engine.charge(&mut bench.nv, PIN).unwrap();
        assert_eq!(pin_count(&mut bench), count);
    }
    // At the limit there is nothing left to charge, and the right password is of no use.
    bench.engine.charge(&mut bench.nv, PIN).unwrap();
    assert_eq!(pin_count(&mut bench), 5);
    assert_ne!(bench.send(&tpm::nv_read(PIN, b"pin", 8)).code(), 0);
    assert_eq!(bench.failed_tries(), 0);
    // No session is left behind: all three slots are free.
    for _ in 0..3 {
        bench.send(&tpm::start_session(tpm::SE_TRIAL)).ok();
    }
}

#[test]
fn a_charge_on_lockout_disables_it_as_a_wrong_password_would() {
    let mut bench = Bench::started();
    bench.send(&tpm::change_auth_of_hierarchy(tpm::LOCKOUT, b"", b"secret")).ok();
    let image = bench.image();
    bench.relaunch(&image, 2);
    bench.engine.charge(&mut bench.nv, tpm::LOCKOUT).unwrap();
    assert_eq!(bench.send(&tpm::lockout_reset(b"secret")).code(), 0x921, "TPM_RC_LOCKOUT");
    bench.engine.charge(&mut bench.nv, tpm::LOCKOUT).unwrap();
    // It stays so over a power loss.
    let image = bench.image();
    bench.relaunch(&image, 3);
    assert_eq!(bench.send(&tpm::lockout_reset(b"secret")).code(), 0x921);
}

#[test]
fn a_charge_on_a_handle_that_is_gone_is_no_error() {
    let mut bench = with_pin();
    bench.send(&tpm::nv_undefine(PIN)).ok();
    bench.engine.charge(&mut bench.nv, PIN).unwrap();
    bench.send(&tpm::nv_define(PIN, tpm::NV_AUTH_AND_OWNER, 8, b"")).ok();
    bench.engine.charge(&mut bench.nv, PIN).unwrap();
    assert_eq!(bench.failed_tries(), 0);
}

#[test]
fn a_guess_whose_record_was_thrown_away_is_charged_by_the_engine_itself() {
    let mut bench = Bench::started();
    let parent = bench.send(&tpm::create_primary(tpm::OWNER, &tpm::ecc_storage_template())).ok().handle();
    bench.send(&tpm::evict(parent, 0x8100_0001)).ok();
    let sealed = bench.send(&tpm::create_sealed(parent, 0x52, b"right", b"", b"data")).ok();
    let object = bench.send(&tpm::load(parent, &sealed)).ok().handle();
    assert_eq!(bench.failed_tries(), 0);
    // Before a DA-protected authorization is judged, the engine stores that one is in use and asks to come again.
    let mut before_the_guess = bench.image();
    let mut reply = bench.send_once(&tpm::unseal(object, b"wrong")).unwrap();
    while reply.code() == 0x922 {
        before_the_guess = bench.image();
        reply = bench.send_once(&tpm::unseal(object, b"wrong")).unwrap();
    }
    assert_eq!(reply.code(), 0x98E, "TPM_RC_AUTH_FAIL");
    assert_eq!(bench.failed_tries(), 1);
    assert_ne!(bench.image(), before_the_guess);

    for count in 1..=3 {
        // The guess's record is gone; the restart costs a try all the same.
        let image = if count == 1 { before_the_guess.clone() } else { bench.image() };
        bench.relaunch(&image, 1 + count);
        assert_eq!(bench.failed_tries(), count);
        let object = bench.send(&tpm::load(0x8100_0001, &sealed)).ok().handle();
        let code = bench.send_once(&tpm::unseal(object, b"wrong")).unwrap().code();
        assert_eq!(code, if count == 3 { 0x921 } else { 0x922 }, "at the limit: TPM_RC_LOCKOUT");
    }
}

#[test]
fn a_pin_pass_index_counts_uses_and_a_wrong_guess_changes_nothing() {
    let mut bench = Bench::started();
    let attributes = tpm::NV_PIN_PASS | tpm::NV_NO_DA | 0x0002_0002 | 0x0004_0000;
    bench.send(&tpm::nv_define(PIN, attributes, 8, b"pin")).ok();
    bench.send(&tpm::nv_write_by_owner(PIN, &tpm::pin(0, 2))).ok();
    let image = bench.image();
    assert_eq!(bench.send(&tpm::nv_read(PIN, b"guess", 8)).code(), 0x9A2, "TPM_RC_BAD_AUTH");
    assert_eq!(bench.image(), image);
    assert_eq!(bench.attempts(&tpm::nv_read(PIN, b"guess", 8)), []);
    bench.send(&tpm::nv_read(PIN, b"pin", 8)).ok();
    assert_eq!(pin_count(&mut bench), 1);
    assert_eq!(bench.power_on(Start::Load, 2), Ok(()));
}

#[test]
fn a_bound_session_tries_its_object_with_any_command_and_the_engine_counts_that_too() {
    let mut bench = Bench::started();
    let parent = bench.send(&tpm::create_primary(tpm::OWNER, &tpm::ecc_storage_template())).ok().handle();
    let sealed = bench.send(&tpm::create_sealed(parent, 0x52, b"right", b"", b"data")).ok();
    let object = bench.send(&tpm::load(parent, &sealed)).ok().handle();
    let bound = bench.send(&tpm::start_bound_session(tpm::SE_HMAC, object)).ok().handle();
    // A wrong HMAC, in a session that continues and audits.
    let area = tpm::Bytes::new().u32(bound).sized(&[2; 16]).u8(0x81).sized(&[0; 32]).0;
    let random = tpm::with_area(0x17B, &[], &area, &[0, 8]);
    let mut version = bench.nv.version();
    for (count, code) in [(0, 0x922), (1, 0x98E), (2, 0x98E)] {
        assert_eq!(bench.send_once(&random).unwrap().code(), code, "TPM_RC_RETRY, then TPM_RC_AUTH_FAIL");
        assert!(bench.nv.version() > version, "what the answer tells of is in the image");
        version = bench.nv.version();
        assert_eq!(bench.failed_tries(), count);
    }
}
