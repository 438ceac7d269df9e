//! What `tools/attester/guest` has distributions run: the program understands its words, and shells the scripts.
#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_husk-unlock");
/// Where the program is in a guest.
const INSTALLED: &str = "/usr/bin/husk-unlock";

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("guest").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap()
}

/// The words that an administrator may add.
fn options() -> String {
    let text = text("options");
    let options = text.lines().find_map(|line| line.strip_prefix("HUSK_UNLOCK_OPTIONS="));
    options.unwrap().trim_matches('"').to_owned()
}

/// The words were understood: it is the configuration that is not there.
#[track_caller]
fn understood(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && said.contains("/etc/husk/unlock/config: No such file"),
        "{said}"
    );
}

#[test]
fn the_program_understands_the_units_words() {
    let unit = text("husk-unlock@.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let words = line.strip_prefix(INSTALLED).unwrap();
    let words = words.replace("%I", "data").replace("$HUSK_UNLOCK_OPTIONS", &options());
    understood(&Command::new(PROGRAM).args(words.split_whitespace()).output().unwrap());
    // systemd.unit(5): without these a volume would be asked for before its key is there.
    assert!(unit.contains("\nBefore=systemd-cryptsetup@%i.service\n"));
    assert!(unit.contains("\nRequiredBy=systemd-cryptsetup@%i.service\n"));
}

#[test]
fn the_keyscript_passes_the_name_and_the_options_on() {
    let folder = tempfile::tempdir().unwrap();
    let script = text("initramfs-tools/unlock-key");
    fs::copy(file("options"), folder.path().join("options")).unwrap();
    let options = folder.path().join("options").display().to_string();
    let here = script.replace("/etc/husk/unlock/options", &options);
    assert_ne!(here, script);
    let run = |program: &str| {
        let script = here.replace(INSTALLED, program);
        Command::new("sh").args(["-c", &script, "unlock-key", "data"]).output().unwrap()
    };
    understood(&run(PROGRAM));
    let words = String::from_utf8(run("echo").stdout).unwrap();
    assert_eq!(words.trim(), format!("--name data {}", self::options()));
}

#[test]
fn shells_read_the_scripts() {
    for (shell, name) in [
        ("sh", "initramfs-tools/husk-unlock"),
        ("sh", "initramfs-tools/unlock-key"),
        ("bash", "dracut/90husk-unlock/module-setup.sh"),
    ] {
        let read = Command::new(shell).arg("-n").arg(file(name)).output().unwrap();
        assert!(read.status.success(), "{name}: {}", String::from_utf8_lossy(&read.stderr));
    }
    let asked = Command::new("sh").arg(file("initramfs-tools/husk-unlock")).arg("prereqs").output().unwrap();
    assert!(asked.status.success() && String::from_utf8(asked.stdout).unwrap().trim().is_empty());
}
