//! Launches under SEV-SNP: what a host must have, what QEMU is told, and that libvirt's schema takes it.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where its world fails")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use husk_launcher::snp::host::{Probe, SVSM_SLOTS, State, missing};
use husk_launcher::snp::launch::Launch;
use husk_launcher::snp::libvirt::domain;
use husk_launcher::snp::machine::{Identity, Machine};
use igvm::{IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision};
use igvm_defs::{IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags, IgvmPageDataType, IgvmPlatformType};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// EAX and EBX of CPUID function 0x8000001F on a Milan: SME, SEV, SEV-ES, SEV-SNP; C-bit 51, one address bit fewer.
const MILAN: (u32, u32) = (0x1F, 51 | 1 << 6);

/// A folder that looks like a host with everything.
fn good_host() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in [
        ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu sev sev_es sev_snp\n"),
        ("proc/sys/kernel/osrelease", "6.12.3-amd64\n"),
        ("sys/module/kvm_amd/parameters/sev_snp", "Y\n"),
        ("dev/kvm", ""),
        ("dev/sev", ""),
    ] {
        put(root.path(), path, text);
    }
    emulator(root.path(), "10.1.0", "sev-snp-guest igvm-cfg", SVSM_SLOTS);
    root
}

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// What answers like a QEMU of this version, with these objects and this property of machine q35.
fn emulator(root: &Path, version: &str, objects: &str, property: &str) {
    let lines = objects.replace(' ', "\\n  ");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in\n--version) echo 'QEMU emulator version {version} (a test)' ;;\n\
         '-object help') printf 'List:\\n  {lines}\\n' ;;\n'-machine q35,help') echo '  {property}=<bool>' ;;\nesac\n"
    );
    put(root, "qemu.script", &script);
    // By another process: one that this process wrote could still be open in what another test starts at that instant, and would not be started then (execve(2), ETXTBSY).
    let made = Command::new("install")
        .args(["-m", "755"])
        .args([root.join("qemu.script"), root.join("qemu")])
        .status();
    assert!(made.unwrap().success());
}

fn lacking(root: &Path, encryption: (u32, u32)) -> Vec<&'static str> {
    let checks = Probe::below(root, &root.join("qemu"), encryption).checks();
    assert_eq!(missing(&checks).len(), checks.iter().filter(|check| check.state == State::Missing).count());
    checks.into_iter().filter(|check| check.state == State::Missing).map(|check| check.name).collect()
}

#[test]
fn a_host_with_everything_is_ready() {
    let host = good_host();
    assert_eq!(lacking(host.path(), MILAN), [""; 0]);
    let probe = Probe::below(host.path(), &host.path().join("qemu"), MILAN);
    assert_eq!(probe.encryption_bits(), Some((51, 1)));
}

#[test]
fn each_missing_piece_is_named_and_no_other() {
    type Harm = fn(&Path);
    let cases: [(Harm, &str); 14] = [
        (|root| put(root, "proc/cpuinfo", "flags\t: fpu sev sev_es\n"), "processor"),
        (|root| fs::remove_file(root.join("proc/cpuinfo")).unwrap(), "processor"),
        (|root| put(root, "proc/sys/kernel/osrelease", "6.10.14\n"), "kernel"),
        (|root| put(root, "proc/sys/kernel/osrelease", "next\n"), "kernel"),
        (|root| put(root, "sys/module/kvm_amd/parameters/sev_snp", "N\n"), "kvm_amd"),
        (|root| fs::remove_dir_all(root.join("sys")).unwrap(), "kvm_amd"),
        (|root| fs::remove_file(root.join("dev/kvm")).unwrap(), "/dev/kvm"),
        (|root| fs::remove_file(root.join("dev/sev")).unwrap(), "/dev/sev"),
        // Root may open any file; a folder is what nobody may write to.
        (
            |root| {
                fs::remove_file(root.join("dev/sev")).unwrap();
                fs::create_dir(root.join("dev/sev")).unwrap();
            },
            "/dev/sev",
        ),
        (|root| emulator(root, "10.0.8", "sev-snp-guest igvm-cfg", SVSM_SLOTS), "QEMU"),
        (|root| emulator(root, "of no number", "sev-snp-guest igvm-cfg", SVSM_SLOTS), "QEMU"),
        (|root| emulator(root, "11.1.0", "sev-guest igvm-cfg", SVSM_SLOTS), "QEMU: sev-snp-guest"),
        (|root| emulator(root, "11.1.0", "sev-snp-guest igvm-cfgs", SVSM_SLOTS), "QEMU: igvm-cfg"),
        (|root| emulator(root, "11.1.0", "sev-snp-guest igvm-cfg", "smm"), "QEMU: SVSM's devices"),
    ];
    for (index, (harm, name)) in cases.into_iter().enumerate() {
        let host = good_host();
        harm(host.path());
        assert_eq!(lacking(host.path(), MILAN), [name], "case {index}");
    }
    let host = good_host();
    assert_eq!(lacking(host.path(), (0xF, 51)), ["processor"], "CPUID without SEV-SNP");
    fs::remove_file(host.path().join("qemu")).unwrap();
    assert_eq!(lacking(host.path(), MILAN).len(), 4, "without QEMU, nothing of it is known");
}

fn machine() -> Machine {
    Machine {
        igvm: "svsm,1.igvm".into(),
        policy: 0x30000,
        identity: Some(Identity { block: vec![1; 96], auth: vec![2; 4096], author: true }),
        host_data: [7; 32],
        c_bit: 51,
        reduced_bits: 1,
        model: "EPYC-v4".into(),
        vcpus: 4,
        memory_mib: 2048,
        volume: Some("volume".into()),
        block_bytes: 4096,
        channel: "relay.socket".into(),
        control: "control".into(),
        extra: vec!["-name".into(), "<it's>".into()],
    }
}

#[test]
fn qemu_is_told_what_the_launch_is_and_where_the_volume_and_the_channel_are() {
    let line = machine().words().join(" ");
    let [block, auth] = [vec![1; 96], vec![2; 4096]].map(|bytes: Vec<u8>| STANDARD.encode(bytes));
    let data = STANDARD.encode([7; 32]);
    for wanted in [
        "-machine q35,accel=kvm,memory-backend=memory,confidential-guest-support=snp,igvm-cfg=igvm,x-svsm-virtio-mmio=on",
        "-object memory-backend-memfd,id=memory,size=2048M,share=on",
        &format!("sev-snp-guest,id=snp,policy=0x30000,cbitpos=51,reduced-phys-bits=1,host-data={data}"),
        &format!(",id-block={block},id-auth={auth},author-key-enabled=on"),
        "-object igvm-cfg,id=igvm,file=svsm,,1.igvm",
        "-cpu EPYC-v4",
        "-smp 4 -m 2048M",
        "virtio-blk-device,drive=husk-volume,num-queues=1,write-cache=on",
        "-chardev socket,id=husk-channel,path=relay.socket",
        "-qmp unix:control,server=on,wait=off",
    ] {
        assert!(line.contains(wanted), "{wanted} in {line}");
    }
    let plain = Machine { identity: None, ..machine() }.words().join(" ");
    assert!(!plain.contains("id-block") && !plain.contains("author-key"));
}

#[test]
fn a_launch_has_the_files_policy_and_a_digest_of_its_pages() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let write = |content: u8, policies: Vec<IgvmInitializationHeader>| {
        let platform = IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
            compatibility_mask: 1,
            highest_vtl: 0,
            platform_type: IgvmPlatformType::SEV_SNP,
            platform_version: 1,
            shared_gpa_boundary: 0,
        });
        let page = IgvmDirectiveHeader::PageData {
            gpa: 0x10_0000,
            compatibility_mask: 1,
            flags: IgvmPageDataFlags::new(),
            data_type: IgvmPageDataType::NORMAL,
            data: vec![content; 4096],
        };
        let file = IgvmFile::new(IgvmRevision::V1, vec![platform], policies, vec![page]).unwrap();
        let mut bytes = Vec::new();
        file.serialize(&mut bytes).unwrap();
        fs::write(&path, bytes).unwrap();
    };
    let policy = || vec![IgvmInitializationHeader::GuestPolicy { policy: 0x30000, compatibility_mask: 1 }];
    write(1, policy());
    let launch = Launch::of(&path, 2, "EPYC-v4").unwrap();
    assert_eq!((launch.policy, launch.identity), (0x30000, None));
    write(2, policy());
    assert_ne!(Launch::of(&path, 2, "EPYC-v4").unwrap().measurement, launch.measurement);
    assert!(Launch::of(&path, 2, "qemu64").unwrap_err().root_cause().to_string().contains("no model"));
    write(1, Vec::new());
    assert!(format!("{:#}", Launch::of(&path, 2, "EPYC-v4").unwrap_err()).contains("policy"));
    fs::write(&path, b"IGVM").unwrap();
    assert!(Launch::of(&path, 1, "EPYC-v4").is_err());
}

fn is_valid(definition: &Path) -> bool {
    let judged = Command::new("virt-xml-validate").arg(definition).arg("domain").output();
    judged.expect("virt-xml-validate; run `cargo xtask setup`").status.success()
}

#[test]
fn libvirts_schema_takes_the_domain() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("domain.xml");
    let text = domain("vm-1", Path::new("/opt/qemu"), &machine());
    assert!(text.contains("svsm,,1.igvm") && text.contains("&lt;it&apos;s&gt;"), "{text}");
    fs::write(&path, &text).unwrap();
    assert!(is_valid(&path), "{text}");
    fs::write(&path, text.replace("<vcpu>4</vcpu>", "<vcpu>four</vcpu>")).unwrap();
    assert!(!is_valid(&path), "nothing is refused");
}
