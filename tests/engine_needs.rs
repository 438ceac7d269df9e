//! Laws of command classes: what runs while a host stalls the broker changes nothing that must be durable.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "support/engine_bench.rs"]
mod engine_bench;
#[path = "support/tpm.rs"]
mod tpm;

use engine_bench::Bench;

use husk::engine::{Command, Locality, Needs};

/// Runs `command`, which must succeed, be of class `needs` and leave the image's version as it was.
#[track_caller]
fn harmless(bench: &mut Bench, needs: Needs, command: &[u8]) -> tpm::Reply {
    assert_eq!(Command::parse(command, Locality::Zero).unwrap().needs(), needs, "{command:x?}");
    let version = bench.nv.version();
    let reply = bench.send_once(command).unwrap().ok();
    assert_eq!(bench.nv.version(), version, "the image changed: {command:x?}");
    reply
}

#[test]
fn measurements_change_no_image_from_the_first_command_on() {
    let mut bench = Bench::started();
    let free = Needs::Nothing;
    harmless(&mut bench, free, &tpm::pcr_extend(0, &[1; 32]));
    harmless(&mut bench, free, &tpm::pcr_event(1, b"event"));
    harmless(&mut bench, free, &tpm::pcr_read(0));
    harmless(&mut bench, free, &tpm::self_test());
    // IncrementalSelfTest of SHA-256, GetTestResult, TestParms of SHA-256 keyed hash, Hash.
    harmless(&mut bench, free, &tpm::plain(0x142, &[0, 0, 0, 1, 0, 0x0B]));
    harmless(&mut bench, free, &tpm::plain(0x17C, &[]));
    harmless(&mut bench, free, &tpm::plain(0x18A, &[0, 8, 0, 0x10]));
    let hash = tpm::Bytes::new().sized(b"data").u16(tpm::SHA256).u32(tpm::OWNER).0;
    harmless(&mut bench, free, &tpm::plain(0x17D, &hash));
    harmless(&mut bench, free, &tpm::capability(6, 0x100, 8));
    harmless(&mut bench, free, &tpm::random(32));
    harmless(&mut bench, free, &tpm::read_clock());
}

#[test]
fn hash_sequences_change_no_image() {
    let mut bench = Bench::started();
    let free = Needs::Nothing;
    for (algorithm, complete) in [(tpm::SHA256, 0x13E), (tpm::ALG_NULL, 0x185)] {
        let start = tpm::Bytes::new().u16(0).u16(algorithm).0;
        let sequence = harmless(&mut bench, free, &tpm::plain(0x186, &start)).handle();
        let update = tpm::Bytes::new().sized(&[7; 900]).0;
        harmless(&mut bench, free, &tpm::authorized(0x15C, &[sequence], &[b""], &update));
        let last = tpm::Bytes::new().sized(b"last");
        let command = if complete == 0x13E {
            tpm::authorized(complete, &[sequence], &[b""], &last.u32(tpm::NULL).0)
        } else {
            tpm::authorized(complete, &[8, sequence], &[b"", b""], &last.0)
        };
        harmless(&mut bench, free, &command);
    }
    let start = tpm::plain(0x186, &tpm::Bytes::new().u16(0).u16(tpm::SHA256).0);
    let sequence = harmless(&mut bench, free, &start).handle();
    harmless(&mut bench, free, &tpm::flush(sequence));
}

#[test]
fn a_long_chain_of_extends_changes_no_image() {
    let mut bench = Bench::started();
    for round in 0..3000_u16 {
        harmless(
            &mut bench,
            Needs::Nothing,
            &tpm::pcr_extend(u32::from(round % 16), &[round.to_le_bytes()[0]; 32]),
        );
    }
}

/// A started TPM with a loaded signing key, a persistent one and an index.
fn with_keys() -> (Bench, u32) {
    let mut bench = Bench::started();
    let key = bench.send(&tpm::create_primary(tpm::OWNER, &tpm::ecc_signing_template(false))).ok().handle();
    let plain = tpm::NV_AUTH_AND_OWNER | tpm::NV_NO_DA;
    bench.send(&tpm::nv_define(0x0150_0001, plain, 8, b"")).ok();
    (bench, key)
}

#[test]
fn reading_what_is_public_changes_no_image() {
    let (mut bench, key) = with_keys();
    let lease = Needs::Lease;
    let public = harmless(&mut bench, lease, &tpm::read_public(key));
    harmless(&mut bench, lease, &tpm::nv_read_public(0x0150_0001));
    // ECC_Parameters of P-256, ECDH_KeyGen needs a decryption key.
    harmless(&mut bench, lease, &tpm::plain(0x178, &[0, 3]));
    // LoadExternal of the public area into the null hierarchy.
    let load = tpm::Bytes::new().u16(0).sized(public.sized_at(0)).u32(tpm::NULL).0;
    let loaded = harmless(&mut bench, lease, &tpm::plain(0x167, &load)).handle();
    harmless(&mut bench, Needs::Nothing, &tpm::flush(loaded));
}

#[test]
fn moving_contexts_changes_no_image() {
    let (mut bench, key) = with_keys();
    let lease = Needs::Lease;
    for round in 0..40 {
        let saved = harmless(&mut bench, lease, &tpm::plain(0x162, &key.to_be_bytes()));
        let loaded = harmless(&mut bench, lease, &tpm::plain(0x161, saved.after(0))).handle();
        harmless(&mut bench, Needs::Nothing, &tpm::flush(loaded));
        let session = harmless(&mut bench, lease, &tpm::start_session(tpm::SE_POLICY)).handle();
        let saved = harmless(&mut bench, lease, &tpm::plain(0x162, &session.to_be_bytes()));
        let loaded = harmless(&mut bench, lease, &tpm::plain(0x161, saved.after(0))).handle();
        assert_eq!(loaded, session, "round {round}");
        harmless(&mut bench, Needs::Nothing, &tpm::flush(session));
    }
}

#[test]
fn policies_without_authorization_change_no_image() {
    let mut bench = Bench::started();
    let lease = Needs::Lease;
    let session = harmless(&mut bench, lease, &tpm::start_session(tpm::SE_TRIAL)).handle();
    harmless(&mut bench, lease, &tpm::policy_pcr(session, 0));
    let with = |code, bytes: &[u8]| tpm::plain(code, &tpm::Bytes::new().u32(session).raw(bytes).0);
    // PolicyCommandCode(Unseal), PolicyAuthValue, PolicyPassword, PolicyOR of two digests, PolicyRestart
    harmless(&mut bench, lease, &with(0x16C, &[0, 0, 1, 0x5E]));
    harmless(&mut bench, lease, &with(0x16B, &[]));
    harmless(&mut bench, lease, &with(0x18C, &[]));
    let branches = tpm::Bytes::new().u32(2).sized(&[1; 32]).sized(&[2; 32]).0;
    harmless(&mut bench, lease, &with(0x171, &branches));
    harmless(&mut bench, lease, &tpm::policy_digest(session));
    harmless(&mut bench, lease, &with(0x180, &[]));
}

#[test]
fn what_stores_is_in_the_strictest_class() {
    let mut bench = Bench::started();
    let plain = tpm::NV_AUTH_AND_OWNER | tpm::NV_NO_DA;
    for command in [
        tpm::nv_define(0x0150_0001, plain, 8, b""),
        tpm::nv_write(0x0150_0001, b"", &[1; 8]),
        tpm::change_auth_of_hierarchy(tpm::OWNER, b"", b"new"),
        tpm::lockout_parameters(b"", 5, 10, 10),
        tpm::clear(),
        tpm::shutdown_state(),
        tpm::startup_clear(),
    ] {
        assert_eq!(Command::parse(&command, Locality::Zero).unwrap().needs(), Needs::Nv);
        let version = bench.nv.version();
        if command == tpm::startup_clear() {
            let image = bench.image();
            bench.put_back(&image);
            bench.launch(2, 0).unwrap();
        }
        bench.send(&command).ok();
        assert!(bench.nv.version() != version || command == tpm::startup_clear(), "{command:x?}");
    }
}
