//! Laws of failure: what fails stays failed until power-on, and damaged states are refused without a crash.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "support/engine_bench.rs"]
mod engine_bench;
#[path = "support/tpm.rs"]
mod tpm;

use engine_bench::Bench;

use husk::engine::{Engine, EngineFault, PowerOn, Start};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

const INDEX: u32 = 0x0150_0001;
const PLAIN: u32 = tpm::NV_AUTH_AND_OWNER | tpm::NV_NO_DA;

/// Everything answers TPM_RC_FAILURE, and nothing else goes.
fn assert_failed(bench: &mut Bench) {
    for command in [tpm::random(8), tpm::startup_clear(), tpm::pcr_read(0), tpm::capability(6, 0x100, 1)] {
        assert_eq!(bench.send_once(&command).unwrap().code(), 0x101);
    }
    assert_eq!(bench.engine.hash_start(&mut bench.nv), Err(EngineFault::Failed));
    assert_eq!(bench.engine.clock_ms(&mut bench.nv), 0);
    assert!(!bench.engine.established());
}

#[test]
fn a_command_without_entropy_fails_the_engine_until_power_on() {
    let mut bench = Bench::started();
    let image = bench.image();
    bench.stop_entropy(true);
    // The TPM's generator is seeded at startup: a key of the null hierarchy draws from the platform at once.
    let create = tpm::create_primary(tpm::NULL, &tpm::ecc_storage_template());
    let mut fault = Ok(());
    for _ in 0..1000 {
        if let Err(found) = bench.send_once(&create) {
            fault = Err(found);
            break;
        }
    }
    assert_eq!(fault, Err(EngineFault::EntropyFailed));
    assert_failed(&mut bench);
    bench.stop_entropy(false);
    assert_failed(&mut bench);
    bench.relaunch(&image, 2);
    bench.send(&tpm::random(8)).ok();
    bench.send(&create).ok();
}

#[test]
fn no_tpm_is_made_without_entropy() {
    let mut bench = Bench::new(1);
    bench.stop_entropy(true);
    assert_eq!(bench.power_on(Start::Manufacture, 1), Err(EngineFault::EntropyFailed));
    assert_failed(&mut bench);
    assert!(bench.nv.engine_state().is_empty());
    bench.stop_entropy(false);
    bench.power_on(Start::Manufacture, 1).unwrap();
    bench.send(&tpm::startup_clear()).ok();
}

#[test]
fn no_tpm_starts_without_entropy() {
    let mut bench = Bench::started();
    let image = bench.image();
    bench.put_back(&image);
    bench.stop_entropy(true);
    let started = bench.launch(2, 0).and_then(|()| bench.send_once(&tpm::startup_clear()).map(|_| ()));
    assert_eq!(started, Err(EngineFault::EntropyFailed));
    bench.stop_entropy(false);
    bench.launch(3, 0).unwrap();
    bench.send(&tpm::startup_clear()).ok();
}

#[test]
fn a_state_that_does_not_fit_fails_the_engine_and_leaves_the_image() {
    let mut bench = Bench::started();
    // Indices of 2 KiB until the image or the TPM is full; the TPM's own limit (TPM_RC_NV_SPACE) comes first or not.
    let mut last = bench.image();
    let mut outcome = None;
    for index in 0..200 {
        match bench.send_once(&tpm::nv_define(INDEX + index, PLAIN, 2048, b"")) {
            Ok(reply) if reply.code() == 0 => last = bench.image(),
            other => {
                outcome = Some(other.map(|reply| reply.code()));
                break;
            }
        }
    }
    assert!(matches!(outcome, Some(Ok(0x14B) | Err(EngineFault::StateTooLarge))), "{outcome:x?}");
    assert_eq!(bench.image(), last);
    if outcome == Some(Err(EngineFault::StateTooLarge)) {
        assert_failed(&mut bench);
    }
    bench.relaunch(&last, 2);
}

/// Launches from `state` with each byte in turn altered in three ways; returns how often that was refused.
fn launch_damaged(bench: &mut Bench, state: &[u8]) -> usize {
    let mut refused = 0;
    for at in 0..state.len() {
        for mask in [0x01, 0x80, 0xFF] {
            let mut bad = state.to_vec();
            bad[at] ^= mask;
            bench.put_back_state(&bad);
            match bench.launch(2, 0) {
                // It may be another TPM; it must still be one that answers.
                Ok(()) => match bench.send_once(&tpm::startup_clear()) {
                    Ok(_) | Err(EngineFault::Failed) => assert!(at >= 32, "a foreign fingerprint loaded"),
                    Err(other) => panic!("byte {at}: {other:?}"),
                },
                Err(EngineFault::StateRefused) => refused += 1,
                Err(other) => panic!("byte {at}: {other:?}"),
            }
        }
    }
    refused
}

#[test]
fn a_small_state_with_any_byte_damaged_is_refused_or_loads_but_never_crashes() {
    let mut bench = Bench::started();
    bench.send(&tpm::nv_define(INDEX, PLAIN, 8, b"pin")).ok();
    bench.send(&tpm::nv_write(INDEX, b"pin", &[7; 8])).ok();
    let state = bench.nv.engine_state().to_vec();
    assert!(launch_damaged(&mut bench, &state) > 32 * 3);
    bench.put_back_state(&state);
    bench.launch(2, 0).unwrap();
    bench.send(&tpm::startup_clear()).ok();
    assert_eq!(tpm::nv_data_of(&bench.send(&tpm::nv_read(INDEX, b"pin", 8)).ok()), [7; 8]);
}

#[test]
fn a_large_state_with_any_byte_damaged_is_refused_or_loads_but_never_crashes() {
    let mut bench = Bench::started();
    let key = bench.send(&tpm::create_primary(tpm::OWNER, &tpm::ecc_storage_template())).ok().handle();
    bench.send(&tpm::evict(key, 0x8100_0001)).ok();
    bench.send(&tpm::shutdown_state()).ok();
    let state = bench.nv.engine_state().to_vec();
    assert!(launch_damaged(&mut bench, &state) > 0);
}

#[test]
fn a_damaged_volatile_state_is_not_resumed() {
    let mut bench = Bench::started();
    let image = bench.image();
    let mut volatile = vec![0; 64 * 1024];
    let len = bench.engine.save_volatile(&mut volatile).unwrap();
    for at in (0..len).step_by(3) {
        let mut bad = volatile[..len].to_vec();
        bad[at] ^= 0x80;
        bench.put_back(&image);
        let power_on = PowerOn { start: Start::Load, reset_count: 1, clock_ms_min: 0 };
        let resumed = bench.engine.resume_volatile(&mut bench.nv, power_on, &bad);
        assert_eq!(resumed, Err(EngineFault::StateRefused), "byte {at}");
    }
}

#[test]
fn a_truncated_or_lengthened_state_is_refused() {
    let mut bench = Bench::started();
    let state = bench.nv.engine_state().to_vec();
    for len in 0..state.len() {
        bench.put_back_state(&state[..len]);
        assert_eq!(bench.launch(2, 0), Err(EngineFault::StateRefused), "{len} bytes");
    }
}

#[test]
fn a_cancelled_command_says_so_and_the_engine_goes_on() {
    let mut bench = Bench::started();
    let canceller = bench.engine.canceller();
    let done = AtomicBool::new(false);
    let mut cancelled = false;
    std::thread::scope(|scope| {
        // The flag falls when a command starts, so it is raised again and again.
        scope.spawn(|| {
            while !done.load(SeqCst) {
                canceller.cancel();
                std::thread::yield_now();
            }
        });
        for round in 0..200_u32 {
            let create = tpm::create_primary(tpm::OWNER, &tpm::rsa_storage_template(&round.to_be_bytes()));
            let reply = bench.send(&create);
            match reply.code() {
                0x909 => cancelled = true,
                0 => drop(bench.send(&tpm::flush(reply.handle())).ok()),
                code => panic!("0x{code:x}"),
            }
            if cancelled {
                break;
            }
        }
        done.store(true, SeqCst);
    });
    assert!(cancelled, "TPM_RC_CANCELED never came");
    bench.send(&tpm::create_primary(tpm::OWNER, &tpm::ecc_storage_template())).ok();
}
