//! A full disk: said in as many words, nothing acknowledged is lost, and it goes on once there is room.

use crate::bench::{A, Bench, LEASE_MS, Place, VM, ask, create};
use husk::release::Head;
use husk_broker::rules::{Move, Reply, Request};
use husk_broker::store::StoreError;
use std::fs;
use std::path::Path;
use std::process::Command;

const ROOM: &str = "HUSK_TEST_SMALL_DISK";

/// This program again, with a disk of 400 KiB that only it sees.
#[test]
fn a_full_disk_loses_nothing_and_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let script =
        "mount -t tmpfs -o size=400k none \"$1\" && exec \"$2\" --exact full::on_a_small_disk --nocapture";
    let run = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script, "sh"])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .env(ROOM, folder.path())
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && said.contains("the disk was full"), "{said}");
}

/// Not a law by itself: what the program above runs. Without its disk it has nothing to do.
#[test]
fn on_a_small_disk() {
    let Some(folder) = std::env::var_os(ROOM) else { return };
    let folder = Path::new(&folder);
    let bench = Bench::at(Place::file_in(folder));
    let mut serving = bench.serving();
    create(&mut serving, A);
    let ballast = folder.join("ballast");
    fs::write(&ballast, vec![7; 1 << 20]).unwrap_err();
    let numbered = |sequence: u64| {
        let mut digest = [1; 48];
        if sequence > 1 {
            digest[..8].copy_from_slice(&sequence.to_le_bytes());
        }
        Head { sequence, digest }
    };
    let to = |sequence: u64| {
        let (previous, new) = (numbered(sequence), numbered(sequence + 1));
        Request::Anchor(Move { token: 1, generation: 0, epoch: 1, previous, new, reset_base: 0 })
    };
    let refused = (1..2000).find_map(|sequence| match serving.decide(&VM, A, &to(sequence)) {
        Ok(decided) => {
            assert_eq!(decided.reply, Reply::Leased { lease_ms: LEASE_MS });
            None
        }
        Err(error) => Some((sequence, error)),
    });
    let (sequence, error) = refused.unwrap();
    assert!(matches!(error, StoreError::Full), "{error:?}");
    eprintln!("the disk was full after {sequence} commits: {error}");
    assert!(matches!(serving.decide(&VM, A, &to(sequence)), Err(StoreError::Full)), "and stays so");
    fs::remove_file(&ballast).unwrap();
    assert_eq!(bench.open().row(&VM).unwrap().head, numbered(sequence), "what was acknowledged is there");
    assert_eq!(ask(&mut serving, A, to(sequence)).reply, Reply::Leased { lease_ms: LEASE_MS });
}
