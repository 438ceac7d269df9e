//! Laws of authorization attempts: whoever throws the record of a wrong guess away has paid for it all the same.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

#[path = "support/disk.rs"]
mod disk;
#[path = "support/tpm.rs"]
mod tpm;
#[path = "support/vtpm_bench.rs"]
mod vtpm_bench;

use vtpm_bench::{Bench, Machine, RETRY};

const PIN: u32 = 0x0150_0010;
/// Of a PIN index written and read by the owner, and read with the PIN.
const PIN_ATTRIBUTES: u32 = tpm::NV_PIN_FAIL | tpm::NV_NO_DA | 0x0002_0002 | 0x0004_0000;
const TRIES: u32 = 4;
/// The parent of the sealed object.
const PARENT: u32 = 0x8100_0001;
const BLOCK: usize = 512;

/// A wrong authorization in the first session: TPM_RC_AUTH_FAIL with DA protection, TPM_RC_BAD_AUTH without.
const AUTH_FAIL: u32 = 0x98E;
const BAD_AUTH: u32 = 0x9A2;
/// TPM_RC_LOCKOUT.
const LOCKED_OUT: u32 = 0x921;

fn define_pin(machine: &mut Machine<'_>, index: u32) {
    machine.send(&tpm::nv_define(index, PIN_ATTRIBUTES, 8, b"pin")).ok();
    machine.send(&tpm::nv_write_by_owner(index, &tpm::pin(0, TRIES))).ok();
}

/// A disk on which a TPM with a PIN index was shut down in order.
fn with_pin(seed: u64) -> Bench {
    let mut bench = Bench::new(seed, BLOCK);
    let mut machine = bench.start();
    define_pin(&mut machine, PIN);
    machine.shut_down();
    bench
}

fn pin_count_of(machine: &mut Machine<'_>, index: u32) -> u32 {
    let reply = machine.send(&tpm::nv_read_by_owner(index, 8)).ok();
    u32::from_be_bytes(tpm::nv_data_of(&reply)[..4].try_into().unwrap())
}

fn pin_count(machine: &mut Machine<'_>) -> u32 {
    pin_count_of(machine, PIN)
}

fn guess(machine: &mut Machine<'_>) -> u32 {
    machine.send(&tpm::nv_read(PIN, b"guess", 8)).code()
}

fn right_pin(machine: &mut Machine<'_>) -> u32 {
    machine.send(&tpm::nv_read(PIN, b"pin", 8)).code()
}

#[test]
fn a_pin_guess_is_counted_wherever_the_power_fails() {
    let mut bench = with_pin(1);
    let (code, recording) = bench.start().recorded(guess);
    assert_eq!((code, recording.commits()), (BAD_AUTH, 2), "the attempt, and its verdict");
    let mut counts = [Vec::new(), Vec::new(), Vec::new()];
    recording.crashes(BLOCK, |image, flushed| counts[flushed].push(pin_count(&mut bench.start_on(image))));
    let [not_judged, judged, answered] = counts;
    assert!(not_judged.iter().all(|count| *count <= 1), "{not_judged:?}");
    assert!(judged.len() > 1 && judged.iter().all(|count| *count == 1), "{judged:?}");
    assert_eq!(answered, [1], "and none is counted twice");
}

#[test]
fn an_enemy_who_rolls_every_pin_guess_back_runs_out_of_tries() {
    let mut bench = with_pin(2);
    for tried in 0..TRIES {
        let mut machine = bench.start();
        assert_eq!(pin_count(&mut machine), tried);
        let (code, recording) = machine.recorded(guess);
        assert_eq!(code, BAD_AUTH);
        bench.disk.image = recording.after(1);
    }
    let mut machine = bench.start();
    assert_eq!(pin_count(&mut machine), TRIES);
    assert_ne!(right_pin(&mut machine), 0, "not even the right one opens it");
}

#[test]
fn an_enemy_who_rolls_a_guess_at_lockout_back_has_used_it_up() {
    let mut bench = Bench::new(3, BLOCK);
    let mut machine = bench.start();
    machine.send(&tpm::lockout_parameters(b"", 32, 1000, 1000)).ok();
    machine.send(&tpm::change_auth_of_hierarchy(tpm::LOCKOUT, b"", b"secret")).ok();
    machine.shut_down();
    let before = bench.disk.image.clone();
    let guess = |machine: &mut Machine<'_>| machine.send(&tpm::lockout_reset(b"guess")).code();
    let (code, recording) = bench.start().recorded(guess);
    assert_eq!((code, recording.commits()), (AUTH_FAIL, 2));
    let right = |machine: &mut Machine<'_>| machine.send(&tpm::lockout_reset(b"secret")).code();
    recording.crashes(BLOCK, |image, flushed| {
        let code = right(&mut bench.start_on(image));
        assert!(code == LOCKED_OUT || (code, flushed) == (0, 0), "0x{code:x} after {flushed} flushes");
    });
    assert_eq!(right(&mut bench.start_on(&before)), 0, "without the guess nothing is charged");
}

#[test]
fn an_enemy_who_rolls_a_guess_at_an_object_back_adds_to_failed_tries() {
    let mut bench = Bench::new(4, BLOCK);
    let mut machine = bench.start();
    machine.send(&tpm::lockout_parameters(b"", TRIES, 1000, 1000)).ok();
    let parent = machine.send(&tpm::create_primary(tpm::OWNER, &tpm::ecc_storage_template())).ok().handle();
    machine.send(&tpm::evict(parent, PARENT)).ok();
    let sealed = machine.send(&tpm::create_sealed(PARENT, 0x52, b"right", b"", b"data")).ok();
    machine.shut_down();
    for tried in 0..TRIES {
        let mut machine = bench.start();
        assert_eq!(machine.failed_tries(), tried);
        let object = machine.send(&tpm::load(PARENT, &sealed)).ok().handle();
        assert_eq!(
            machine.send_once(&tpm::unseal(object, b"wrong")).code(),
            RETRY,
            "the try is stored first"
        );
        let (code, recording) =
            machine.recorded(|machine| machine.send_once(&tpm::unseal(object, b"wrong")).code());
        assert_eq!(code, AUTH_FAIL);
        bench.disk.image = recording.after(0);
    }
    let mut machine = bench.start();
    assert_eq!(machine.failed_tries(), TRIES);
    let object = machine.send(&tpm::load(PARENT, &sealed)).ok().handle();
    assert_eq!(machine.send(&tpm::unseal(object, b"right")).code(), LOCKED_OUT);
}

#[test]
fn an_answered_use_of_lockout_is_not_charged_after_a_crash() {
    let mut bench = Bench::new(10, BLOCK);
    let mut machine = bench.start();
    machine.send(&tpm::change_auth_of_hierarchy(tpm::LOCKOUT, b"", b"secret")).ok();
    let parameters = tpm::lockout_parameters(b"secret", 5, 1000, 1000);
    // The second of each changes nothing.
    let reset = tpm::lockout_reset(b"secret");
    for command in [&parameters, &parameters, &reset, &reset] {
        machine.send(command).ok();
        let trial = machine.send(&tpm::start_session(tpm::SE_TRIAL)).ok().handle();
        machine.send(&tpm::policy_secret(tpm::LOCKOUT, trial, b"secret")).ok();
        drop(machine);
        machine = bench.start();
    }
}

#[test]
fn an_orderly_shutdown_closes_attempts() {
    let mut bench = with_pin(5);
    for (tried, count) in [(right_pin as fn(&mut Machine<'_>) -> u32, 0), (guess, 1), (guess, 2)] {
        let mut machine = bench.start();
        tried(&mut machine);
        machine.shut_down();
        assert_eq!(pin_count(&mut bench.start()), count);
    }
    // Power was cut by the machine before the process ended: still in order.
    let mut machine = bench.start();
    guess(&mut machine);
    machine.power_off();
    machine.shut_down();
    assert_eq!(pin_count(&mut bench.start()), 3);
}

#[test]
fn a_reset_of_the_machine_charges_no_attempt_whose_verdict_is_durable() {
    let mut bench = with_pin(6);
    let mut machine = bench.start();
    machine.send(&tpm::lockout_reset(b"")).ok();
    assert_eq!(right_pin(&mut machine), 0);
    machine.reset();
    assert_eq!(pin_count(&mut machine), 0);
    machine.send(&tpm::lockout_reset(b"")).ok();
    assert_eq!(guess(&mut machine), BAD_AUTH);
    machine.reset();
    assert_eq!(pin_count(&mut machine), 1);
    drop(machine);
    assert_eq!(pin_count(&mut bench.start()), 1, "nothing was left open");
}

#[test]
fn only_startup_charges_and_nothing_before_it_forgets() {
    let mut bench = with_pin(7);
    let (_, recording) = bench.start().recorded(guess);
    bench.disk.image = recording.after(1);
    // Booted and shut down in order, never started up: the attempt stays open.
    bench.launch().shut_down();
    let mut machine = bench.launch();
    machine.power_off();
    machine.shut_down();
    let mut machine = bench.launch();
    machine.reset();
    assert_eq!(pin_count(&mut machine), 1);
}

#[test]
fn a_pin_that_is_right_costs_one_commit_more_once_in_a_boot() {
    let mut bench = with_pin(8);
    for _ in 0..2 {
        let mut machine = bench.start();
        assert_eq!(machine.commits(|machine| assert_eq!(right_pin(machine), 0)), 1);
        assert_eq!(machine.commits(|machine| assert_eq!(right_pin(machine), 0)), 0);
        assert_eq!(machine.commits(|machine| assert_eq!(guess(machine), BAD_AUTH)), 1);
        assert_eq!(
            machine.commits(|machine| assert_eq!(right_pin(machine), 0)),
            2,
            "the count falls to zero"
        );
        assert_eq!(machine.commits(|machine| assert_eq!(right_pin(machine), 0)), 1);
        assert_eq!(machine.commits(|machine| assert_eq!(right_pin(machine), 0)), 0);
        machine.shut_down();
    }
}

#[test]
fn there_is_no_number_of_pin_indices_that_a_boot_cannot_use() {
    let mut bench = Bench::new(9, BLOCK);
    let mut machine = bench.start();
    let indices: Vec<u32> = (PIN..).take(20).collect();
    for index in &indices {
        define_pin(&mut machine, *index);
        machine.send(&tpm::nv_read(*index, b"pin", 8)).ok();
    }
    // The newest is open whatever its number.
    let last = indices[19];
    let wrong = tpm::nv_read(last, b"guess", 8);
    drop(machine);
    for index in &indices {
        assert!(pin_count_of(&mut bench.start(), *index) <= 1);
    }
    let charged = pin_count_of(&mut bench.start(), last);
    for tried in charged..TRIES {
        let mut machine = bench.start();
        assert_eq!(pin_count_of(&mut machine, last), tried);
        for index in indices.iter().filter(|index| **index != last) {
            machine.send(&tpm::nv_read(*index, b"pin", 8)).ok();
        }
        let (code, recording) = machine.recorded(|machine| machine.send(&wrong).code());
        assert_eq!(code, BAD_AUTH);
        bench.disk.image = recording.after(1);
    }
    assert_ne!(bench.start().send(&tpm::nv_read(last, b"pin", 8)).code(), 0);
}
