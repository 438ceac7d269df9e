//! `husk image` as a tenant meets it: what it prints, where the digest stands, what is never overwritten.

#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

const OVMF: &str = "/usr/share/OVMF/OVMF_CODE.fd";
const ID: &str = "000102030405060708090a0b0c0d0e0f";

fn husk(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_husk"))
        .arg("image")
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn the_digest_is_the_last_word_of_the_last_line() {
    if !Path::new(OVMF).exists() {
        eprintln!("SKIPPED: {OVMF} is not there; run: cargo xtask setup");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let options = ["measure", "--mode", "snp", "--ovmf", OVMF, "--vcpus", "2", "--vcpu-type", "EPYC-Milan"];
    let last = |more: &[&str]| {
        let said = said(&husk(folder.path(), &[&options[..], more].concat()));
        said.lines().last().unwrap().rsplit(' ').next().unwrap().to_owned()
    };
    let digest = last(&[]);
    assert!(digest.len() == 96 && digest.bytes().all(|digit| digit.is_ascii_hexdigit()));
    assert_eq!(last(&["--verbose"]), digest);
    let json: serde_json::Value = serde_json::from_str(&last(&["--json"])).unwrap();
    assert_eq!(json["digest"], digest.as_str());
    let hash = said(&husk(folder.path(), &["measure", "--mode", "snp:ovmf-hash", "--ovmf", OVMF]));
    assert_eq!(last(&["--snp-ovmf-hash", hash.trim()]), digest);
}

#[test]
fn a_configuration_is_written_once_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let root = "ab".repeat(48);
    let write = ["config", "--tenant", ID, "--vm", ID, "--root", &root, "--out", "config", "--json"];
    let first: serde_json::Value = serde_json::from_str(&said(&husk(folder.path(), &write))).unwrap();
    let second = said(&husk(folder.path(), &["config", "--from", "config", "--json"]));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&second).unwrap(), first);
    assert_eq!(husk(folder.path(), &write).status.code(), Some(4));
    assert_eq!(husk(folder.path(), &["config", "--from", "nothing"]).status.code(), Some(3));
    assert_eq!(husk(folder.path(), &["config", "--out", "other"]).status.code(), Some(2));
}

#[test]
fn an_id_block_has_the_sizes_that_qemu_wants_and_no_secret_shows() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384", "-out"])
        .arg(&key)
        .output()
        .unwrap();
    assert!(made.status.success());
    let digest = "5a".repeat(48);
    let sign =
        ["id-block", "--digest", &digest, "--policy", "0x30000", "--guest-svn", "1", "--id-key", "key"];
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = husk(folder.path(), &sign);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("chmod 600"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let said = said(&husk(folder.path(), &[&sign[..], &["--json"]].concat()));
    let json: serde_json::Value = serde_json::from_str(&said).unwrap();
    let length = |name: &str| json[name].as_str().unwrap().len();
    assert_eq!(
        (length("id_block"), length("id_auth")),
        (96_usize.div_ceil(3) * 4, 4096_usize.div_ceil(3) * 4)
    );
    let weak = husk(folder.path(), &[&sign[..4], &["0xb0000"], &sign[5..]].concat());
    assert!(!weak.status.success() && String::from_utf8_lossy(&weak.stderr).contains("debugging"));
}

#[test]
fn a_damaged_file_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), b"IGVM").unwrap();
    for arguments in [&["inspect", "file"][..], &["measure", "--igvm", "file", "--vcpus", "1"]] {
        let output = husk(folder.path(), arguments);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(complaint.lines().count() == 1 && complaint.contains("no IGVM file"), "{complaint}");
    }
}
