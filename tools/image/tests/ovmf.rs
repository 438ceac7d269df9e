//! Digests of OVMF launches are those that `sev-snp-measure` computes.
//!
//! `data/launch_digests.txt` holds what version 0.0.13 of that tool printed, so that the law needs no Python. Where
//! `cargo xtask setup` could install the tool, it is asked again, on more inputs. `HUSK_BLESS=1` writes the file anew.

#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

mod support;

use clap::Parser as _;
use husk_image::hashes::KernelHashes;
use husk_image::ovmf::{Ovmf, OvmfError};
use husk_image::ovmf_launch::{OvmfLaunch, OvmfLaunchError, image_digest};
use husk_image::vcpu::{CpuSignature, Vcpus};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{SECTIONS, ovmf, sections_without_hashes};

const KERNEL: &[u8] = b"a kernel, or so it says";
const INITRD: &[u8] = b"files for the kernel";
const APPEND: &str = "console=ttyS0 root=/dev/vda quiet";
/// Debian's code volume of 2 MiB, which carries SEV metadata.
const DEBIAN: &str = "/usr/share/OVMF/OVMF_CODE.fd";

/// What is launched: image, kernel, initrd, command line, processors, model, features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    image: &'static str,
    kernel: &'static str,
    vcpus: u32,
    model: &'static str,
    features: u64,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for model in ["EPYC-v4", "EPYC-Rome", "EPYC-Milan-v2", "EPYC-Genoa", "EPYC-Turin"] {
        for vcpus in [1, 2, 4, 8] {
            for kernel in ["none", "kernel", "initrd", "append", "all"] {
                cases.push(Case { image: "hashes", kernel, vcpus, model, features: 1 });
            }
            cases.push(Case { image: "plain", kernel: "none", vcpus, model, features: 1 });
            cases.push(Case { image: "debian", kernel: "none", vcpus, model, features: 1 });
        }
    }
    cases.push(Case { image: "hashes", kernel: "all", vcpus: 3, model: "EPYC-Milan", features: 0x21 });
    cases
}

impl Case {
    fn image(&self) -> Option<Vec<u8>> {
        match self.image {
            "hashes" => Some(ovmf(SECTIONS)),
            "plain" => Some(ovmf(&sections_without_hashes())),
            _ => fs::read(DEBIAN).ok(),
        }
    }

    fn has(&self, part: &str) -> bool {
        self.kernel == "all" || self.kernel == part || (part == "kernel" && self.kernel != "none")
    }

    /// Our digest.
    fn digest(&self, image: &[u8]) -> String {
        let ovmf = Ovmf::parse(image).unwrap();
        let initrd = self.has("initrd").then(|| Sha256::digest(INITRD).into());
        let append = if self.has("append") { APPEND } else { "" };
        let hashes = KernelHashes::new(Sha256::digest(KERNEL).into(), initrd, append);
        let launch = OvmfLaunch {
            ovmf: &ovmf,
            image_digest: None,
            kernel: self.has("kernel").then_some(hashes),
            vcpus: Vcpus {
                count: self.vcpus,
                signature: CpuSignature::of_model(self.model).unwrap(),
                features: self.features,
            },
        };
        hex::encode(launch.digest().unwrap().value())
    }

    /// The options of both tools, with the files below `folder`.
    fn options(&self, image: &[u8], folder: &Path) -> Vec<String> {
        let path = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            fs::write(&path, bytes).unwrap();
            path.display().to_string()
        };
        let mut options: Vec<String> = ["--mode", "snp", "--vcpu-type", self.model].map(str::to_owned).into();
        let mut option = |name: &str, value: String| options.extend([name.to_owned(), value]);
        option("--vcpus", self.vcpus.to_string());
        option("--guest-features", format!("{:#x}", self.features));
        option("--ovmf", path(self.image, image));
        if self.has("kernel") {
            option("--kernel", path("kernel", KERNEL));
        }
        if self.has("initrd") {
            option("--initrd", path("initrd", INITRD));
        }
        if self.has("append") {
            option("--append", APPEND.to_owned());
        }
        options
    }

    fn line(&self, digest: &str, image: &[u8]) -> String {
        let sum = hex::encode(&Sha256::digest(image)[..8]);
        let Self { image, kernel, vcpus, model, features } = self;
        format!("{image} {sum} {kernel} {vcpus} {model} {features:#x} {digest}")
    }
}

/// The tool, if `cargo xtask setup` could install it.
fn tool() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let path = root.join("target/husk/sev-snp-measure/bin/sev-snp-measure");
    path.exists().then_some(path)
}

fn run(program: &Path, options: &[String]) -> String {
    let output = Command::new(program).args(options).output().unwrap();
    assert!(output.status.success(), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/launch_digests.txt")
}

#[test]
fn digests_are_those_that_the_other_tool_printed() {
    let known = fs::read_to_string(golden()).unwrap();
    let mut compared = 0;
    for case in cases() {
        let Some(image) = case.image() else {
            eprintln!("SKIPPED {case:?}: {DEBIAN} is not there");
            continue;
        };
        let line = case.line(&case.digest(&image), &image);
        let key = line.rsplit_once(' ').unwrap().0;
        match known.lines().find(|known| known.starts_with(key)) {
            Some(known) => assert_eq!(known, line),
            None if case.image == "debian" => eprintln!("SKIPPED {case:?}: another version of the package"),
            None => panic!("{key} is not in the golden file; write it anew with HUSK_BLESS=1"),
        }
        compared += 1;
    }
    assert!(compared >= 121);
}

#[test]
fn digests_are_those_that_the_other_tool_prints_now() {
    let Some(tool) = tool() else {
        eprintln!("SKIPPED: sev-snp-measure is not installed; run: cargo xtask setup");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let bless = std::env::var_os("HUSK_BLESS").is_some();
    let long = bless || std::env::var_os("HUSK_LONG").is_some();
    let mut lines = vec!["# What sev-snp-measure 0.0.13 printed: image, its SHA-256's start, kernel, vCPUs, model, features, digest.".to_owned()];
    for (index, case) in cases().iter().enumerate() {
        let Some(image) = case.image() else { continue };
        // Starting Python a hundred times takes long: otherwise one case in nine, which meets every column.
        if !long && index % 9 != 0 {
            continue;
        }
        let theirs = run(&tool, &case.options(&image, folder.path()));
        assert_eq!(case.digest(&image), theirs, "{case:?}");
        lines.push(case.line(&theirs, &image));
    }
    if bless {
        fs::write(golden(), lines.join("\n") + "\n").unwrap();
    }
}

/// A second opinion, in this process and on every case: crate `sev`.
#[test]
fn digests_are_those_of_crate_sev() {
    use sev::measurement::snp::{SnpMeasurementArgs, snp_calc_launch_digest};
    use sev::measurement::vcpu_types::CpuType;
    use sev::measurement::vmsa::{GuestFeatures, VMMType};
    let folder = tempfile::tempdir().unwrap();
    for case in cases() {
        let Some(image) = case.image() else { continue };
        case.options(&image, folder.path());
        let file = |name: &str, wanted: bool| wanted.then(|| folder.path().join(name));
        let theirs = snp_calc_launch_digest(SnpMeasurementArgs {
            vcpus: case.vcpus,
            vcpu_type: match case.model {
                "EPYC-v4" => CpuType::EpycV4,
                "EPYC-Rome" => CpuType::EpycRome,
                "EPYC-Milan" => CpuType::EpycMilan,
                "EPYC-Milan-v2" => CpuType::EpycMilanV2,
                "EPYC-Genoa" => CpuType::EpycGenoa,
                _ => CpuType::EpycTurin,
            },
            ovmf_file: folder.path().join(case.image),
            guest_features: GuestFeatures(case.features),
            kernel_file: file("kernel", case.has("kernel")),
            initrd_file: file("initrd", case.has("initrd")),
            append: case.has("append").then_some(APPEND),
            ovmf_hash_str: None,
            vmm_type: Some(VMMType::QEMU),
        });
        assert_eq!(case.digest(&image), theirs.unwrap().get_hex_ld(), "{case:?}");
    }
}

/// The command, as `husk image` parses it.
#[derive(clap::Parser, Debug)]
struct Image {
    #[command(subcommand)]
    command: husk_image::cli::ImageCommand,
}

#[test]
fn the_options_are_those_of_the_other_tool() {
    let folder = tempfile::tempdir().unwrap();
    for case in cases() {
        let Some(image) = case.image() else { continue };
        let options = case.options(&image, folder.path());
        let words = ["image", "measure"].into_iter().chain(options.iter().map(String::as_str));
        Image::try_parse_from(words).unwrap();
    }
    for wrong in [
        "measure --vcpus 1 --vcpu-type EPYC",
        "measure --ovmf x --igvm y --vcpus 1",
        "measure --ovmf x --initrd y --vcpus 1",
        "measure --mode sev --ovmf x --vcpus 1",
        "measure --ovmf x --vcpus 0",
        "measure --igvm x --kernel y --vcpus 1",
        "measure --ovmf x --native-zero --vcpus 1",
    ] {
        let words = ["image"].into_iter().chain(wrong.split(' '));
        assert!(Image::try_parse_from(words).is_err(), "{wrong}");
    }
}

#[test]
fn a_digest_of_the_image_goes_on_as_the_image_itself() {
    let image = ovmf(SECTIONS);
    let parsed = Ovmf::parse(&image).unwrap();
    let vcpus = Vcpus { count: 2, signature: CpuSignature(0x00A0_0F11), features: 1 };
    let whole = OvmfLaunch { ovmf: &parsed, image_digest: None, kernel: None, vcpus };
    let known = OvmfLaunch { image_digest: Some(image_digest(&parsed).value()), ..whole };
    assert_eq!(whole.digest().unwrap(), known.digest().unwrap());
}

#[test]
fn a_launch_that_qemu_refuses_has_no_digest() {
    let vcpus = Vcpus { count: 1, signature: CpuSignature(0), features: 1 };
    let hashes = KernelHashes::new([0; 32], None, "");
    let digest = |image: &[u8], kernel| {
        let ovmf = Ovmf::parse(image).unwrap();
        OvmfLaunch { ovmf: &ovmf, image_digest: None, kernel, vcpus }.digest().map(|_| ())
    };
    let plain = ovmf(&sections_without_hashes());
    assert_eq!(digest(&plain, Some(hashes)), Err(OvmfLaunchError::NoPlaceForHashes));
    assert_eq!(digest(&plain, None), Ok(()));
    assert_eq!(digest(&ovmf(&[]), None), Err(OvmfLaunchError::NoMetadata));
}

#[test]
fn a_damaged_image_is_refused_by_what_is_wrong() {
    let image = ovmf(SECTIONS);
    assert!(matches!(Ovmf::parse(&image[..image.len() - 1]), Err(OvmfError::Size(_))));
    assert_eq!(Ovmf::parse(&image[..image.len() - 4096]), Err(OvmfError::NoTable));
    assert_eq!(Ovmf::parse(&[]), Err(OvmfError::Size(0)));
    for (sections, error) in [
        (&[(9, 0x80_0000, 0x1000)], OvmfError::Kind(9)),
        (&[(1, 0x80_0000, 0x1001)], OvmfError::Section(0x80_0000)),
        (&[(1, 0x80_0001, 0x1000)], OvmfError::Section(0x80_0001)),
        (&[(2, 0x80_0000, 0x2000)], OvmfError::Section(0x80_0000)),
        (&[(1, 0x80_0000, 0)], OvmfError::Section(0x80_0000)),
        (&[(1, 0xFFFF_F000, 0x2000)], OvmfError::Section(0xFFFF_F000)),
    ] {
        assert_eq!(Ovmf::parse(&ovmf(sections)), Err(error));
    }
    for at in [0x8000, 0x8008] {
        let mut other = image.clone();
        other[at] ^= 0x40;
        assert_eq!(Ovmf::parse(&other), Err(OvmfError::Metadata), "{at:#x}");
    }
}
