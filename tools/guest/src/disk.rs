//! The disk: a verity root, and the signed kernel image that names its hash.
//!
//! **What.** The initrd (dracut), the partitions (systemd-repart), the kernel image (ukify), in that order: the root's hash goes into the image's command line.
//! **Trust.** Debian's tools. The tenant's keys are seen by the programs that sign, and copied nowhere.
//! **Laws.** All that is random in a file system is derived from the configuration's seed. What the kernel is told is signed with it.
//! **Not here.** The root's content: `content`. How the volume is made and opened: `volume`.

use crate::config::{GuestConfig, Volume};
use crate::prepared::{self, Key};
use crate::tree::Workplace;
use crate::volume::{self, Text};
use crate::{attested, content};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Room for this kernel image and the next one. FAT32 begins at 65525 clusters (Microsoft's FAT specification 1.03, "FAT Type Determination").
const ESP_MIB: u64 = 128;
/// What a partition table keeps for itself at a disk's end, and an alignment (UEFI 2.10, section 5.3.1).
const TABLE_MIB: u64 = 2;
/// What finds, checks and mounts the root, and makes the volume; nothing else is in the initrd.
const MODULES: &str = "base dash systemd systemd-initrd systemd-repart systemd-veritysetup systemd-pcrphase systemd-journald systemd-modules-load \
systemd-tmpfiles systemd-udevd systemd-sysusers tpm2-tss dm rootfs-block kernel-modules fs-lib udev-rules shutdown";
const DRIVERS: &str =
    "virtio_blk virtio_pci ata_piix libata scsi_mod sd_mod dm_mod dm_crypt dm_verity erofs ext4 xts loop";
/// What else lies on the disk, and is the host's word: no partition is used because of its type (systemd-gpt-auto-generator(8): swap, `/home`, `/srv`), and no credential
/// that lies beside the kernel image is taken, which whoever knows the TPM's public key could make (systemd(1), "Kernel command line").
const DEAF: &str = "systemd.gpt_auto=no systemd.import_credentials=no";
/// Where PCR 11 is extended on the way up (systemd-pcrphase.service(8)); the tenant signs its value at each.
const PHASES: [&str; 4] = [
    "enter-initrd",
    "enter-initrd:leave-initrd",
    "enter-initrd:leave-initrd:sysinit",
    "enter-initrd:leave-initrd:sysinit:ready",
];
const PARTITIONS: [(&str, &str); 3] = [
    ("10-esp.conf", "Type=esp\nFormat=vfat\nCopyFiles=/uki.efi:/EFI/BOOT/BOOTX64.EFI\n"),
    (
        "20-root.conf",
        "Type=root-x86-64\nFormat=erofs\nCopyFiles=/guest:/\nVerity=data\nVerityMatchKey=root\nMinimize=best\n",
    ),
    (
        "30-hash.conf",
        "Type=root-x86-64-verity\nVerity=hash\nVerityMatchKey=root\nMinimize=best\nVerityDataBlockSizeBytes=4096\nVerityHashBlockSizeBytes=4096\n",
    ),
];

/// What was made, beside the files in the workplace: `disk.raw` and `uki.efi`.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) root_hash: String,
    /// What PCR 11 holds at each phase of the boot, as `systemd-measure` tells.
    pub(crate) pcr_11: Value,
    /// What a firmware measures of the kernel image when it starts it.
    pub(crate) authenticode: String,
    /// SHA-256 of the certificate that lets it start.
    pub(crate) certificate: String,
    pub(crate) command_line: String,
}

/// Makes the disk of the root that lies in `work/guest`.
pub(crate) fn make(config: &GuestConfig, at: &Workplace<'_>) -> anyhow::Result<Made> {
    let kernel = at.tools.kernel()?;
    eprintln!("husk: the initrd of kernel {kernel}");
    initrd(&config.volume, at, &kernel)?;
    eprintln!("husk: the root and its hashes");
    for (name, definition) in PARTITIONS {
        let size = if name.contains("esp") {
            format!("SizeMinBytes={ESP_MIB}M\nSizeMaxBytes={ESP_MIB}M\n")
        } else {
            String::new()
        };
        write(&at.shared.join("partitions"), name, &format!("[Partition]\n{definition}{size}"))?;
    }
    public_key(config, at)?;
    let certificate = certificate(config, at)?;
    let told = first_partitions(config, at, &certificate)?;
    let root_hash = root_hash(&told).context("systemd-repart tells no hash of the root")?;
    let words = format!("root=/dev/mapper/root roothash={root_hash} ro {DEAF}");
    let command_line: String = std::iter::once(words.as_str())
        .chain(config.kernel_arguments.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join(" ");
    eprintln!("husk: the kernel image, signed");
    let pcr_11 = kernel_image(config, at, &kernel, &command_line)?;
    let authenticode = authenticode(at)?;
    // Its date goes into the FAT.
    dated(&at.shared.join("uki.efi"), config.epoch).context("uki.efi")?;
    repart(config, &["--empty=allow"], |settings, line| at.run(settings, line))?;
    if config.volume.owners_files().is_none() {
        // Last: systemd-repart would give the room to the partitions that are there.
        let disk = at.shared.join("disk.raw");
        grow(&disk, (config.volume.size_mib + TABLE_MIB) << 20)
            .with_context(|| disk.display().to_string())?;
    }
    Ok(Made { root_hash, pcr_11, authenticode, certificate, command_line })
}

fn initrd(volume: &Volume, at: &Workplace<'_>, kernel: &str) -> anyhow::Result<()> {
    let included = at.shared.join("initrd-files");
    fs::create_dir(&included).with_context(|| included.display().to_string())?;
    for Text { path, text, mode } in volume::in_initrd(volume) {
        content::place(&included, Path::new(path), text.as_bytes(), mode)?;
    }
    if let Some(attested) = &volume.attested {
        attested::place_in(&included, attested)?;
    }
    let (drivers, programs) = (format!("{DRIVERS} {}", volume::drivers(volume)), volume::programs(volume));
    let line = ["dracut", "--quiet", "--force", "--reproducible", "--no-hostonly", "--no-hostonly-cmdline"];
    let more =
        ["--no-early-microcode", "--zstd", "--kver", kernel, "--modules", MODULES, "--drivers", &drivers];
    let last = ["--install", &programs, "--include", "/build/initrd-files", "/", "/build/initrd"];
    at.run(&[], &[&line[..], &more, &last].concat()).map(drop)
}

/// Makes all partitions but the one with the kernel image; what systemd-repart tells of them.
fn first_partitions(config: &GuestConfig, at: &Workplace<'_>, certificate: &str) -> anyhow::Result<Value> {
    let how = ["--empty=create", "--size=auto", "--defer-partitions=esp"];
    let key = match (&config.volume.prepared, &config.volume.attested) {
        (Some(prepared), _) => {
            eprintln!("husk: the volume, encrypted to the TPM that is named");
            Key::sealed(prepared, certificate)?
        }
        (None, Some(attested)) => {
            eprintln!("husk: the volume, encrypted under the key that the guest earns");
            Key::earned(attested)?
        }
        (None, None) => return repart(config, &how, |settings, line| at.run(settings, line)),
    };
    repart(config, &how, |settings, line| prepared::make(at, &config.volume, &key, (settings, line)))
}

/// Makes what is missing on the disk, by who runs systemd-repart with settings and a line; what it tells.
fn repart(
    config: &GuestConfig,
    how: &[&str],
    run: impl FnOnce(&[String], &[&str]) -> anyhow::Result<String>,
) -> anyhow::Result<Value> {
    let settings = format!("SYSTEMD_REPART_MKFS_OPTIONS_EROFS=-T{} --all-time -zlz4", config.epoch);
    let seed = format!("--seed={}", config.seed);
    let line = ["systemd-repart", "--root=/build", "--definitions=/build/partitions", "--offline=yes"];
    let more = ["--dry-run=no", "--sector-size=512", "--json=short", &seed];
    let told = run(&[settings], &[&line[..], &more, how, &["/build/disk.raw"]].concat())?;
    serde_json::from_str(&told).context("what systemd-repart tells is no JSON")
}

fn root_hash(told: &Value) -> Option<String> {
    let hashes = told.as_array()?.iter().filter_map(|partition| partition.get("roothash")?.as_str());
    let hash = hashes.into_iter().find(|hash| !hash.is_empty())?;
    is_sha256(hash).then(|| hash.to_owned())
}

/// The public part of the key that signs values of PCR 11.
fn public_key(config: &GuestConfig, at: &Workplace<'_>) -> anyhow::Result<()> {
    let line = ["openssl", "pkey", "-in", "/tmp/pcr.key", "-pubout", "-out", "/build/pcr.pub"];
    at.run_with(&[(config.keys.pcr_key.as_path(), "pcr.key")], &[], &line).map(drop)
}

/// SHA-256 of the certificate that lets the kernel image start.
fn certificate(config: &GuestConfig, at: &Workplace<'_>) -> anyhow::Result<String> {
    let line = ["openssl", "x509", "-in", "/tmp/boot.pem", "-noout", "-fingerprint", "-sha256"];
    let files = [(config.keys.secure_boot_certificate.as_path(), "boot.pem")];
    fingerprint(&at.run_with(&files, &[], &line)?).context("openssl tells no fingerprint of the certificate")
}

/// Yields PCR 11.
fn kernel_image(
    config: &GuestConfig,
    at: &Workplace<'_>,
    kernel: &str,
    command_line: &str,
) -> anyhow::Result<Value> {
    let keys = &config.keys;
    let pcr_key = (keys.pcr_key.as_path(), "pcr.key");
    let files = [
        pcr_key,
        (keys.secure_boot_key.as_path(), "boot.key"),
        (keys.secure_boot_certificate.as_path(), "boot.pem"),
    ];
    let linux = format!("--linux=/boot/vmlinuz-{kernel}");
    let (words, uname) = (format!("--cmdline={command_line}"), format!("--uname={kernel}"));
    let line =
        ["ukify", "build", &linux, "--initrd=/build/initrd", &words, &uname, "--output=/build/uki.efi"];
    let named: &[&str] = if config.volume.owners_files().is_some() { &[prepared::NAMED] } else { &[] };
    let phases = format!("--phases={}", PHASES.join(" "));
    let signed = [
        "--os-release=@/build/guest/usr/lib/os-release",
        "--secureboot-private-key=/tmp/boot.key",
        "--secureboot-certificate=/tmp/boot.pem",
        "--pcr-private-key=/tmp/pcr.key",
        "--pcr-public-key=/build/pcr.pub",
        "--pcr-banks=sha256",
        "--measure",
        &phases,
    ];
    let told = at.run_with(&files, &signed_at(config.epoch), &[&line[..], named, &signed].concat())?;
    pcr_11(&told).context("ukify tells no values of PCR 11")
}

/// What a firmware extends PCR 4 by when it starts the kernel image (systemd-pcrlock(8), "lock-pe"). systemd's stub starts the kernel in it by itself.
fn authenticode(at: &Workplace<'_>) -> anyhow::Result<String> {
    let line = ["/usr/lib/systemd/systemd-pcrlock", "lock-pe", "/build/uki.efi", "--pcrlock=-"];
    authenticode_in(&at.run(&[], &line)?).context("systemd-pcrlock tells no digest of the kernel image")
}

fn authenticode_in(told: &str) -> Option<String> {
    let told: Value = serde_json::from_str(told).ok()?;
    let [record] = told.get("records")?.as_array()?.as_slice() else { return None };
    let mut digests = record.get("digests")?.as_array()?.iter();
    let sha256 = digests.find(|digest| digest.get("hashAlg").is_some_and(|name| name == "sha256"))?;
    let digest = sha256.get("digest")?.as_str()?;
    (record.get("pcr")? == 4 && is_sha256(digest)).then(|| digest.to_owned())
}

/// As `openssl x509 -fingerprint` shows one.
fn fingerprint(shown: &str) -> Option<String> {
    let digest = shown.trim().rsplit_once('=')?.1.replace(':', "").to_lowercase();
    is_sha256(&digest).then_some(digest)
}

fn is_sha256(digits: &str) -> bool {
    digits.len() == 64 && digits.chars().all(|c| c.is_ascii_hexdigit())
}

/// The signature tells when it was made (RFC 5652, section 11.3), and its maker asks no `SOURCE_DATE_EPOCH`: its clock stands still.
fn signed_at(epoch: u64) -> [String; 4] {
    let library = "LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1".to_owned();
    [library, format!("FAKETIME={epoch}"), "FAKETIME_FMT=%s".into(), "DONT_FAKE_MONOTONIC=1".into()]
}

/// The values of what ukify tells, by their phases.
fn pcr_11(told: &str) -> Option<Value> {
    let values = told.lines().filter_map(|line| line.strip_prefix("11:sha256="));
    let values: Vec<&str> = values.collect();
    (values.len() == PHASES.len()).then(|| {
        PHASES
            .into_iter()
            .zip(values)
            .map(|(phase, value)| json!({"phase": phase, "sha256": value}))
            .collect()
    })
}

fn dated(file: &Path, epoch: u64) -> std::io::Result<()> {
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(epoch);
    fs::OpenOptions::new().write(true).open(file)?.set_modified(date)
}

fn grow(file: &Path, by_bytes: u64) -> std::io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(file)?;
    let len = file.metadata()?.len();
    file.set_len(len + by_bytes)
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let file = folder.join(name);
    fs::write(&file, text).with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::{authenticode_in, fingerprint, pcr_11, root_hash};
    use serde_json::json;

    #[test]
    fn a_hash_is_told_by_the_partitions_that_have_one() {
        let hash = "5a".repeat(32);
        let told = json!([{"type": "esp", "roothash": null}, {"type": "root-x86-64", "roothash": hash}]);
        assert_eq!(root_hash(&told), Some(hash));
        assert_eq!(root_hash(&json!([{"roothash": "5a quiet"}])), None);
    }

    #[test]
    fn each_phase_has_its_value_or_there_is_none() {
        let told = "11:sha256=01\n11:sha256=02\n11:sha256=03\n11:sha256=04\n";
        let values = pcr_11(told).expect("four");
        assert_eq!(values[3], json!({"phase": "enter-initrd:leave-initrd:sysinit:ready", "sha256": "04"}));
        assert!(pcr_11("11:sha256=01\n").is_none());
    }

    #[test]
    fn what_a_firmware_measures_of_a_program_is_one_record_of_pcr_4() {
        let digest = "5a".repeat(32);
        let digests = json!([{"hashAlg": "sha1", "digest": "00"}, {"hashAlg": "sha256", "digest": digest}]);
        let record = json!({"pcr": 4, "digests": digests});
        assert_eq!(authenticode_in(&json!({"records": [record]}).to_string()), Some(digest.clone()));
        for other in [
            json!({"records": [record, record]}),
            json!({"records": [{"pcr": 11, "digests": digests}]}),
            json!({"records": [{"pcr": 4, "digests": [{"hashAlg": "sha256", "digest": "5a"}]}]}),
        ] {
            assert!(authenticode_in(&other.to_string()).is_none(), "{other}");
        }
        let shown = format!("sha256 Fingerprint={}\n", vec!["5A"; 32].join(":"));
        assert_eq!(fingerprint(&shown), Some(digest));
    }
}
