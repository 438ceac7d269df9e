//! Laws of a launch: it is a TPM Reset, counted by the world outside, on a clock that never goes back.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "support/engine_bench.rs"]
mod engine_bench;
#[path = "support/tpm.rs"]
mod tpm;

use engine_bench::Bench;

use husk::engine::{Engine, EngineFault, Locality, PowerOn, Start};

#[test]
fn the_reset_count_is_what_the_world_says_whatever_the_shutdown_was() {
    let mut bench = Bench::started();
    assert_eq!(bench.clock().reset_count, 1);
    for (shutdown, count) in
        [(None, 7), (Some(tpm::shutdown_clear()), 5), (Some(tpm::shutdown_state()), 0), (None, u32::MAX)]
    {
        if let Some(shutdown) = shutdown {
            bench.send(&shutdown).ok();
        }
        let image = bench.image();
        bench.relaunch(&image, count);
        let clock = bench.clock();
        assert_eq!((clock.reset_count, clock.restart_count), (count, 0));
    }
}

#[test]
fn a_launch_never_resumes_a_saved_tpm() {
    let mut bench = Bench::started();
    bench.send(&tpm::pcr_extend(3, &[1; 32])).ok();
    bench.send(&tpm::shutdown_state()).ok();
    let image = bench.image();
    bench.put_back(&image);
    bench.launch(2, 0).unwrap();
    assert_eq!(bench.send(&tpm::startup_state()).code(), 0x1C4, "TPM_RC_VALUE for startupType");
    bench.send(&tpm::startup_clear()).ok();
    assert_eq!(tpm::pcr_of(&bench.send(&tpm::pcr_read(3)).ok()), [0; 32]);
    // Nor does the image that this launch leaves behind.
    let image = bench.image();
    bench.put_back(&image);
    bench.launch(3, 0).unwrap();
    assert_eq!(bench.send(&tpm::startup_state()).code(), 0x1C4);
}

/// A launch of the TPM that runs, from the image as it is, with its clock at that many milliseconds or later.
type Launch = fn(&mut Bench, u64);

fn shipped(bench: &mut Bench, clock_ms_min: u64) {
    let image = bench.image();
    bench.put_back(&image);
    bench.launch(2, clock_ms_min).unwrap();
    bench.send(&tpm::startup_clear()).ok();
}

fn pcrs_survive(launch: Launch) -> bool {
    let mut bench = Bench::started();
    bench.send(&tpm::pcr_extend(3, &[1; 32])).ok();
    launch(&mut bench, 0);
    tpm::pcr_of(&bench.send(&tpm::pcr_read(3)).ok()) != [0; 32]
}

/// Amendment 8: a launch that resumes what was saved carries one launch's measurements into another.
#[test]
fn the_mutant_of_a_launch_that_resumes_is_found() {
    assert!(!pcrs_survive(shipped));
    let resumes: Launch = |bench, clock_ms_min| {
        let mut volatile = vec![0; 64 * 1024];
        let len = bench.engine.save_volatile(&mut volatile).unwrap();
        let image = bench.image();
        bench.put_back(&image);
        let power_on = PowerOn { start: Start::Load, reset_count: 2, clock_ms_min };
        bench.engine.resume_volatile(&mut bench.nv, power_on, &volatile[..len]).unwrap();
    };
    assert!(pcrs_survive(resumes), "nobody noticed");
}

/// How Clock is told after a power loss, whose bound was `1_000_000`.
fn clock_is_right_after_a_power_loss(launch: Launch) -> bool {
    let mut bench = Bench::started();
    launch(&mut bench, 1_000_000);
    let clock = bench.clock();
    !clock.safe && clock.clock_ms >= 1_000_000
}

/// Amendment 13: Clock goes on from what was reserved, and says that power was lost.
#[test]
fn every_mutant_of_the_clock_of_a_launch_is_found() {
    assert!(clock_is_right_after_a_power_loss(shipped));
    let mutants: [(&str, Launch); 2] = [
        ("what was reserved is forgotten", |bench, _| shipped(bench, 0)),
        ("a power loss counts as an orderly shutdown", |bench, clock_ms_min| {
            bench.send(&tpm::shutdown_clear()).ok();
            shipped(bench, clock_ms_min);
        }),
    ];
    for (what, mutant) in mutants {
        assert!(!clock_is_right_after_a_power_loss(mutant), "{what}: nobody noticed");
    }
}

#[test]
fn the_clock_starts_at_what_was_reserved_or_later() {
    let mut bench = Bench::started();
    bench.send(&tpm::shutdown_clear()).ok();
    let image = bench.image();
    for clock_ms_min in [1_000_000, 5, 1 << 40] {
        bench.put_back(&image);
        bench.launch(2, clock_ms_min).unwrap();
        assert_eq!(bench.engine.clock_ms(&mut bench.nv), 0, "there is no clock before Startup");
        bench.send(&tpm::startup_clear()).ok();
        let clock = bench.clock();
        assert!(clock.clock_ms >= clock_ms_min && clock.safe, "{clock:?}");
        assert!(bench.engine.clock_ms(&mut bench.nv) >= clock.clock_ms);
    }
    // A reservation that lies behind the stored clock changes nothing.
    bench.send(&tpm::shutdown_clear()).ok();
    let image = bench.image();
    bench.put_back(&image);
    bench.launch(3, 5).unwrap();
    bench.send(&tpm::startup_clear()).ok();
    assert!(bench.clock().clock_ms >= 1 << 40);
}

#[test]
fn after_a_power_loss_the_clock_is_not_safe() {
    let mut bench = Bench::started();
    let image = bench.image();
    bench.put_back(&image);
    bench.launch(2, 1_000_000).unwrap();
    bench.send(&tpm::startup_clear()).ok();
    let clock = bench.clock();
    assert!(!clock.safe && clock.clock_ms >= 1_000_000, "{clock:?}");
}

#[test]
fn a_running_tpm_is_saved_and_resumed() {
    let mut bench = Bench::started();
    bench.send(&tpm::pcr_extend(3, &[1; 32])).ok();
    let pcr = tpm::pcr_of(&bench.send(&tpm::pcr_read(3)).ok()).to_vec();
    let before = bench.clock();
    let mut volatile = vec![0; 64 * 1024];
    assert_eq!(bench.engine.save_volatile(&mut [0; 16]), Err(EngineFault::StateTooLarge));
    let len = bench.engine.save_volatile(&mut volatile).unwrap();
    let image = bench.image();

    let resume = |bench: &mut Bench, clock_ms_min, state: &[u8]| {
        bench.put_back(&image);
        let power_on = PowerOn { start: Start::Load, reset_count: 1, clock_ms_min };
        bench.engine.resume_volatile(&mut bench.nv, power_on, state)
    };
    resume(&mut bench, 0, &volatile[..len]).unwrap();
    assert_eq!(tpm::pcr_of(&bench.send(&tpm::pcr_read(3)).ok()), pcr);
    let after = bench.clock();
    assert_eq!((after.reset_count, after.safe), (1, true));
    assert!(after.clock_ms >= before.clock_ms);
    // A state that would turn the clock back, or is damaged, is not resumed.
    let refused = Err(EngineFault::StateRefused);
    assert_eq!(resume(&mut bench, 1 << 40, &volatile[..len]), refused);
    assert_eq!(resume(&mut bench, 0, &volatile[..len - 1]), refused);
    assert_eq!(resume(&mut bench, 0, &[]), refused);
}

#[test]
fn a_measured_launch_sets_established_and_only_high_localities_clear_it() {
    let mut bench = Bench::started();
    assert!(!bench.engine.established());
    bench.engine.hash_start(&mut bench.nv).unwrap();
    bench.engine.hash_data(&mut bench.nv, b"code that was measured").unwrap();
    bench.engine.hash_end(&mut bench.nv).unwrap();
    assert!(bench.engine.established());
    let drtm = tpm::pcr_of(&bench.send(&tpm::pcr_read(17)).ok()).to_vec();
    assert!(drtm != [0; 32] && drtm != [0xFF; 32]);
    for locality in [Locality::Zero, Locality::One, Locality::Two] {
        assert_eq!(bench.engine.reset_established(locality), Err(EngineFault::LocalityRefused));
    }
    bench.engine.reset_established(Locality::Four).unwrap();
    assert!(!bench.engine.established());
}

#[test]
fn a_command_has_the_locality_it_came_from() {
    let mut bench = Bench::started();
    // PCR 20 is reset from locality 2 on, PCR 16 from any (PTP, table of PCR attributes).
    let reset = |pcr| tpm::authorized(0x13D, &[pcr], &[b""], &[]);
    assert_eq!(bench.send_at(Locality::Zero, &reset(20)).unwrap().code(), 0x907, "TPM_RC_LOCALITY");
    bench.send_at(Locality::Two, &reset(20)).unwrap().ok();
    bench.send_at(Locality::Zero, &reset(16)).unwrap().ok();
}
