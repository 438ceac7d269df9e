//! Laws of the reference engine's durable state: what was stored is there again, and nothing else is accepted.
#[path = "support/engine_bench.rs"]
mod engine_bench;
#[path = "support/tpm.rs"]
mod tpm;

use engine_bench::Bench;
use husk::engine::{EngineFault, Start};

const INDEX: u32 = 0x0150_0001;
const COUNTER: u32 = 0x0150_0002;
const KEY: u32 = 0x8100_0001;
const PLAIN: u32 = tpm::NV_AUTH_AND_OWNER | tpm::NV_NO_DA;

#[test]
fn what_a_tpm_stored_is_there_after_power_off() {
    let mut bench = Bench::started();
    bench.send(&tpm::nv_define(INDEX, PLAIN, 64, b"pin")).ok();
    bench.send(&tpm::nv_write(INDEX, b"pin", &[7; 64])).ok();
    bench.send(&tpm::nv_define(COUNTER, PLAIN | tpm::NV_COUNTER, 8, b"")).ok();
    for _ in 0..3 {
        bench.send(&tpm::nv_increment(COUNTER, b"")).ok();
    }
    let count = tpm::nv_data_of(&bench.send(&tpm::nv_read(COUNTER, b"", 8)).ok()).to_vec();
    let primary = bench.send(&tpm::create_primary(tpm::OWNER, &tpm::ecc_storage_template())).ok();
    bench.send(&tpm::evict(primary.handle(), KEY)).ok();
    let public = bench.send(&tpm::read_public(KEY)).ok();
    bench.send(&tpm::shutdown_clear()).ok();
    let image = bench.image();

    bench.relaunch(&image, 2);
    assert_eq!(tpm::nv_data_of(&bench.send(&tpm::nv_read(INDEX, b"pin", 64)).ok()), [7; 64]);
    assert_eq!(tpm::nv_data_of(&bench.send(&tpm::nv_read(COUNTER, b"", 8)).ok()), count);
    assert_eq!(bench.send(&tpm::read_public(KEY)).ok(), public);
}

#[test]
fn there_is_one_engine_in_a_process() {
    let bench = Bench::new(1);
    assert!(husk::engine::reference::ReferenceEngine::claim(|_| Ok(())).is_none());
    drop(bench);
    drop(Bench::new(1));
}

#[test]
fn a_missing_state_is_refused_and_never_made() {
    let mut bench = Bench::new(1);
    assert_eq!(bench.power_on(Start::Load, 1), Err(EngineFault::StateRefused));
    assert!(bench.nv.engine_state().is_empty());
    bench.power_on(Start::Manufacture, 1).unwrap();
    let image = bench.image();
    assert_eq!(bench.power_on(Start::Manufacture, 1), Err(EngineFault::StateRefused));
    assert_eq!(bench.image(), image);
}

#[test]
fn the_same_entropy_makes_the_same_tpm_and_other_entropy_another() {
    let make = |seed| {
        let mut bench = Bench::new(seed);
        bench.power_on(Start::Manufacture, 1).unwrap();
        bench.send(&tpm::startup_clear()).ok();
        let key = bench.send(&tpm::create_primary(tpm::ENDORSEMENT, &tpm::ecc_storage_template())).ok();
        let random = bench.send(&tpm::random(32)).ok();
        (bench.send(&tpm::read_public(key.handle())).ok(), random)
    };
    let (one, again, other) = (make(1), make(1), make(2));
    assert_eq!(one, again);
    assert_ne!(one.0, other.0);
    assert_ne!(one.1, other.1);
}

/// What libtpms 0.9 stored after an index was defined and written and the TPM was shut down: fingerprint and state.
const STORED_BY_0_9: &[u8] = include_bytes!("data/engine/libtpms-0.09.state");

#[test]
fn a_state_stored_by_an_old_build_still_loads() {
    let mut bench = Bench::started();
    if bench.nv.engine_state()[..32] != STORED_BY_0_9[..32] {
        // Another version is linked: it must refuse that state, not read it its own way.
        bench.put_back_state(STORED_BY_0_9);
        assert_eq!(bench.launch(9, 0), Err(EngineFault::StateRefused));
        return;
    }
    bench.put_back_state(STORED_BY_0_9);
    bench.launch(9, 0).unwrap();
    bench.send(&tpm::startup_clear()).ok();
    assert_eq!(tpm::nv_data_of(&bench.send(&tpm::nv_read(INDEX, b"pin", 8)).ok()), *b"remember");
    assert_eq!(bench.clock().reset_count, 9);
}
