//! Laws of the whole with the real engine: what was acknowledged stays, time and counts go forward, a commit is small.
#![expect(clippy::expect_used, reason = "a test stops at the first surprise")]

#[path = "support/disk.rs"]
mod disk;
#[path = "support/tpm.rs"]
mod tpm;
#[path = "support/vtpm_bench.rs"]
mod vtpm_bench;

use std::collections::BTreeSet;
use vtpm_bench::{Bench, Machine};

const COUNTER: u32 = 0x0150_0001;
const DATA: u32 = 0x0150_0002;
const BITS: u32 = 0x0150_0003;
const EXTENDED: u32 = 0x0150_0004;
const KEY: u32 = 0x8100_0001;
const PLAIN: u32 = tpm::NV_AUTH_AND_OWNER | tpm::NV_NO_DA;
/// TPM_NT_BITS and TPM_NT_EXTEND, in place.
const NT_BITS: u32 = 0x20;
const NT_EXTEND: u32 = 0x40;
/// TPM_PT_PERMANENT: which authorizations are set.
const PT_PERMANENT: u32 = 0x200;
const HOUR_MS: u64 = 60 * 60 * 1000;

fn clock_set(clock_ms: u64) -> Vec<u8> {
    tpm::authorized(0x128, &[tpm::OWNER], &[b""], &clock_ms.to_be_bytes())
}

fn nv_set_bits(index: u32, bits: u64) -> Vec<u8> {
    tpm::authorized(0x135, &[index, index], &[b""], &bits.to_be_bytes())
}

fn nv_extend(index: u32, data: &[u8]) -> Vec<u8> {
    tpm::authorized(0x136, &[index, index], &[b""], &tpm::Bytes::new().sized(data).0)
}

/// What a guest can see of the durable state, by commands that change none of it.
fn view(machine: &mut Machine<'_>) -> Vec<Vec<u8>> {
    let mut seen =
        vec![machine.send(&tpm::read_public(KEY)).0, machine.send(&tpm::capability(6, PT_PERMANENT, 1)).0];
    for (index, bytes) in [(COUNTER, 8), (DATA, 64), (BITS, 8), (EXTENDED, 32)] {
        seen.push(machine.send(&tpm::nv_read_public(index)).0);
        seen.push(machine.send(&tpm::nv_read_by_owner(index, bytes)).0);
    }
    seen
}

/// Every kind of change to NV, one after the other.
fn changes(key: u32) -> Vec<Vec<u8>> {
    vec![
        tpm::nv_define(COUNTER, PLAIN | tpm::NV_COUNTER, 8, b""),
        tpm::nv_increment(COUNTER, b""),
        tpm::nv_increment(COUNTER, b""),
        tpm::nv_define(DATA, PLAIN, 64, b""),
        tpm::nv_write(DATA, b"", &[1; 64]),
        tpm::nv_write(DATA, b"", &[2; 64]),
        tpm::nv_define(BITS, PLAIN | NT_BITS, 8, b""),
        nv_set_bits(BITS, 1),
        nv_set_bits(BITS, 1 << 63),
        tpm::nv_define(EXTENDED, PLAIN | NT_EXTEND, 32, b""),
        nv_extend(EXTENDED, b"one"),
        nv_extend(EXTENDED, b"two"),
        tpm::evict(key, KEY),
        tpm::change_auth_of_hierarchy(tpm::ENDORSEMENT, b"", b"endorsement"),
        tpm::change_auth_of_hierarchy(tpm::LOCKOUT, b"", b"lockout"),
        tpm::nv_increment(COUNTER, b""),
        tpm::nv_undefine(BITS),
        tpm::evict(KEY, KEY),
        tpm::clear(),
        tpm::nv_define(COUNTER, PLAIN | tpm::NV_COUNTER, 8, b""),
        tpm::nv_increment(COUNTER, b""),
    ]
}

#[test]
fn every_acknowledged_change_outlives_a_crash_and_none_is_seen_by_half() {
    for block in [512, 4096] {
        let mut bench = Bench::new(1, block);
        let (mut views, mut recordings) = (Vec::new(), Vec::new());
        let mut machine = bench.start();
        let key = machine.send(&tpm::create_primary(tpm::OWNER, &tpm::ecc_signing_template(false)));
        views.push(view(&mut machine));
        for change in changes(key.ok().handle()) {
            let (reply, recording) = machine.recorded(|machine| machine.send(&change));
            reply.ok();
            // What tries lockout has its attempt recorded first.
            let tries_lockout = change[10..14] == tpm::LOCKOUT.to_be_bytes();
            assert_eq!(recording.commits(), 1 + usize::from(tries_lockout), "{change:x?}");
            recordings.push(recording);
            views.push(view(&mut machine));
            let [.., before, after] = views.as_slice() else { unreachable!() };
            assert_ne!(before, after, "{change:x?}");
        }
        drop(machine);
        for (step, recording) in recordings.iter().enumerate() {
            recording.crashes(block, |image, flushed| {
                let found = view(&mut bench.start_on(image));
                let acknowledged = flushed == recording.commits();
                assert!(
                    found == views[step + 1] || (!acknowledged && found == views[step]),
                    "change {step} on blocks of {block}, {flushed} flushed"
                );
            });
        }
    }
}

#[test]
fn a_change_that_follows_a_crash_is_as_safe_as_any() {
    let mut bench = Bench::new(2, 512);
    let mut machine = bench.start();
    machine.send(&tpm::nv_define(COUNTER, PLAIN | tpm::NV_COUNTER, 8, b"")).ok();
    machine.send(&tpm::nv_increment(COUNTER, b"")).ok();
    drop(machine);
    let read = |machine: &mut Machine<'_>| {
        let reply = machine.send(&tpm::nv_read(COUNTER, b"", 8)).ok();
        u64::from_be_bytes(tpm::nv_data_of(&reply).try_into().unwrap())
    };
    let first = read(&mut bench.start());
    for last in first..first + 8 {
        // Each crash is in the middle of the last: Startup, then one increment, cut at every write.
        let mut machine = bench.launch();
        let ((), recording) = machine.recorded(|machine| {
            machine.send(&tpm::startup_clear()).ok();
            machine.send(&tpm::nv_increment(COUNTER, b"")).ok();
        });
        drop(machine);
        let commits = recording.commits();
        recording.crashes(512, |image, flushed| {
            let found = read(&mut bench.start_on(image));
            assert!((last..=last + 1).contains(&found), "{found} after {last}");
            assert!(flushed < commits || found == last + 1, "an acknowledged increment is lost");
        });
        bench.disk.image = recording.after(commits);
    }
}

#[test]
fn clock_never_goes_back_wherever_the_plug_is_pulled() {
    let mut bench = Bench::new(3, 512);
    let mut last = 0;
    for boot in 0..30_u64 {
        let mut machine = bench.start();
        let mut shown = |machine: &mut Machine<'_>| {
            let clock_ms = machine.clock().clock_ms;
            assert!(clock_ms >= last, "boot {boot}: {clock_ms} after {last}");
            last = clock_ms;
        };
        shown(&mut machine);
        match boot % 6 {
            // Nothing is committed between two looks.
            0 => {}
            // The owner sets it far beyond what was reserved.
            1 => {
                let ahead = machine.clock().clock_ms + 9 * HOUR_MS;
                machine.send(&clock_set(ahead)).ok();
            }
            2 => machine.reset(),
            3 => {
                machine.send(&tpm::shutdown_clear()).ok();
            }
            4 => {
                machine.send(&tpm::nv_define(DATA, PLAIN, 8, b"")).ok();
                machine.send(&tpm::nv_undefine(DATA)).ok();
            }
            _ => {
                machine.power_off();
                machine.reset();
            }
        }
        shown(&mut machine);
        if boot % 5 == 4 {
            machine.shut_down();
        }
    }
    // TPM2_Clear sets it to zero (TPM 2.0 part 3, TPM2_Clear); from there on it goes forward again.
    let mut machine = bench.start();
    machine.send(&tpm::clear()).ok();
    let cleared = machine.clock().clock_ms;
    assert!(cleared < HOUR_MS);
    drop(machine);
    assert!(bench.start().clock().clock_ms >= cleared);
}

#[test]
fn clock_is_not_shown_before_its_bound_is_durable() {
    let mut bench = Bench::new(4, 512);
    let mut machine = bench.start();
    let ahead = machine.clock().clock_ms + 30 * 24 * HOUR_MS;
    machine.send(&clock_set(ahead)).ok();
    let (clock, recording) = machine.recorded(Machine::clock);
    drop(machine);
    recording.crashes(512, |image, flushed| {
        if flushed == recording.commits() {
            assert!(bench.start_on(image).clock().clock_ms >= clock.clock_ms);
        }
    });
}

#[test]
fn an_orderly_end_leaves_clock_where_it_was_and_safe() {
    let mut bench = Bench::new(5, 512);
    let mut machine = bench.start();
    machine.send(&clock_set(HOUR_MS)).ok();
    let first = machine.clock();
    machine.send(&tpm::shutdown_clear()).ok();
    machine.shut_down();
    let mut machine = bench.start();
    let second = machine.clock();
    assert!(second.safe && second.clock_ms < first.clock_ms + HOUR_MS, "{first:?} {second:?}");
    machine.reset();
    let third = machine.clock();
    assert!(third.clock_ms >= second.clock_ms && third.clock_ms < second.clock_ms + HOUR_MS, "{third:?}");
    // After a crash Clock is at its bound, and says that it may have been seen before.
    drop(machine);
    let fourth = bench.start().clock();
    assert!(!fourth.safe && fourth.clock_ms >= third.clock_ms, "{fourth:?}");
}

#[test]
fn a_reset_count_is_never_seen_twice() {
    let mut bench = Bench::new(6, 512);
    let mut seen = BTreeSet::new();
    let mut shown = |machine: &mut Machine<'_>| {
        let clock = machine.clock();
        assert!(seen.insert(clock.reset_count), "{clock:?}");
        assert_eq!(clock.restart_count, 0);
    };
    for boot in 0..12 {
        let mut machine = bench.start();
        shown(&mut machine);
        for _ in 0..boot % 3 {
            machine.reset();
            shown(&mut machine);
        }
        match boot % 4 {
            0 => drop(machine),
            1 => {
                machine.send(&tpm::shutdown_state()).ok();
            }
            2 => {
                machine.send(&tpm::shutdown_clear()).ok();
                machine.shut_down();
            }
            _ => machine.shut_down(),
        }
    }
}

#[test]
fn the_first_banks_are_due_until_a_reset_has_kept_that_they_are_not() {
    let mut bench = Bench::new(14, 512);
    let mut machine = bench.start();
    assert!(machine.are_banks_due());
    machine.give_banks_away();
    // Power is lost before the reset: the next launch allocates.
    drop(machine);
    let mut machine = bench.start();
    assert!(machine.are_banks_due());
    machine.give_banks_away();
    machine.reset();
    assert!(!machine.are_banks_due());
    machine.send(&tpm::clear()).ok();
    drop(machine);
    let mut machine = bench.start();
    assert_eq!(
        (machine.clock().reset_count, machine.are_banks_due()),
        (1, false),
        "TPM2_Clear brings no firmware's choice back"
    );
}

#[test]
fn clear_begins_a_new_count_of_its_own() {
    let mut bench = Bench::new(7, 512);
    for _ in 0..3 {
        bench.start().reset();
    }
    let before = bench.start().clock().reset_count;
    let mut machine = bench.start();
    let (reply, recording) = machine.recorded(|machine| machine.send(&tpm::clear()));
    reply.ok();
    assert_eq!(machine.clock().reset_count, 0, "TPM 2.0 part 3, TPM2_Clear");
    drop(machine);
    recording.crashes(512, |image, flushed| {
        let count = bench.start_on(image).clock().reset_count;
        assert!(count == 1 || (flushed == 0 && count > before), "{count} after {flushed} flushes");
    });
    bench.disk.image = recording.after(1);
    let mut seen = BTreeSet::from([0]);
    for _ in 0..6 {
        let mut machine = bench.start();
        assert!(seen.insert(machine.clock().reset_count));
        machine.reset();
        assert!(seen.insert(machine.clock().reset_count));
    }
}

/// Runs `command` until it makes a checkpoint, at the start of one of the two areas; how many commits lay before, each of
/// one write of one unit.
fn appends_until_a_checkpoint(
    machine: &mut Machine<'_>,
    unit: usize,
    mut command: impl FnMut() -> Vec<u8>,
) -> usize {
    for commits in 0.. {
        let (reply, recording) = machine.recorded(|machine| machine.send_once(&command()));
        reply.ok();
        let writes = recording.writes();
        assert_eq!((writes.len(), recording.commits()), (1, 1), "one write, one flush, always");
        let (at, bytes) = writes[0];
        if at.is_multiple_of(machine.disk.image.len() / 2) {
            assert!(bytes <= 8192, "a checkpoint of a small state has {bytes} bytes");
            return commits;
        }
        assert_eq!(bytes, unit);
    }
    unreachable!()
}

#[test]
fn a_small_change_is_one_write_of_one_unit_and_one_flush() {
    for (block, unit) in [(512, 512), (4096, 4096)] {
        let mut bench = Bench::new(8, block);
        let mut machine = bench.start();
        machine.send(&tpm::nv_define(COUNTER, PLAIN | tpm::NV_COUNTER, 8, b"")).ok();
        machine.send(&tpm::nv_define(DATA, PLAIN, 64, b"")).ok();
        machine.send(&tpm::nv_increment(COUNTER, b"")).ok();
        let mut byte = 0_u8;
        let mut write = move || {
            byte = byte.wrapping_add(1);
            tpm::nv_write(DATA, b"", &[byte; 64])
        };
        appends_until_a_checkpoint(&mut machine, unit, || tpm::nv_increment(COUNTER, b""));
        for _ in 0..2 {
            let increments =
                appends_until_a_checkpoint(&mut machine, unit, || tpm::nv_increment(COUNTER, b""));
            let writes = appends_until_a_checkpoint(&mut machine, unit, &mut write);
            assert!(increments >= 64 && writes >= 64, "{increments} {writes}");
        }
    }
}

#[test]
fn what_changes_nothing_writes_nothing() {
    let mut bench = Bench::new(9, 512);
    let mut machine = bench.start();
    machine.send(&tpm::nv_define(DATA, PLAIN, 64, b"")).ok();
    machine.send(&tpm::nv_write(DATA, b"", &[7; 64])).ok();
    let key = machine.send(&tpm::create_primary(tpm::OWNER, &tpm::ecc_signing_template(false))).ok().handle();
    machine.send(&tpm::evict(key, KEY)).ok();
    machine.send(&tpm::flush(key)).ok();
    machine.disk.take_counts();
    let session = machine.send(&tpm::start_session(tpm::SE_POLICY)).ok().handle();
    let commands = [
        tpm::self_test(),
        tpm::random(32),
        tpm::capability(6, 0x100, 60),
        tpm::pcr_extend(10, &[3; 32]),
        tpm::pcr_event(11, b"event"),
        tpm::pcr_read(10),
        tpm::read_clock(),
        tpm::policy_pcr(session, 10),
        tpm::policy_digest(session),
        tpm::flush(session),
        tpm::read_public(KEY),
        tpm::nv_read_public(DATA),
        // These may change NV and do not.
        tpm::nv_read(DATA, b"", 64),
        tpm::nv_write(DATA, b"", &[7; 64]),
        tpm::quote(KEY, b"nonce", 10),
        // And what is refused.
        tpm::nv_read(DATA, b"wrong", 64),
        tpm::nv_increment(DATA, b""),
        tpm::plain(0x7FFF, &[]),
    ];
    for command in commands {
        machine.send(&command);
        let counts = machine.disk.take_counts();
        assert_eq!((counts.writes, counts.flushes), (0, 0), "{command:x?}");
    }
}

#[test]
fn a_saved_state_is_no_way_around_a_reset() {
    let mut bench = Bench::new(10, 512);
    let mut machine = bench.start();
    machine.send(&tpm::pcr_extend(10, &[3; 32])).ok();
    let measured = tpm::pcr_of(&machine.send(&tpm::pcr_read(10)).ok()).to_vec();
    machine.send(&tpm::shutdown_state()).ok();
    drop(machine);
    let mut machine = bench.launch();
    assert_ne!(machine.send(&tpm::startup_state()).code(), 0, "PCRs start anew with the machine");
    machine.send(&tpm::startup_clear()).ok();
    assert_ne!(tpm::pcr_of(&machine.send(&tpm::pcr_read(10)).ok()), measured);
}
