//! The disconnected mode as an operator meets it: a root key, a configuration, a permit, a volume, and a TPM that comes back
//! without a network. Every tool says that nothing protects against rollback.
#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

#[path = "support/site.rs"]
mod site;
#[path = "../../../tests/support/tpm.rs"]
mod tpm;

use husk_psp::{Identity, expected_measurement};
use site::{Process, Site, husk};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tpm::Reply;

const ID: &str = "000102030405060708090a0b0c0d0e0f";
const INDEX: u32 = 0x0150_0001;
const PLAIN: u32 = tpm::NV_AUTH_AND_OWNER | tpm::NV_NO_DA;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// A command that fails, for that reason.
#[track_caller]
fn refused(site: &Site, arguments: &[&str], reason: &str) {
    let output = site.run(arguments);
    assert!(!output.status.success() && said(&output).contains(reason), "{arguments:?}: {}", said(&output));
}

fn config<'a>(root: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["image", "config", "--tenant", ID, "--vm", ID, "--root", root, "--out", out, "--json"];
    [&fixed[..], more].concat()
}

const DISCONNECTED: [&str; 3] = ["--mode", "hw-sealed", "--processor"];

/// A folder with a simulated processor at work, a tenant's root key, a configuration and a volume with a permit on it.
fn disconnected() -> (Site, Process) {
    let site = Site::new();
    Identity::published(0).unwrap().save(&site.path("chip")).unwrap();
    fs::write(site.path("firmware"), b"firmware of a test").unwrap();
    let psp = processor(&site, "chip");
    let root = site.json(&["tenant", "root", "--root-out", "root", "--json"]);
    let root = root["root"].as_str().unwrap().to_owned();
    let written = site.json(&config(&root, "config", &DISCONNECTED));
    assert_eq!(written["mode"], "hw-sealed");
    assert!(written["rollback_protection"].as_str().unwrap().starts_with("NONE"), "{written}");
    let permit = ["tenant", "permit", "--root", "root", "--config", "config", "--out", "permit", "--json"];
    let permit = site.json(&permit);
    assert!(permit["rollback_protection"].as_str().unwrap().starts_with("NONE"), "{permit}");
    let made = said(&site.run(&["volume", "create", "--permit", "permit", "volume"]));
    assert!(made.contains("HW-SEALED") && made.contains("old copy"), "{made}");
    (site, psp)
}

fn processor(site: &Site, chip: &str) -> Process {
    let socket = site.path("psp");
    if socket.exists() {
        fs::remove_file(&socket).unwrap();
    }
    site.start(&["psp", "serve", "--dir", chip, "--socket", "psp"], "psp").0
}

const VTPMD: [&str; 10] =
    ["vtpmd", "--volume", "volume", "--config", "config", "--psp", "psp", "--firmware", "firmware", "--data"];

/// A TPM at work, which is killed with this value.
struct Tpm {
    _process: Process,
    stream: UnixStream,
}

impl Tpm {
    fn start(site: &Site) -> Self {
        let data = site.path("data");
        if data.exists() {
            fs::remove_file(&data).unwrap();
        }
        let log = fs::File::create(site.path("log")).unwrap();
        let mut command = husk(&[&VTPMD[..], &["unix:data"]].concat());
        let child = command.current_dir(site.folder.path()).stdout(Stdio::null()).stderr(log).spawn();
        let process = Process(child.unwrap());
        let patience = Instant::now() + Duration::from_secs(120);
        let stream = loop {
            match UnixStream::connect(&data) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < patience, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut tpm = Self { _process: process, stream };
        tpm.send(&tpm::startup_clear()).ok();
        tpm
    }

    fn send(&mut self, command: &[u8]) -> Reply {
        self.stream.write_all(command).unwrap();
        let mut header = [0; 10];
        self.stream.read_exact(&mut header).unwrap();
        let size = u32::from_be_bytes(header[2..6].try_into().unwrap());
        let mut rest = vec![0; usize::try_from(size).unwrap() - header.len()];
        self.stream.read_exact(&mut rest).unwrap();
        Reply([&header[..], &rest].concat())
    }

    fn read(&mut self) -> Vec<u8> {
        tpm::nv_data_of(&self.send(&tpm::nv_read_by_owner(INDEX, 4)).ok()).to_vec()
    }
}

/// Runs the TPM where it does not start, and says why.
#[track_caller]
fn does_not_start(site: &Site, more: &[&str], code: i32, reason: &str) {
    let output = site.run(&[&VTPMD[..], &["unix:data"], more].concat());
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    assert!(said(&output).contains(reason), "{}", said(&output));
}

#[test]
fn a_tpm_comes_back_without_a_network_and_every_tool_says_what_it_lacks() {
    let (site, psp) = disconnected();
    let inspected = said(&site.run(&["volume", "inspect", "volume"]));
    assert!(inspected.starts_with("WARNING: this volume is HW-SEALED"), "{inspected}");
    let mut tpm = Tpm::start(&site);
    tpm.send(&tpm::nv_define(INDEX, PLAIN, 4, b"")).ok();
    tpm.send(&tpm::nv_write_by_owner(INDEX, b"kept")).ok();
    assert!(fs::read_to_string(site.path("log")).unwrap().contains("HW-SEALED"));
    drop(tpm);
    let old = fs::read(site.path("volume")).unwrap();
    let mut tpm = Tpm::start(&site);
    assert_eq!(tpm.read(), b"kept");
    tpm.send(&tpm::nv_write_by_owner(INDEX, b"lost")).ok();
    drop(tpm);
    let inspected = said(&site.run(&["volume", "inspect", "volume"]));
    assert!(inspected.starts_with("WARNING: this volume is HW-SEALED"), "{inspected}");
    let shown = site.json(&["volume", "inspect", "--json", "volume"]);
    assert_eq!(shown["areas"][0]["checkpoint"]["mode"], "HW-SEALED");
    // What the mode does not promise.
    fs::write(site.path("volume"), old).unwrap();
    assert_eq!(Tpm::start(&site).read(), b"kept", "an old copy is taken for the newest");
    // Another chip of the same root, and then another image on the right one.
    drop(psp);
    Identity::published(1).unwrap().save(&site.path("other-chip")).unwrap();
    let other = processor(&site, "other-chip");
    does_not_start(&site, &[], 14, "damaged");
    drop(other);
    let _psp = processor(&site, "chip");
    fs::write(site.path("firmware"), b"another firmware").unwrap();
    does_not_start(&site, &[], 14, "damaged");
    fs::write(site.path("firmware"), b"firmware of a test").unwrap();
    assert_eq!(Tpm::start(&site).read(), b"kept");
}

#[test]
fn nothing_is_made_without_the_permit_and_no_mode_is_entered_by_its_back_door() {
    let (site, _psp) = disconnected();
    fs::rename(site.path("volume"), site.path("permitted")).unwrap();
    site.run(&["volume", "create", "volume"]);
    does_not_start(&site, &[], 14, "blank");
    fs::remove_file(site.path("volume")).unwrap();
    fs::rename(site.path("permitted"), site.path("volume")).unwrap();
    let root = site.json(&["tenant", "root", "--root-out", "stranger", "--json"]);
    let root = root["root"].as_str().unwrap().to_owned();
    site.json(&config(&root, "config-of-a-stranger", &DISCONNECTED));
    fs::rename(site.path("config"), site.path("config-of-the-tenant")).unwrap();
    fs::rename(site.path("config-of-a-stranger"), site.path("config")).unwrap();
    does_not_start(&site, &[], 14, "permit");
    let permit = ["tenant", "permit", "--config", "config", "--out", "other", "--root"];
    refused(&site, &[&permit[..], &["root"]].concat(), "another root key");
    // A configuration with a broker wants the broker, and one without wants none.
    does_not_start(&site, &["--relay", "relay"], 1, "leave --relay out");
    fs::remove_file(site.path("config")).unwrap();
    site.json(&config(&root, "config", &["--serve", "detect"]));
    does_not_start(&site, &[], 1, "give --relay");
    does_not_start(&site, &["--relay", "relay"], 13, "broker");
    refused(&site, &[&permit[..], &["stranger"]].concat(), "does not name hw-sealed");
    // What names the mode by halves is refused before anything starts.
    for (file, more) in [("a", &["--mode", "hw-sealed"][..]), ("b", &["--serve", "none"])] {
        let written = site.json(&config(&root, file, more));
        assert!(written["supported"].as_str().unwrap().starts_with("no"), "{written}");
    }
}

/// The broker's VM, moved to this mode by a host that has its volume: the configuration is another, the volume is the broker's.
#[test]
fn enrolment_never_writes_a_configuration_without_a_broker() {
    let (site, tenant) = Site::with_tenant();
    site.enrol(&tenant, &expected_measurement(b"firmware of a test"));
    let shown = site.json(&["image", "config", "--from", "config", "--json"]);
    assert_eq!(shown["mode"], "strict");
    let digits = "5a".repeat(48);
    let line = ["vm", "enroll", "--database", "db", "--tenant", &tenant, "--measurement", &digits];
    refused(&site, &[&line[..], &["--config-out", "c", "--serve", "none"]].concat(), "lease, percmd, detect");
}

#[test]
fn a_machine_is_started_with_the_broker_that_its_configuration_names_or_with_none() {
    let (site, _psp) = disconnected();
    let mut kernel = vec![0xC0; 0x3000];
    kernel[0x1F1] = 1;
    kernel[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
    kernel[0x200..0x208].copy_from_slice(b"\xEB\x6AHdrS\x0F\x02");
    kernel[0x211] = 1;
    kernel[0x22C..0x230].copy_from_slice(&0x7FFF_FFFF_u32.to_le_bytes());
    kernel[0x230..0x234].copy_from_slice(&0x20_0000_u32.to_le_bytes());
    kernel[0x238..0x23C].copy_from_slice(&2047_u32.to_le_bytes());
    kernel[0x258..0x260].copy_from_slice(&0x100_0000_u64.to_le_bytes());
    kernel[0x260..0x264].copy_from_slice(&0x200_0000_u32.to_le_bytes());
    fs::write(site.path("kernel"), kernel).unwrap();
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/husk/image/husk-image");
    assert!(image.is_file(), "{} is not there: run `cargo xtask image`", image.display());
    let image = image.display().to_string();
    let line = ["run", "--image", &image, "--kernel", "kernel", "--config", "config", "--memory", "512"];
    let line = [&line[..], &["--volume", "volume", "--psp", "psp"]].concat();
    refused(&site, &[&line[..], &["--broker", "http://127.0.0.1:1"]].concat(), "leave --broker out");
    for epoch in [1, 2] {
        let lines = until_the_guest_starts(&site, &line);
        let told = |text: &str| lines.iter().any(|line| line.contains(text));
        assert!(told("husk: HW-SEALED") && told("husk run: HW-SEALED"), "{lines:#?}");
        let shown = site.json(&["volume", "inspect", "--json", "volume"]);
        let newest =
            shown["areas"].as_array().unwrap().iter().filter_map(|area| area["checkpoint"]["epoch"].as_u64());
        assert_eq!(newest.max(), Some(epoch));
    }
}

/// Runs a machine until its guest starts, and cuts its power; what the console and the command said.
fn until_the_guest_starts(site: &Site, line: &[&str]) -> Vec<String> {
    let log = site.path("run.log");
    let (console, also) = {
        let file = fs::File::create(&log).unwrap();
        (file.try_clone().unwrap(), file)
    };
    let mut command = husk(line);
    let child = command.current_dir(site.folder.path()).stdin(Stdio::null()).stdout(console).stderr(also);
    let mut child = child.spawn().unwrap();
    let patience = Instant::now() + Duration::from_secs(240);
    loop {
        let said = fs::read(&log).unwrap();
        let lines: Vec<_> = String::from_utf8_lossy(&said).lines().map(str::to_owned).collect();
        if lines.iter().any(|line| line.contains("husk: the guest starts")) {
            let pid = child.id().to_string();
            assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
            child.wait().unwrap();
            return lines;
        }
        assert!(child.try_wait().unwrap().is_none() && Instant::now() < patience, "{lines:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
