//! Real reports: where they lie, and what is known about them; which bits are flipped.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

use husk::seams::REPORT_BYTES;
use husk_evidence::Verifier;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A report of real silicon and the certificate of the key that signed it.
pub(crate) struct Real {
    pub(crate) name: String,
    pub(crate) report: [u8; REPORT_BYTES],
    pub(crate) vek: Vec<u8>,
}

#[expect(clippy::panic, reason = "a helper of tests")]
pub(crate) fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn real(folder: &Path, report: &str, vek: &str) -> Real {
    let mut bytes = read(&folder.join(report));
    if report.ends_with(".hex") {
        bytes = hex::decode(bytes.trim_ascii()).unwrap();
    }
    Real { name: report.to_owned(), report: bytes.try_into().unwrap(), vek: read(&folder.join(vek)) }
}

/// The folder that `HUSK_EVIDENCE_DIR` names; says so where it is unset.
pub(crate) fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("HUSK_EVIDENCE_DIR").map(PathBuf::from);
    if folder.is_none() {
        say("not tried: HUSK_EVIDENCE_DIR is unset, so the reports in that folder were not verified");
    }
    folder
}

/// Says what is tried and what is not, also where the test harness keeps the output of tests that pass to itself.
#[expect(clippy::expect_used, reason = "a helper of tests")]
pub(crate) fn say(what: &str) {
    writeln!(std::io::stderr(), "evidence: {what}").expect("somebody listens");
}

/// The `sev` crate's own test data, which lies in cargo's registry because the crate is a dependency.
#[expect(clippy::expect_used, reason = "a helper of tests")]
pub(crate) fn sev_crate_data() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo"))).expect("cargo has a home");
    let registries = std::fs::read_dir(home.join("registry/src")).expect("cargo has a registry");
    let found =
        registries.flatten().flat_map(|registry| std::fs::read_dir(registry.path()).into_iter().flatten());
    found
        .flatten()
        .find(|package| package.file_name().to_string_lossy().starts_with("sev-8."))
        .map(|package| package.path().join("tests/certs_data"))
        .filter(|folder| folder.is_dir())
        .expect("the source of the crate sev lies in cargo's registry")
}

/// Every real report within reach; prints which.
pub(crate) fn reals() -> Vec<Real> {
    let mut out = Vec::new();
    out.push(real(&sev_crate_data(), "report_milan.hex", "vcek_milan.der"));
    if let Some(folder) = folder() {
        out.push(real(&folder, "sev_report_milan.hex", "sev_vcek_milan.der"));
        out.push(real(&folder, "tr_test-report.bin", "tr_test-vcek.der"));
        out.push(real(&folder, "tr_test-vlek-report.bin", "tr_test-vlek.der"));
        out.push(real(&folder, "oak_genoa_oc.report.bin", "oak_genoa_oc.vcek.der"));
    }
    for real in &out {
        say(&format!("trying {}", real.name));
    }
    out
}

/// A verifier with all the intermediates within reach.
#[expect(clippy::unwrap_used, reason = "a helper of tests")]
pub(crate) fn verifier() -> Verifier {
    let verifier = Verifier::new().unwrap();
    match std::env::var_os("HUSK_EVIDENCE_DIR") {
        Some(folder) => verifier.with_intermediates_from(Path::new(&folder)).unwrap(),
        None => verifier,
    }
}

/// Bits to flip, as byte and bit: one of each byte, all in the long run.
pub(crate) fn bits(bytes: usize) -> Vec<(usize, usize)> {
    let long = std::env::var_os("HUSK_LONG").is_some();
    let all = (0..bytes).flat_map(|byte| (0..8).map(move |bit| (byte, bit)));
    all.filter(|(byte, bit)| long || byte % 8 == *bit).collect()
}
