//! The ordinary test: seeds, the committed corpus, and mutations of both, the same each time.

use crate::mutator::{Dice, mutated};
use crate::{TARGETS, Target, target};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// How much longer `cargo xtask test --all` mutates.
const LONG: usize = 20;

/// The longest input that is tried, and the longest file of the corpus, in bytes.
const INPUT_BYTES_MAX: usize = 4096;

/// The most files of one target's corpus.
const FILES_MAX: usize = 200;

/// Where a target's corpus lies.
fn folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// The corpus in a fixed order.
fn committed(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder(target)).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Runs one input; `which` says where it is from.
fn tried(target: &Target, data: &[u8], which: &str) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(data))).is_err() {
        let kept = kept(target, data);
        panic!(
            "{name}: {which} breaks a law; again: cargo run -p husk-fuzz --bin {name} {kept}",
            name = target.name,
            kept = kept.display()
        );
    }
}

fn kept(target: &Target, data: &[u8]) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/husk/fuzz/broken");
    std::fs::create_dir_all(&folder).unwrap();
    let kept = folder.join(target.name);
    std::fs::write(&kept, data).unwrap();
    kept
}

fn replay(name: &str) {
    let target = target(name);
    let mut inputs = (target.seeds)();
    for (number, seed) in inputs.iter().enumerate() {
        tried(target, seed, &format!("seed {number}"));
    }
    for (path, bytes) in committed(target) {
        tried(target, &bytes, &path.display().to_string());
        inputs.push(bytes);
    }
    let times = if std::env::var_os("HUSK_LONG").is_some() { LONG } else { 1 };
    let mut dice = Dice(1);
    for number in 0..target.mutations * times {
        tried(target, &mutated(&inputs, INPUT_BYTES_MAX, &mut dice), &format!("mutation {number}"));
    }
}

macro_rules! each_target {
    ($($name:ident)+) => {
        $(#[test] fn $name() { replay(stringify!($name)); })+
        const TRIED: &[&str] = &[$(stringify!($name)),+];
    };
}

each_target! {
    command
    crb_step
    crb_trapped
    crb_shared
    vtpmd_data
    vtpmd_mssim
    vtpmd_control
    volume_open
    volume_delta
    release_wire
    release_client
    release_backup
    release_orders
    kbs_answers
    broker_frames
    broker_unlock
    broker_http
    broker_policy
    broker_admin
    report
    certificate
    guest_message
    launch_config
    permall
    relay_frames
    image_igvm
    image_ovmf
    svsm_call
    manifest
    payload_header
    flash
    guest_disk
    quote
    ek_certificate
    attest_frames
    attest_tpm
}

#[test]
fn every_target_has_a_program_a_small_corpus_and_a_test() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, TRIED);
    for target in TARGETS {
        let program = format!("fuzz_targets/{}.rs", target.name);
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(program).exists(), "{}", target.name);
        let corpus = committed(target);
        assert!(corpus.len() <= FILES_MAX, "{}: {} files", folder(target).display(), corpus.len());
        assert!(corpus.iter().all(|(_, bytes)| bytes.len() <= INPUT_BYTES_MAX), "{}", target.name);
    }
}
