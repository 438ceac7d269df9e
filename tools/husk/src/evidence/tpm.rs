//! `husk evidence verify` on what a TPM and its maker say.

use super::boot::{self, Mismatch};
use super::claims::Claims;
use super::{read, seconds_since_1970};
use anyhow::Context as _;
use clap::Args;
use husk::engine::EndorsementKey;
use husk_evidence::view::{EkCertificateView, VerifiedQuoteView};
use husk_evidence::{
    AttestationKey, EkAuthorities, EkCertificate, EkLaunch, EndorsementPublic, Manifest, PcrValue, Quote,
    QuoteSignature, ServiceContent, Verified, VerifiedQuote,
};
use husk_guest::expect::ExpectArgs;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha384};
use std::path::{Path, PathBuf};

/// The options about a TPM.
#[derive(Args, Debug)]
pub(super) struct TpmArgs {
    /// The certificate of an endorsement key: DER or PEM.
    #[arg(long, value_name = "FILE", requires = "ek_root")]
    ek_certificate: Option<PathBuf>,
    /// Whom to believe about it: its maker's root certificates (PEM, or one in DER).
    #[arg(long, value_name = "FILE", requires = "ek_certificate")]
    ek_root: Option<PathBuf>,
    /// Certificates that stand between (PEM, or one in DER).
    #[arg(long, value_name = "FILE", requires = "ek_certificate")]
    ek_intermediate: Vec<PathBuf>,
    /// The endorsement key that it must be for, where no manifest shows it (TPM2B_PUBLIC or TPMT_PUBLIC).
    #[arg(long, value_name = "FILE", conflicts_with = "manifest")]
    ek_public: Option<PathBuf>,
    /// A quote: the TPMS_ATTEST that `tpm2_quote --message` wrote.
    #[arg(long, value_name = "FILE", requires_all = ["signature", "ak"])]
    quote: Option<PathBuf>,
    /// Its signature: the TPMT_SIGNATURE that `tpm2_quote --signature` wrote.
    #[arg(long, value_name = "FILE", requires = "quote")]
    signature: Option<PathBuf>,
    /// The attestation key: TPM2B_PUBLIC, TPMT_PUBLIC (`tpm2_createak --public`), or PEM.
    #[arg(long, value_name = "FILE", requires = "quote")]
    ak: Option<PathBuf>,
    /// The PCR values that `tpm2_quote --pcr` wrote.
    #[arg(long, value_name = "FILE", requires = "quote")]
    pcrs: Option<PathBuf>,
    /// The nonce that the quote was asked for with, as hexadecimal digits.
    #[arg(long, value_name = "HEX", requires = "quote", value_parser = nonce)]
    quote_nonce: Option<Nonce>,
    #[command(flatten)]
    guest: ExpectArgs,
}

/// What was verified of a TPM, for a broker's statement to be compared with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// The launch that an endorsement key's certificate names.
    pub(super) named: Option<EkLaunch>,
    /// TPMS_CLOCK_INFO.resetCount of a quote.
    pub(super) resets: Option<u32>,
}

/// The launch that a verified report is of.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReportedLaunch {
    host_data: [u8; 32],
    digest: [u8; 48],
}

impl ReportedLaunch {
    /// Of the report in `bytes`.
    pub(super) fn of(verified: &Verified<'_>, bytes: &[u8]) -> Self {
        Self { host_data: *verified.report.host_data(), digest: Sha384::digest(bytes).into() }
    }
}

/// A nonce of any length.
#[derive(Clone, Debug)]
struct Nonce(Vec<u8>);

fn nonce(text: &str) -> Result<Nonce, String> {
    hex::decode(text).map(Nonce).map_err(|_| "hexadecimal digits are wanted".into())
}

/// The DER bytes in a file that is DER or PEM.
pub(super) fn der_of(bytes: &[u8]) -> Option<Vec<u8>> {
    husk_evidence::key_certificate_in(bytes)
        .ok()
        .filter(|_| bytes.first() == Some(&0x30) || bytes.starts_with(b"-----"))
}

impl TpmArgs {
    /// Verifies what was named; `manifest` is one that a report covers, `launch` that report's.
    pub(super) fn verify(
        &self,
        (manifest, launch): (Option<&Manifest>, Option<ReportedLaunch>),
        object: &mut Map<String, Value>,
        claims: &mut Claims,
    ) -> anyhow::Result<Seen> {
        if self.guest.guest.is_some() && self.pcrs.is_none() {
            anyhow::bail!(
                "what a guest's PCRs must hold is compared with values that were quoted: name them (--quote, --pcrs)"
            );
        }
        let shown = self.endorsement_keys(manifest)?;
        let mut seen = Seen::default();
        if let Some((file, root)) = self.ek_certificate.as_deref().zip(self.ek_root.as_deref()) {
            let certificate = self.certificate((file, root), &shown, launch, claims)?;
            object.insert(
                "ek_certificate".into(),
                serde_json::to_value(EkCertificateView::from(&certificate))?,
            );
            seen.named = certificate.launch;
        }
        let Some(quote) = self.verified_quote()? else { return Ok(seen) };
        let (view, values) = self.quoted(&quote, &shown, claims)?;
        object.insert("quote".into(), serde_json::to_value(view)?);
        self.expected(&values.unwrap_or_default(), object, claims)?;
        Ok(Seen { resets: Some(quote.quote().resets), ..seen })
    }

    /// The values are those of the guest that was named, if one was.
    fn expected(
        &self,
        values: &[PcrValue],
        object: &mut Map<String, Value>,
        claims: &mut Claims,
    ) -> anyhow::Result<()> {
        let Some(guest) = self.guest.read()? else {
            claims.not_proven("that the PCR values are the right ones: that is for you to say");
            return Ok(());
        };
        let rows = boot::rows(values, &boot::wanted(&guest).collect::<Vec<_>>());
        object.insert("pcrs".into(), serde_json::to_value(&rows)?);
        Mismatch::among(&rows)?;
        boot::claims(&self.guest, &guest, claims);
        Ok(())
    }

    /// The endorsement keys that a manifest or a public area shows.
    fn endorsement_keys(&self, manifest: Option<&Manifest>) -> anyhow::Result<Vec<EndorsementPublic>> {
        if let Some(file) = &self.ek_public {
            return Ok(vec![public_area(file)?]);
        }
        Ok(match manifest {
            None => Vec::new(),
            Some(Manifest::Version0(key)) => vec![key.clone()],
            Some(Manifest::Version1(manifest)) => manifest.keys.to_vec(),
            Some(Manifest::Services(services)) => services
                .iter()
                .filter_map(|service| match &service.content {
                    ServiceContent::Vtpm(key) => Some(key.clone()),
                    ServiceContent::Other(_) => None,
                })
                .collect(),
        })
    }

    fn certificate(
        &self,
        (file, root): (&Path, &Path),
        shown: &[EndorsementPublic],
        reported: Option<ReportedLaunch>,
        claims: &mut Claims,
    ) -> anyhow::Result<EkCertificate> {
        let named = |file: &Path| file.display().to_string();
        let authorities = authorities(root, &self.ek_intermediate)?;
        let bytes = read(file)?;
        let der = der_of(&bytes).unwrap_or(bytes);
        let verified = authorities.verify(&der, seconds_since_1970()).with_context(|| named(file))?;
        let certificate = verified.certificate();
        claims.proven("a root that you named takes the endorsement key for a TPM's");
        if shown.is_empty() {
            claims.not_proven(
                "that your TPM has this endorsement key: neither a manifest nor its public area was given",
            );
        } else {
            let matched = shown.iter().map(|key| certificate.certifies(key));
            matched.reduce(Result::or).unwrap_or(Ok(()))?;
            claims.proven("the certificate is for an endorsement key that was shown");
        }
        launched(certificate, reported, claims)?;
        claims.not_proven("that the certificate was not revoked");
        Ok(certificate.clone())
    }

    fn verified_quote(&self) -> anyhow::Result<Option<VerifiedQuote>> {
        let (Some(quote), Some(signature), Some(ak)) = (&self.quote, &self.signature, &self.ak) else {
            return Ok(None);
        };
        let named = |file: &PathBuf| file.display().to_string();
        let key = AttestationKey::parse(&read(ak)?).with_context(|| named(ak))?;
        let signature = QuoteSignature::parse(&read(signature)?).with_context(|| named(signature))?;
        let quote = Quote::parse(&read(quote)?).with_context(|| named(quote))?;
        Ok(Some(quote.verify(&signature, &key)?))
    }

    fn quoted(
        &self,
        quote: &VerifiedQuote,
        shown: &[EndorsementPublic],
        claims: &mut Claims,
    ) -> anyhow::Result<(VerifiedQuoteView, Option<Vec<PcrValue>>)> {
        claims.proven("the attestation key signed this quote");
        match &self.quote_nonce {
            Some(nonce) => {
                quote.answers(&nonce.0)?;
                claims.proven("the quote was made for your nonce");
            }
            None => claims.not_proven("that the quote is recent: it was not compared with a nonce of yours"),
        }
        let values: Option<Vec<PcrValue>> = self
            .pcrs
            .as_deref()
            .map(|file| -> anyhow::Result<_> { Ok(quote.pcrs(&read(file)?)?) })
            .transpose()?;
        match values {
            Some(_) => claims.proven("the PCRs had these values"),
            None => claims.not_proven("which values the PCRs had: only their digest is known"),
        }
        if quote.key().name().is_some() {
            claims.proven("by its public area, the key signs nothing but what its TPM made");
        } else {
            claims.not_proven("that the key signs nothing but what a TPM made: a PEM file does not say so");
        }
        claims.not_proven(
            "that the attestation key is in the TPM with the endorsement key: only TPM2_ActivateCredential shows that, \
             whatever the key says of its parent",
        );
        let view = VerifiedQuoteView::new(quote, self.quote_nonce.is_some(), values.as_deref(), shown);
        Ok((view, values))
    }
}

/// What a certificate says of a launch, held against the one of a verified report.
pub(super) fn launched(
    certificate: &EkCertificate,
    reported: Option<ReportedLaunch>,
    claims: &mut Claims,
) -> anyhow::Result<()> {
    let Some(launch) = certificate.launch else {
        claims.not_proven("which launch the endorsement key was named in: its certificate does not say so");
        return Ok(());
    };
    claims.proven(format!(
        "the authority says that VM {} of tenant {} held the endorsement key",
        hex::encode(launch.vm),
        hex::encode(launch.tenant)
    ));
    match reported {
        Some(reported) if reported.host_data != launch.host_data => {
            anyhow::bail!(
                "the certificate is of another launch configuration than the report: their HOST_DATA differ"
            );
        }
        Some(reported) if reported.digest == launch.report_digest => {
            claims.proven("the endorsement key was named under this very report");
        }
        Some(_) if launch.report_digest == [0; 48] => {
            claims.proven("the report is of a launch with the same configuration, so of that VM");
            claims.not_proven(
                "that the launch of this report has that endorsement key: its tenant made the TPM before there was any launch",
            );
        }
        Some(_) => {
            claims.proven("the report is of a launch with the same configuration, so of that VM");
            claims.not_proven(
                "that the launch of this report has that endorsement key: it was named under another report",
            );
        }
        None => claims.not_proven("that the VM's firmware is genuine: no report was given"),
    }
    Ok(())
}

/// Whom to believe about endorsement keys.
pub(super) fn authorities(root: &Path, intermediates: &[PathBuf]) -> anyhow::Result<EkAuthorities> {
    let named = |file: &Path| file.display().to_string();
    let mut authorities = EkAuthorities::new(&read(root)?).with_context(|| named(root))?;
    for file in intermediates {
        authorities = authorities.with_intermediates(&read(file)?).with_context(|| named(file))?;
    }
    Ok(authorities)
}

/// A TPM2B_PUBLIC or TPMT_PUBLIC of an endorsement key, in a file.
pub(super) fn public_area(file: &Path) -> anyhow::Result<EndorsementPublic> {
    endorsement_public(&read(file)?).with_context(|| file.display().to_string())
}

/// A TPM2B_PUBLIC or TPMT_PUBLIC of an endorsement key.
pub(super) fn endorsement_public(bytes: &[u8]) -> anyhow::Result<EndorsementPublic> {
    let inner = bytes.get(2..).filter(|inner| {
        bytes.first_chunk().is_some_and(|length| usize::from(u16::from_be_bytes(*length)) == inner.len())
    });
    let inner = inner.unwrap_or(bytes);
    let readings = EndorsementKey::ALL.into_iter().map(|key| EndorsementPublic::parse(key, inner));
    Ok(readings.reduce(Result::or).context("no kind of endorsement key is known")??)
}
