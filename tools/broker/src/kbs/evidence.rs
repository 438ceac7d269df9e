//! RCAR's request and attestation, out of their JSON.

use super::jwe::TeeKey;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use husk::attest::runtime::{KbsRuntime, NONCE_BYTES};
use husk::seams::REPORT_BYTES;
use serde::Deserialize;
use sev::firmware::guest::AttestationReport;
use sev::firmware::host::{CertTableEntry, CertType};
use sev::parser::ByteParser as _;

/// The only version that is spoken, as at Trustee.
pub(crate) const PROTOCOL: &str = "0.4.0";

#[derive(Deserialize)]
struct Request {
    version: String,
    tee: String,
}

/// Whether a request is for this version and for SEV-SNP.
pub(crate) fn request_is_spoken(body: &[u8]) -> bool {
    let request: Result<Request, _> = serde_json::from_slice(body);
    request.is_ok_and(|request| request.version == PROTOCOL && request.tee == "snp")
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Body {
    init_data: Option<InitData>,
    runtime_data: RuntimeData,
    tee_evidence: Composite,
}

#[derive(Deserialize)]
struct InitData {
    body: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RuntimeData {
    nonce: String,
    tee_pubkey: TeeKey,
}

#[derive(Deserialize)]
struct Composite {
    primary_evidence: Snp,
    additional_evidence: String,
}

#[derive(Deserialize)]
struct Snp {
    attestation_report: AttestationReport,
    cert_chain: Option<Vec<CertTableEntry>>,
}

/// An attestation, as it was alleged.
#[derive(Debug)]
pub struct Attestation {
    /// The report, as the processor signed it: a field that the JSON does not carry makes its signature fail.
    pub report: [u8; REPORT_BYTES],
    /// The certificate of the report's key; empty if the client had none.
    pub certificate: Vec<u8>,
    /// The nonce.
    pub nonce: [u8; NONCE_BYTES],
    /// The TEE key.
    pub key: TeeKey,
    /// What the client says that HOST_DATA is the digest of.
    pub init_data: Option<String>,
}

impl Attestation {
    /// Reads the body of an attestation.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let body: Body = serde_json::from_slice(body).ok()?;
        let Snp { attestation_report, cert_chain } = body.tee_evidence.primary_evidence;
        if !body.tee_evidence.additional_evidence.is_empty() {
            return None;
        }
        let is_of_the_report =
            |entry: &CertTableEntry| matches!(entry.cert_type, CertType::VCEK | CertType::VLEK);
        let certificate = cert_chain.into_iter().flatten().find(is_of_the_report);
        let nonce = STANDARD.decode(body.runtime_data.nonce).ok()?.try_into().ok()?;
        Some(Self {
            report: attestation_report.to_bytes().ok()?.as_ref().try_into().ok()?,
            certificate: certificate.map(|entry| entry.data).unwrap_or_default(),
            nonce,
            key: body.runtime_data.tee_pubkey,
            init_data: body.init_data.map(|init_data| init_data.body),
        })
    }

    /// The REPORT_DATA that binds its nonce and its TEE key; nothing for a key that nothing could be encrypted to.
    #[must_use]
    pub fn report_data(&self) -> Option<[u8; 64]> {
        let (x, y) = self.key.coordinates()?;
        Some(KbsRuntime { nonce: self.nonce, x, y }.report_data())
    }
}
