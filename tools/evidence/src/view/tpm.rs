//! The JSON form of what a TPM and its maker say.
#![expect(missing_docs, reason = "json.md lists the fields")]

use crate::{AttestationKey, EkCertificate, EkLaunch, EndorsementPublic, PcrValue, Quote, VerifiedQuote};
use serde::Serialize;
use std::collections::BTreeMap;

/// A certificate of an endorsement key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EkCertificateView {
    pub kind: String,
    pub manufacturer: String,
    pub manufacturer_name: String,
    pub model: String,
    pub version: String,
    pub issuer: String,
    pub subject: String,
    pub serial: String,
    pub not_before: u64,
    pub not_after: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch: Option<EkLaunchView>,
}

/// The launch that a certificate names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EkLaunchView {
    pub tenant: String,
    pub vm: String,
    pub host_data: String,
    pub report_digest: String,
}

impl From<&EkLaunch> for EkLaunchView {
    fn from(launch: &EkLaunch) -> Self {
        Self {
            tenant: hex::encode(launch.tenant),
            vm: hex::encode(launch.vm),
            host_data: hex::encode(launch.host_data),
            report_digest: hex::encode(launch.report_digest),
        }
    }
}

impl From<&EkCertificate> for EkCertificateView {
    fn from(certificate: &EkCertificate) -> Self {
        let letters = certificate.manufacturer.iter().take_while(|byte| **byte != 0);
        let name = letters.map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' });
        Self {
            kind: certificate.kind(),
            manufacturer: hex::encode(certificate.manufacturer),
            manufacturer_name: name.collect(),
            model: certificate.model.clone(),
            version: certificate.version.clone(),
            issuer: certificate.issuer.clone(),
            subject: certificate.subject.clone(),
            serial: hex::encode(&certificate.serial),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            launch: certificate.launch.as_ref().map(EkLaunchView::from),
        }
    }
}

/// A quote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QuoteView {
    pub signer: String,
    pub nonce: String,
    pub clock_ms: u64,
    pub resets: u32,
    pub restarts: u32,
    pub safe: bool,
    pub firmware_version: String,
    pub pcrs: BTreeMap<&'static str, Vec<u8>>,
    pub digest: String,
}

impl From<&Quote> for QuoteView {
    fn from(quote: &Quote) -> Self {
        let banks = quote.selection.iter().map(|bank| (bank.hash.name(), bank.pcrs.clone()));
        Self {
            signer: hex::encode(&quote.signer),
            nonce: hex::encode(&quote.nonce),
            clock_ms: quote.clock_ms,
            resets: quote.resets,
            restarts: quote.restarts,
            safe: quote.safe,
            firmware_version: format!("{:016x}", quote.firmware_version),
            pcrs: banks.collect(),
            digest: hex::encode(&quote.digest),
        }
    }
}

/// A quote that was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifiedQuoteView {
    #[serde(flatten)]
    pub quote: QuoteView,
    pub key: AttestationKeyView,
    pub fresh: bool,
    pub values: Option<BTreeMap<&'static str, BTreeMap<u8, String>>>,
    pub says_child_of: Option<String>,
}

/// The key that signed a quote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttestationKeyView {
    pub kind: String,
    pub name: Option<String>,
}

impl From<&AttestationKey> for AttestationKeyView {
    fn from(key: &AttestationKey) -> Self {
        Self { kind: key.kind(), name: key.name().map(hex::encode) }
    }
}

impl VerifiedQuoteView {
    /// What `quote` says; `fresh` if it [answers](VerifiedQuote::answers) a nonce that was given, `values` if they were given and are the
    /// [quoted](VerifiedQuote::pcrs) ones; `parents` are endorsement keys that it may [name](VerifiedQuote::says_child_of).
    #[must_use]
    pub fn new(
        quote: &VerifiedQuote,
        fresh: bool,
        values: Option<&[PcrValue]>,
        parents: &[EndorsementPublic],
    ) -> Self {
        let parent = parents.iter().find(|parent| quote.says_child_of(parent) == Some(true));
        Self {
            quote: quote.quote().into(),
            key: quote.key().into(),
            fresh,
            values: values.map(by_bank),
            says_child_of: parent.map(|parent| hex::encode(parent.name())),
        }
    }
}

fn by_bank(values: &[PcrValue]) -> BTreeMap<&'static str, BTreeMap<u8, String>> {
    let mut banks: BTreeMap<&'static str, BTreeMap<u8, String>> = BTreeMap::new();
    for PcrValue { hash, pcr, value } in values {
        banks.entry(hash.name()).or_default().insert(*pcr, hex::encode(value));
    }
    banks
}
