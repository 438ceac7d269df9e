//! What an adoption costs: lines, allocations, stack.

use crate::board::on_board;
use crate::{STACK_BYTES, Svsm, WATCH, Watch, attest_op::SINGLE, tpm};
use husk_stubs::Stack;
use husk_svsm_example::glue::{self, STACK};
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

/// Lines of the file that an SVSM adds, every one counted.
const GLUE_LINES_MAX: usize = 200;
/// What boot and calls may take of the kernel's stack, in bytes; COCONUT-SVSM's has 32 KiB.
const KERNEL_STACK_BYTES_MAX: usize = 16 * 1024;
/// What is painted below a measured call, in bytes.
const PAINTED_BYTES: usize = 256 * 1024;
const PAINT: u8 = 0xA5;

#[test]
fn the_glue_has_at_most_200_lines() {
    let lines = include_str!("../../src/glue.rs").lines().count();
    assert!(lines <= GLUE_LINES_MAX, "{lines} lines");
}

type Ask = fn(&Svsm);

/// What a guest may ask for, dearest first: a key of RSA, a commit that needs a new session with the broker, an attestation.
const CALLS: [(&str, Ask); 6] = [
    ("TPM2_CreatePrimary, RSA-2048", |svsm| {
        svsm.send(&tpm::create_primary(tpm::OWNER, &tpm::rsa_storage_template(&[]))).ok();
    }),
    ("TPM2_CreatePrimary, ECC P-256", |svsm| {
        svsm.send(&tpm::create_primary(tpm::OWNER, &tpm::ecc_storage_template())).ok();
    }),
    ("TPM2_SelfTest", |svsm| {
        svsm.send(&tpm::self_test()).ok();
    }),
    ("TPM2_NV_Increment, anchored", |svsm| assert_eq!(svsm.increment(), 0)),
    ("TPM2_NV_Increment, in a new session with the broker", |svsm| {
        on_board(|board| board.restart_broker = true);
        assert_eq!(svsm.increment(), 0);
    }),
    ("SVSM_ATTEST_SINGLE_SERVICE", |svsm| drop(svsm.attest(SINGLE, 1))),
];

#[test]
fn neither_boot_nor_call_allocates_anything() {
    let svsm = Svsm::new();
    let config = on_board(|board| {
        board.launch();
        board.config()
    });
    let memory = Box::leak(Box::new(glue::EMPTY));
    let counted = allocation_counter::measure(|| glue::boot(memory, &config).expect("it boots"));
    assert_eq!(counted.count_total, 0, "the boot");
    svsm.send(&tpm::startup_clear()).ok();
    svsm.define_counter();
    for (what, ask) in CALLS {
        WATCH.set(Watch::Allocations(u64::MAX));
        ask(&svsm);
        assert_eq!(WATCH.replace(Watch::Nothing), Watch::Allocations(0), "{what}");
    }
}

/// The lowest address of memory that is painted, right below the frame of the caller.
#[inline(never)]
fn paint() -> usize {
    let mut area = [PAINT; PAINTED_BYTES];
    black_box(&mut area);
    area.as_ptr().addr()
}

/// How much of the stack `act` takes below its caller, in bytes.
#[inline(never)]
fn depth_of(act: impl FnOnce()) -> usize {
    let bottom = paint();
    let mark = black_box(0_u8);
    let top = (&raw const mark).addr();
    act();
    let mut area = vec![0; top - bottom];
    let memory = File::open("/proc/self/mem").expect("this process' memory");
    memory.read_exact_at(&mut area, bottom as u64).expect("its stack");
    area.len() - area.iter().take_while(|byte| **byte == PAINT).count()
}

/// How deep the lent stack has ever been, in bytes.
fn lent_peak() -> usize {
    STACK.lock().as_ref().expect("a stack was lent").usage().peak
}

#[test]
fn boot_and_calls_take_at_most_16_kib_of_the_kernels_stack_and_half_of_the_lent_one() {
    let svsm = Svsm::new();
    *STACK.lock() = Stack::new(vec![0; STACK_BYTES].leak());
    let config = on_board(|board| {
        board.launch();
        board.config()
    });
    let memory = Box::leak(Box::new(glue::EMPTY));
    let boot = measured(|| glue::boot(memory, &config).expect("it boots"));
    println!("boot: {boot} bytes of the kernel's stack, {} of the lent one", lent_peak());
    assert!(boot <= KERNEL_STACK_BYTES_MAX && lent_peak() <= STACK_BYTES / 2);
    svsm.send(&tpm::startup_clear()).ok();
    svsm.define_counter();
    for (what, ask) in CALLS {
        *STACK.lock() = Stack::new(vec![0; STACK_BYTES].leak());
        WATCH.set(Watch::Stack(usize::MAX));
        ask(&svsm);
        let Watch::Stack(depth) = WATCH.replace(Watch::Nothing) else { panic!("{what}: not measured") };
        println!("{what}: {depth} bytes of the kernel's stack, {} of the lent one", lent_peak());
        assert!(depth > 0 && depth <= KERNEL_STACK_BYTES_MAX, "{what}");
        assert!(lent_peak() > depth && lent_peak() <= STACK_BYTES / 2, "{what}");
    }
}

/// [`depth_of`] on a stack that is large enough to be painted.
pub(crate) fn measured(act: impl FnOnce() + Send) -> usize {
    let mut depth = 0;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(4 * PAINTED_BYTES);
        let run = thread.spawn_scoped(scope, || depth_of(act)).expect("a thread");
        depth = run.join().expect("it was measured");
    });
    depth
}
