//! libvirt: the domain definitions that we show pass its own schema, and what it would start in swtpm's place works.

use crate::stack::Stack;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::Duration;

/// The UUID in the definitions.
const UUID: &str = "2f5d6c0e-4a43-4f0c-9b57-0e5f2f1c8a11";

fn shown() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vtpmd/libvirt")
}

fn is_valid(definition: &Path) -> bool {
    let judged = Command::new("virt-xml-validate").arg(definition).arg("domain").output();
    judged.expect("virt-xml-validate; run `cargo xtask setup`").status.success()
}

#[test]
fn every_domain_definition_that_is_shown_is_one() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["external.xml", "commandline.xml", "emulator.xml"] {
        let definition = shown().join(name);
        assert!(is_valid(&definition), "{name}");
        let text = fs::read_to_string(&definition).unwrap();
        assert!(text.contains(UUID) && text.contains("tpm-crb"), "{name}");
        let broken = folder.path().join(name);
        fs::write(&broken, text.replace("<vcpu>2</vcpu>", "<vcpu>two</vcpu>")).unwrap();
        assert!(!is_valid(&broken), "{name}: nothing is refused");
    }
}

#[test]
fn what_libvirt_starts_in_swtpms_place_is_a_sealed_tpm_of_that_domain() {
    let stack = Stack::new();
    let state = stack.path("swtpm").join(UUID).join("tpm2");
    fs::create_dir_all(&state).unwrap();
    let enrolled = stack.path("vms").join(UUID);
    let run = |program: &Path, line: &str| -> Output {
        Command::new(program)
            .args(line.split_whitespace())
            .env("HUSK", env!("CARGO_BIN_EXE_husk"))
            .env("HUSK_VMS", stack.path("vms"))
            .env("HUSK_RUN", stack.path(""))
            .output()
            .unwrap()
    };
    let [swtpm, setup] = ["swtpm", "swtpm_setup"].map(|name| shown().join(name));
    let said = |output: &Output| {
        String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
    };
    for (program, line) in [(&swtpm, "socket --print-capabilities"), (&setup, "--print-capabilities")] {
        assert_eq!(fs::metadata(program).unwrap().permissions().mode() & 0o111, 0o111, "executable");
        let json: serde_json::Value = serde_json::from_slice(&run(program, line).stdout).unwrap();
        assert!(json["features"].as_array().unwrap().contains(&"tpm-2.0".into()));
    }
    let [folder, log, control, pid] = [&state, &stack.path("log"), &stack.path("ctrl"), &stack.path("pid")]
        .map(|path| path.display().to_string());
    let prepare = format!(
        "--tpm2 --tpm-state {folder} --vmid guest:{UUID} --logfile {log} --createek --create-ek-cert \
         --create-platform-cert --lock-nvram --not-overwrite"
    );
    for _ in 0..2 {
        let prepared = run(&setup, &prepare);
        assert!(prepared.status.success(), "{}", said(&prepared));
    }
    let encrypted = run(&setup, &format!("{prepare} --keyfile-fd 7"));
    assert!(!encrypted.status.success() && said(&encrypted).contains("--keyfile-fd"), "{}", said(&encrypted));
    let start = format!(
        "socket --daemon --ctrl type=unixio,path={control},mode=0600 --tpmstate dir={folder},mode=0600 \
         --log file={log} --terminate --tpm2 --pid file={pid}"
    );
    let nobodys = run(&swtpm, &start);
    assert!(!nobodys.status.success() && said(&nobodys).contains("husk vm enroll"), "{}", said(&nobodys));
    fs::create_dir_all(&enrolled).unwrap();
    fs::copy(stack.path("config"), enrolled.join("config")).unwrap();
    for (path, name) in [("psp.sock", "psp.socket"), ("relay.sock", "relay.socket")] {
        std::os::unix::fs::symlink(stack.path(path), stack.path(name)).unwrap();
    }
    let ioctl = |line: &str| run(Path::new("/usr/bin/swtpm_ioctl"), &format!("--unix {control} {line}"));
    let ended = || {
        let stopped = ioctl("-s");
        while Path::new(&pid).exists() {
            sleep(Duration::from_millis(20));
        }
        stopped.status.success()
    };
    // Measured is the program itself, which nobody allowed: it waits for QEMU, and is refused by the broker then.
    let foreign = run(&swtpm, &start);
    assert!(foreign.status.success(), "{}", said(&foreign));
    assert!(!ioctl("-i").status.success(), "a program that was not allowed has a TPM");
    ended();
    let started = run(&swtpm, &format!("{start} --firmware {}", stack.path("firmware").display()));
    assert!(started.status.success(), "{} {}", said(&started), fs::read_to_string(&log).unwrap_or_default());
    assert!(fs::read_to_string(&pid).unwrap().trim().parse::<u32>().is_ok());
    for line in ["-i", "-g"] {
        let answered = ioctl(line);
        assert!(answered.status.success(), "{line}: {}", said(&answered));
    }
    assert!(ended());
    assert!(!fs::read_to_string(&log).unwrap().contains("UNSEALED"), "it is sealed");
}
