//! `husk evidence` as a relying party meets it: a report over an SVSM manifest, and what is refused. With `HUSK_EVIDENCE_DIR`
//! also every real report in that folder.
#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

use husk::attest::report::Policy;
use husk::seams::{REPORT_BYTES, Reporter};
use husk_evidence::report_data;
use husk_psp::{Identity, LocalGuest, Processor, PspReporter};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const NONCE: [u8; 64] = [0xA5; 64];

/// A folder with a simulated processor's report over the golden manifest of version 1.
struct Site {
    folder: tempfile::TempDir,
    manifest: Vec<u8>,
}

impl Site {
    fn new() -> Self {
        Self::over(golden("svsm/manifest-1.bin"))
    }

    /// With a report over this manifest.
    fn over(manifest: Vec<u8>) -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap(), manifest };
        let identity = Identity::published(0).unwrap();
        let mut counter = 0;
        let entropy = Box::new(move |into: &mut [u8]| {
            counter += 1;
            into.fill(counter);
            Ok(())
        });
        let processor = Processor::shared(identity.clone(), entropy);
        let policy = Policy::RESERVED_ONE.union(Policy::SMT).bits();
        let (guest, secrets) = LocalGuest::launch(&processor, &[1], &[2; 32], policy).unwrap();
        let mut reporter = PspReporter::new(guest, secrets, Vec::new());
        let mut report = [0; REPORT_BYTES];
        reporter.report(&report_data(&NONCE, &site.manifest), &mut report).unwrap();
        site.put("report", &report);
        site.put("manifest", &site.manifest);
        site.put("vcek.der", identity.certificate());
        site.put("chain.pem", identity.chain_pem().unwrap().as_bytes());
        site.put("table", &table(identity.certificate()));
        site.put("answer", &answer(&report));
        site
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        husk(self.folder.path(), arguments)
    }

    /// `verify` of these files, with the golden nonce.
    fn verify(&self, report: &str, certificate: &str, more: &[&str]) -> Output {
        let fixed = ["evidence", "verify", "--json", "--report", report, "--certificate", certificate];
        let accepted = ["--accept-simulated-silicon", "chain.pem"];
        self.run(&[&fixed[..], &accepted, more].concat())
    }
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name)).unwrap()
}

fn husk(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_husk")).current_dir(folder).args(arguments).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(output: &Output, why: &str) {
    let line = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert!(line.contains(why) && output.stdout.is_empty(), "{line}");
}

/// The table of an extended report, padded as Linux hands it out.
fn table(certificate: &[u8]) -> Vec<u8> {
    let vcek = hex::decode("8d75da6364e66445adc5f4b93be8accd").unwrap();
    let length = u32::try_from(certificate.len()).unwrap();
    let mut table = [&vcek[..], &48_u32.to_le_bytes(), &length.to_le_bytes(), &[0; 24], certificate].concat();
    table.resize(16 * 1024, 0);
    table
}

/// MSG_REPORT_RSP as Linux' ioctl hands it out.
fn answer(report: &[u8]) -> Vec<u8> {
    let mut answer = [&[0; 4][..], &1184_u32.to_le_bytes(), &[0; 24], report].concat();
    answer.resize(4000, 0);
    answer
}

#[test]
fn a_report_over_a_manifest_is_verified_in_every_form_in_which_it_comes() {
    let site = Site::new();
    let nonce = hex::encode(NONCE);
    for (report, certificate) in [("report", "vcek.der"), ("answer", "table")] {
        let seen = json(&site.verify(report, certificate, &["--manifest", "manifest", "--nonce", &nonce]));
        assert_eq!((&seen["silicon"], &seen["report"]["vmpl"]), (&"simulated".into(), &0.into()));
        assert_eq!(seen["manifest"]["form"], "vtpm 1");
        assert_eq!(seen["manifest"]["tenant"], hex::encode(b"tenant of a test"));
        assert_eq!(seen["report"]["host_data"], "02".repeat(32));
        assert!(seen["tcb"]["reported"]["snp"].is_number());
    }
    let plain = site.run(&[
        "evidence",
        "verify",
        "--report",
        "report",
        "--certificate",
        "vcek.der",
        "--accept-simulated-silicon",
        "chain.pem",
    ]);
    let text = String::from_utf8(plain.stdout).unwrap();
    assert!(text.contains("SIMULATED") && text.contains("measurement"), "{text}");
}

/// The chain that a relying party wants: silicon, firmware, manifest, endorsement key, its maker.
#[test]
fn an_endorsement_keys_certificate_is_of_the_key_in_the_manifest_or_refused() {
    let nonce = hex::encode(NONCE);
    // Version 0 of a real engine's manifest is the public area of its RSA key.
    let site = Site::over(golden("svsm/keys-of-libtpms-0.09.bin")[..314].to_vec());
    let verify = |site: &Site, certificate: &str| {
        for name in ["root.pem", "issuer.pem", "ek-rsa2048.der", "ek-p256.der"] {
            site.put(name, &golden(&format!("tpm/{name}")));
        }
        let bound = ["--manifest", "manifest", "--nonce", &nonce, "--ek-certificate", certificate];
        let chain = ["--ek-root", "root.pem", "--ek-intermediate", "issuer.pem"];
        site.verify("report", "vcek.der", &[&bound[..], &chain].concat())
    };
    let seen = json(&verify(&site, "ek-rsa2048.der"));
    assert_eq!(
        (&seen["manifest"]["form"], &seen["ek_certificate"]["kind"]),
        (&"vtpm 0".into(), &"rsa2048".into())
    );
    assert!(seen["proven"].to_string().contains("for an endorsement key that was shown"), "{seen}");
    refused(&verify(&site, "ek-p256.der"), "another endorsement key");
    refused(&verify(&Site::new(), "ek-rsa2048.der"), "another endorsement key");
}

#[test]
fn what_does_not_hold_is_refused_with_its_reason() {
    let site = Site::new();
    let nonce = hex::encode(NONCE);
    let bound = ["--manifest", "manifest", "--nonce", &nonce];
    let unaccepted =
        site.run(&["evidence", "verify", "--report", "report", "--certificate", "vcek.der", "--json"]);
    refused(&unaccepted, "simulated processor, not silicon");
    let other_nonce = ["--manifest", "manifest", "--nonce", &"00".repeat(64)];
    refused(&site.verify("report", "vcek.der", &other_nonce), "does not cover");
    let mut manifest = site.manifest.clone();
    manifest[0x48] ^= 1;
    site.put("manifest", &manifest);
    refused(&site.verify("report", "vcek.der", &bound), "does not cover");
    refused(&site.verify("report", "vcek.der", &["--measurement", &"00".repeat(48)]), "other firmware");
    refused(&site.verify("report", "vcek.der", &["--host-data", &"00".repeat(32)]), "HOST_DATA");
    refused(&site.verify("manifest", "vcek.der", &[]), "neither a report");
    refused(&site.verify("report", "report", &[]), "certificate");
    refused(&site.verify("nowhere", "vcek.der", &[]), "cannot read");
    let mut report = std::fs::read(site.path("report")).unwrap();
    report[0x90] ^= 1;
    site.put("report", &report);
    refused(&site.verify("report", "vcek.der", &[]), "signature");
    let half = site.verify("report", "vcek.der", &["--manifest", "manifest"]);
    assert_eq!(half.status.code(), Some(2), "a manifest without its nonce proves nothing");
}

#[test]
fn show_tells_every_kind_of_file_by_itself() {
    let site = Site::new();
    site.put("version-0", &site.manifest[0xC4..0xC4 + 314]);
    let files = ["report", "answer", "vcek.der", "table", "manifest", "version-0"];
    let seen = json(&site.run(&[&["evidence", "show", "--json"], &files[..]].concat()));
    let kinds: Vec<_> = seen.as_array().unwrap().iter().map(|seen| seen["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["report", "report", "certificate", "certificate", "manifest", "manifest"]);
    assert_eq!(seen[0]["report"], seen[1]["report"]);
    assert_eq!(seen[0]["report"]["report_data_is"], "other");
    assert_eq!(seen[5]["manifest"]["form"], "vtpm 0");
    let plain = site.run(&[&["evidence", "show"], &files[..]].concat());
    assert!(String::from_utf8(plain.stdout).unwrap().contains("Nothing of this is verified"));
    refused(&site.run(&["evidence", "show", "chain.pem"]), "chain.pem");
}

#[test]
fn real_reports_are_verified_and_shown() {
    let Some(folder) = std::env::var_os("HUSK_EVIDENCE_DIR").map(PathBuf::from) else {
        eprintln!("evidence: not tried: HUSK_EVIDENCE_DIR is unset, so no real report was shown");
        return;
    };
    for (report, certificate, generation, key) in [
        ("tr_test-report.bin", "tr_test-vcek.der", "Milan", "VCEK"),
        ("tr_test-vlek-report.bin", "tr_test-vlek.der", "Milan", "VLEK"),
        ("oak_genoa_oc.report.bin", "oak_genoa_oc.vcek.der", "Genoa", "VCEK"),
    ] {
        let fixed = ["evidence", "verify", "--json", "--report", report, "--certificate", certificate];
        let seen =
            husk(&folder, &[&fixed[..], &["--intermediates", "trustee_milan_ask_ark_asvk.pem"]].concat());
        let seen = json(&seen);
        assert_eq!(
            (&seen["silicon"], &seen["generation"], &seen["key"]),
            (&"amd".into(), &generation.into(), &key.into())
        );
        assert_eq!(seen["root"], Value::Null);
        let shown = json(&husk(&folder, &["evidence", "show", "--json", report, certificate]));
        assert_eq!(shown[0]["report"], seen["report"]);
        assert_eq!(shown[1]["certificate"]["kind"], key);
    }
}
