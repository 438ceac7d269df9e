//! `husk host check` and `husk run --sev-snp` as an operator meets them, on whatever machine this is: what it lacks is named.

#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

#[path = "support/site.rs"]
mod site;

use igvm::{IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision};
use igvm_defs::{IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags, IgvmPageDataType, IgvmPlatformType};
use serde_json::Value;
use site::Site;
use std::fs;
use std::process::{Command, Output};

/// Every piece, in the order in which one would see to them.
const PIECES: [&str; 9] = [
    "processor",
    "kernel",
    "kvm_amd",
    "/dev/kvm",
    "/dev/sev",
    "QEMU",
    "QEMU: sev-snp-guest",
    "QEMU: igvm-cfg",
    "QEMU: SVSM's devices",
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A folder with what a launch needs: an IGVM file of one page, a configuration, a volume.
fn launchable() -> Site {
    with_host_data().0
}

/// The same, and the HOST_DATA of the configuration.
fn with_host_data() -> (Site, String) {
    let (site, tenant) = Site::with_tenant();
    let enrolled = site.enrol(&tenant, &[7; 48]);
    fs::write(site.path("volume"), [0; 4096]).unwrap();
    fs::write(site.path("igvm"), igvm_file()).unwrap();
    (site, enrolled["host_data"].as_str().unwrap().to_owned())
}

fn igvm_file() -> Vec<u8> {
    let platform = IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: 1,
        highest_vtl: 0,
        platform_type: IgvmPlatformType::SEV_SNP,
        platform_version: 1,
        shared_gpa_boundary: 0,
    });
    let policy = IgvmInitializationHeader::GuestPolicy { policy: 0x30000, compatibility_mask: 1 };
    let page = IgvmDirectiveHeader::PageData {
        gpa: 0x10_0000,
        compatibility_mask: 1,
        flags: IgvmPageDataFlags::new(),
        data_type: IgvmPageDataType::NORMAL,
        data: vec![0xA5; 4096],
    };
    let file = IgvmFile::new(IgvmRevision::V1, vec![platform], vec![policy], vec![page]).unwrap();
    let mut bytes = Vec::new();
    file.serialize(&mut bytes).unwrap();
    bytes
}

const LAUNCH: &str =
    "run --sev-snp --igvm igvm --config config --volume volume --channel relay.socket --qemu nowhere/qemu";

fn launch(site: &Site, more: &str) -> Output {
    site.run(&LAUNCH.split(' ').chain(more.split_whitespace()).collect::<Vec<_>>())
}

/// What this machine lacks, with a QEMU that is not there: at least the four pieces of QEMU.
fn checks(site: &Site) -> Vec<Value> {
    let output = site.run(&["host", "check", "--json", "--qemu", "nowhere/qemu"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(seen["ready"], false);
    seen["checks"].as_array().unwrap().clone()
}

#[test]
fn a_host_check_names_every_piece_says_what_it_saw_and_what_to_do() {
    let site = Site::new();
    let checks = checks(&site);
    let names: Vec<&str> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(names, PIECES);
    let output = site.run(&["host", "check", "--qemu", "nowhere/qemu"]);
    let table = text(&output.stdout);
    let mut lines = table.lines();
    for check in &checks {
        let line = lines.next().unwrap();
        let state = check["state"].as_str().unwrap();
        let shown = line.starts_with(state) && line.contains(check["name"].as_str().unwrap());
        assert!(shown && line.ends_with(check["seen"].as_str().unwrap()), "{line}");
        assert_eq!(check["advice"].is_string(), state == "missing", "{check}");
        if let Some(advice) = check["advice"].as_str() {
            assert_eq!(lines.next().unwrap().trim(), advice);
        }
    }
    assert_eq!(lines.next(), None);
    let missing = checks.iter().filter(|check| check["state"] == "missing").count();
    let line = text(&output.stderr);
    assert!(missing >= 4 && line.contains(&format!("{missing} of 9 pieces are missing")), "{line}");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(site.run(&["host", "check", "--qemu"]).status.code(), Some(2));
    assert_eq!(site.run(&["host", "check", "--fix"]).status.code(), Some(2));
}

#[test]
fn a_launch_names_each_missing_piece_and_starts_nothing() {
    let site = launchable();
    let output = launch(&site, "");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    let mut missing = 0;
    for check in checks(&site) {
        let word = |name: &str| check[name].as_str().unwrap_or_default().to_owned();
        let line = format!("  {}: {}; {}", word("name"), word("seen"), word("advice"));
        let named = said.lines().filter(|said| *said == line).count();
        assert_eq!(named == 1, check["state"] == "missing", "{line} in {said}");
        missing += named;
    }
    assert!(missing >= 4, "{said}");
    assert!(output.stdout.is_empty() && !said.contains("nothing listens"), "{said}");
}

#[test]
fn a_launch_that_is_printed_is_what_would_run_and_measures_what_image_measure_states() {
    let (site, host_data) = with_host_data();
    for vcpus in ["1", "8", "255"] {
        let output = launch(&site, &format!("--print --vcpus {vcpus}"));
        assert!(output.status.success(), "{}", text(&output.stderr));
        let line = text(&output.stdout);
        for wanted in
            ["nowhere/qemu", "sev-snp-guest,", "igvm-cfg,id=igvm,file=igvm", &format!("-smp {vcpus} ")]
        {
            assert!(line.contains(wanted), "{wanted} in {line}");
        }
        let said = text(&output.stderr);
        assert!(said.contains(&format!("HOST_DATA will be {host_data}")), "{said}");
        let words = ["image", "measure", "--igvm", "igvm", "--vcpus", vcpus, "--vcpu-type", "EPYC-v4"];
        let measured = text(&site.run(&words).stdout);
        assert!(said.contains(&format!("MEASUREMENT will be {measured}")), "{said}");
        let only = launch(&site, &format!("--measure-only --vcpus {vcpus}"));
        assert_eq!(text(&only.stdout), measured, "{vcpus} processors");
    }
    let digest = |more: &str| text(&launch(&site, &format!("--measure-only {more}")).stdout);
    assert_ne!(digest("--vcpus 1"), digest("--vcpus 8"));
    assert_ne!(digest("--vcpu-type EPYC-v4"), digest("--vcpu-type EPYC-Milan"));
    for vcpus in ["0", "4097"] {
        assert_eq!(launch(&site, &format!("--print --vcpus {vcpus}")).status.code(), Some(2), "{vcpus}");
    }
    assert_eq!(launch(&site, "--print --vcpu-type qemu64").status.code(), Some(1));
}

#[test]
fn a_libvirt_domain_of_a_launch_is_one_that_libvirts_schema_takes() {
    let site = launchable();
    let output = launch(&site, "--libvirt vm-1 --vcpus 8");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let domain = text(&output.stdout);
    assert!(domain.contains("<vcpu>8</vcpu>") && domain.contains("sev-snp-guest,"), "{domain}");
    // libvirt starts QEMU in another folder, and looks for it nowhere.
    let folder = site.path("").canonicalize().unwrap().display().to_string();
    for file in ["nowhere/qemu", "igvm", "volume", "relay.socket"] {
        assert!(domain.contains(&format!("{}/{file}", folder.trim_end_matches('/'))), "{file} in {domain}");
    }
    fs::write(site.path("domain.xml"), &domain).unwrap();
    let judged = Command::new("virt-xml-validate").arg(site.path("domain.xml")).arg("domain").output();
    let judged = judged.unwrap();
    assert!(judged.status.success(), "{}{domain}", text(&judged.stderr));
    assert_eq!(launch(&site, "--libvirt vm-1 --print").status.code(), Some(2), "one of them");
}

#[test]
fn what_a_launch_lacks_is_one_line() {
    let site = launchable();
    for (left_out, why) in [
        ("--config config", "--config"),
        ("--volume volume", "--volume"),
        ("--channel relay.socket", "--channel"),
    ] {
        let line = LAUNCH.replace(&format!(" {left_out}"), "") + " --print";
        let output = site.run(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(text(&output.stderr).contains(why), "{}", text(&output.stderr));
    }
    fs::write(site.path("igvm"), b"IGVM, it says").unwrap();
    let output = launch(&site, "--print");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(text(&output.stderr).contains("igvm"), "{}", text(&output.stderr));
}
