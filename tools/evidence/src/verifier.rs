//! The verdict.

use crate::certificate::{Certificate, Dates};
use crate::roots::{Authority, Root, SignerKind, is_amd_root, is_root, is_simulated_name};
use crate::{EvidenceError, RevocationList, Vek, VekCertificate, report_data};
use husk::attest::report::{Generation, Report, SigningKey, Tcb};
use husk::seams::REPORT_BYTES;
use p384::ecdsa::Signature;
use p384::ecdsa::signature::Verifier as _;
use std::path::Path;

/// What a report was made by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Silicon {
    /// AMD's silicon.
    Amd {
        /// Which generation.
        generation: Generation,
    },
    /// A program that plays a processor. It proves nothing about anything but its root key.
    Simulated {
        /// The common name of its root.
        root: String,
        /// The generation that it plays.
        generation: Generation,
    },
}

impl Silicon {
    /// The generation, of silicon or played.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        match self {
            Self::Amd { generation } | Self::Simulated { generation, .. } => *generation,
        }
    }

    /// Whether this is a simulation.
    #[must_use]
    pub const fn is_simulated(&self) -> bool {
        matches!(self, Self::Simulated { .. })
    }
}

/// A signing key whose certificate was verified up to a root. Worth keeping: the chain costs two RSA operations,
/// each report under it one ECDSA operation.
#[derive(Clone, Debug)]
pub struct Endorsement {
    vek: VekCertificate,
    silicon: Silicon,
    dates: Vec<Dates>,
    revocations: Option<Dates>,
}

/// A report whose signature, certificate and root hold, and agree with one another.
#[derive(Clone, Debug)]
pub struct Verified<'r> {
    /// The report.
    pub report: Report<'r>,
    /// What made it.
    pub silicon: Silicon,
    /// Which key signed it: the chip's (with its HWID) or a provider's.
    pub vek: Vek,
    /// The product as the certificate says, for example `Milan-B0`.
    pub product: String,
    /// The dates of the signing key's certificate, the intermediate and the root, in this order. Nothing was refused
    /// for them: an expired certificate of a genuine chip is a matter of policy.
    pub dates: Vec<Dates>,
    /// The dates of the root's revocation list, which revokes none of them; none if no list is known.
    pub revocations: Option<Dates>,
}

impl Verified<'_> {
    /// REPORTED_TCB: what the signing key stands for.
    #[must_use]
    pub fn reported_tcb(&self) -> Tcb {
        Tcb::from_bytes(self.report.reported_tcb(), self.silicon.generation())
    }

    /// CURRENT_TCB: what runs now.
    #[must_use]
    pub fn current_tcb(&self) -> Tcb {
        Tcb::from_bytes(self.report.current_tcb(), self.silicon.generation())
    }

    /// COMMITTED_TCB: below which the chip cannot go back.
    #[must_use]
    pub fn committed_tcb(&self) -> Tcb {
        Tcb::from_bytes(self.report.committed_tcb(), self.silicon.generation())
    }

    /// LAUNCH_TCB: what ran when the guest was launched.
    #[must_use]
    pub fn launch_tcb(&self) -> Tcb {
        Tcb::from_bytes(self.report.launch_tcb(), self.silicon.generation())
    }

    /// The chip, from the certificate (a host may mask CHIP_ID in reports, never the certificate's); `None` under a
    /// VLEK.
    #[must_use]
    pub fn chip(&self) -> Option<&[u8]> {
        match &self.vek {
            Vek::Vcek { hwid } => Some(hwid),
            Vek::Vlek { .. } => None,
        }
    }

    /// Whether the firmware at VMPL 0 vouches for `manifest`, freshly for `nonce`.
    ///
    /// # Errors
    /// [`EvidenceError::NotVmpl0`]; [`EvidenceError::ManifestUnbound`].
    pub fn covers(&self, manifest: &[u8], nonce: &[u8; 64]) -> Result<(), EvidenceError> {
        match self.report.vmpl() {
            0 if *self.report.report_data() == report_data(nonce, manifest) => Ok(()),
            0 => Err(EvidenceError::ManifestUnbound),
            vmpl => Err(EvidenceError::NotVmpl0 { vmpl }),
        }
    }

    /// The first certificate of the chain that does not cover `now`, in seconds since 1970.
    #[must_use]
    pub fn out_of_date(&self, now: u64) -> Option<&Dates> {
        self.dates.iter().find(|dates| !dates.cover(now))
    }
}

/// Holds the roots and judges reports. Built once; judging changes nothing in it.
#[derive(Clone, Debug)]
pub struct Verifier {
    roots: Vec<Root>,
}

impl Verifier {
    /// A verifier of AMD's silicon: Milan, Genoa and Turin with VCEKs. VLEKs need AMD's ASVK certificates, see
    /// [`with_intermediates`](Self::with_intermediates).
    ///
    /// # Errors
    /// [`EvidenceError`] if a built-in certificate is not the pinned one.
    pub fn new() -> Result<Self, EvidenceError> {
        let roots = Generation::ALL.into_iter().map(Root::amd).collect::<Result<_, _>>()?;
        Ok(Self { roots })
    }

    /// Adds the intermediates of a PEM bundle as AMD's key service gives it (`cert_chain`). Roots in it are compared
    /// with the pinned ones and not taken.
    ///
    /// # Errors
    /// [`EvidenceError`] if one is not signed by a root that is already trusted; nothing is added then.
    pub fn with_intermediates(mut self, bundle: &[u8]) -> Result<Self, EvidenceError> {
        for certificate in Certificate::from_pem_bundle(bundle, "an intermediate certificate")? {
            self.add(certificate)?;
        }
        Ok(self)
    }

    /// Adds one DER intermediate.
    ///
    /// # Errors
    /// As [`with_intermediates`](Self::with_intermediates).
    pub fn with_intermediate(mut self, der: &[u8]) -> Result<Self, EvidenceError> {
        self.add(Certificate::from_der(der, "an intermediate certificate")?)?;
        Ok(self)
    }

    /// Adds the intermediates of every `*.pem` file in `folder`.
    ///
    /// # Errors
    /// As [`with_intermediates`](Self::with_intermediates); [`EvidenceError::Unreadable`].
    pub fn with_intermediates_from(mut self, folder: &Path) -> Result<Self, EvidenceError> {
        let unreadable = |path: &Path, error: std::io::Error| EvidenceError::Unreadable {
            path: path.display().to_string(),
            why: error.to_string(),
        };
        let entries = std::fs::read_dir(folder).map_err(|error| unreadable(folder, error))?;
        for entry in entries {
            let path = entry.map_err(|error| unreadable(folder, error))?.path();
            if path.extension().is_some_and(|extension| extension == "pem") {
                let bundle = std::fs::read(&path).map_err(|error| unreadable(&path, error))?;
                self = self.with_intermediates(&bundle)?;
            }
        }
        Ok(self)
    }

    /// Refuses from now on what a root has revoked: `list` is DER or PEM, of a root that is trusted already (a simulated one is, once it was
    /// [accepted](Self::accept_simulated)).
    ///
    /// # Errors
    /// [`EvidenceError`] if no trusted root signed it, or a newer one is known.
    pub fn with_revocations(mut self, list: &[u8]) -> Result<Self, EvidenceError> {
        self.revoke(RevocationList::parse(list)?)?;
        Ok(self)
    }

    fn revoke(&mut self, list: RevocationList) -> Result<(), EvidenceError> {
        let issuer = list.issuer().to_owned();
        let root = self.roots.iter_mut().find(|root| root.certificate.subject() == issuer);
        root.ok_or(EvidenceError::UnknownIssuer { issuer })?.revoke(list)
    }

    /// Also accepts reports of one simulated processor: `bundle` is the `chain.pem` that `husk psp init` wrote.
    ///
    /// For tests and trials. What is verified under it is [`Silicon::Simulated`], whatever else it says.
    ///
    /// # Errors
    /// [`EvidenceError::NotSimulated`] unless the root's name says that it is simulated.
    pub fn accept_simulated(mut self, bundle: &[u8]) -> Result<Self, EvidenceError> {
        self.roots.push(Root::simulated(bundle)?);
        Ok(self)
    }

    /// Verifies a report with the DER certificate of the key that signed it.
    ///
    /// # Errors
    /// [`EvidenceError`]; the first rule that does not hold.
    pub fn verify<'r>(
        &self,
        report: &'r [u8; REPORT_BYTES],
        vek_der: &[u8],
    ) -> Result<Verified<'r>, EvidenceError> {
        // The report's layout first: the cheapest to refuse.
        Report::parse(report)?;
        self.endorse(vek_der)?.verify(report)
    }

    /// Verifies the certificate of a signing key up to a root.
    ///
    /// # Errors
    /// [`EvidenceError`].
    pub fn endorse(&self, vek_der: &[u8]) -> Result<Endorsement, EvidenceError> {
        let vek = VekCertificate::from_der(vek_der)?;
        let kind = match vek.vek {
            Vek::Vcek { .. } => SignerKind::Ask,
            Vek::Vlek { .. } => SignerKind::Asvk,
        };
        let issuer = vek.certificate.issuer().to_owned();
        let unknown = if is_simulated_name(&issuer) {
            EvidenceError::SimulatedSilicon { issuer: issuer.clone() }
        } else {
            EvidenceError::UnknownIssuer { issuer: issuer.clone() }
        };
        let mut verdict = Err(unknown);
        let candidates =
            self.roots.iter().flat_map(|root| root.candidates(kind, &issuer).map(move |by| (root, by)));
        for (root, by) in candidates {
            match vek.certificate.is_signed_by(by) {
                Ok(()) => return endorsement(vek, by, root),
                Err(error) => verdict = Err(error),
            }
        }
        verdict
    }

    fn add(&mut self, certificate: Certificate) -> Result<(), EvidenceError> {
        if is_root(&certificate) {
            let name = certificate.subject().to_owned();
            return if is_amd_root(&certificate)? { Ok(()) } else { Err(EvidenceError::FalseRoot { name }) };
        }
        let issuer = certificate.issuer().to_owned();
        let root = self.roots.iter_mut().find(|root| root.is_issuer_of(&certificate));
        root.ok_or(EvidenceError::UnknownIssuer { issuer })?.add(certificate)
    }
}

fn endorsement(vek: VekCertificate, by: &Certificate, root: &Root) -> Result<Endorsement, EvidenceError> {
    let silicon = match root.authority {
        Authority::Amd(generation) if generation == vek.generation => Silicon::Amd { generation },
        Authority::Amd(_) => return Err(wrong_product(&vek, "its issuer")),
        Authority::Simulated => {
            let root = root.certificate.subject().to_owned();
            Silicon::Simulated { root, generation: vek.generation }
        }
    };
    root.bears(by)?;
    root.bears(&vek.certificate)?;
    let dates = vec![vek.certificate.dates(), by.dates(), root.certificate.dates()];
    let revocations = root.list.as_ref().map(RevocationList::dates);
    Ok(Endorsement { vek, silicon, dates, revocations })
}

fn wrong_product(vek: &VekCertificate, other: &'static str) -> EvidenceError {
    EvidenceError::WrongProduct { product: vek.product.clone(), other }
}

impl Endorsement {
    /// What the key's certificate says.
    #[must_use]
    pub const fn certificate(&self) -> &VekCertificate {
        &self.vek
    }

    /// Verifies a report under this key.
    ///
    /// # Errors
    /// [`EvidenceError`].
    pub fn verify<'r>(&self, report: &'r [u8; REPORT_BYTES]) -> Result<Verified<'r>, EvidenceError> {
        let report = Report::parse(report)?;
        self.check_signing_key(&report)?;
        let signature =
            Signature::from_slice(&report.signature()).map_err(|_| EvidenceError::ReportSignature)?;
        self.vek.key.verify(report.signed(), &signature).map_err(|_| EvidenceError::ReportSignature)?;
        self.check_agreement(&report)?;
        Ok(Verified {
            report,
            silicon: self.silicon.clone(),
            vek: self.vek.vek.clone(),
            product: self.vek.product.clone(),
            dates: self.dates.clone(),
            revocations: self.revocations.clone(),
        })
    }

    fn check_signing_key(&self, report: &Report<'_>) -> Result<(), EvidenceError> {
        if report.chip_key_masked() {
            return Err(EvidenceError::Masked);
        }
        let said = match report.signing_key() {
            SigningKey::None => return Err(EvidenceError::NotSigned),
            SigningKey::Vcek => "VCEK",
            SigningKey::Vlek => "VLEK",
        };
        if report.signing_key() == self.vek.vek.signing_key() {
            Ok(())
        } else {
            Err(EvidenceError::WrongKind { report: said, certificate: self.vek.vek.kind() })
        }
    }

    /// The certificate's product, patch levels and chip are the report's.
    fn check_agreement(&self, report: &Report<'_>) -> Result<(), EvidenceError> {
        let generation = self.vek.generation;
        // Version 2 names no CPU: there the certificate alone says.
        if report.cpuid().is_some() && report.generation() != Some(generation) {
            return Err(wrong_product(&self.vek, "the report's CPUID"));
        }
        if Tcb::from_bytes(report.reported_tcb(), generation) != self.vek.tcb {
            return Err(EvidenceError::WrongTcb);
        }
        if let Vek::Vcek { hwid } = &self.vek.vek {
            let chip = report.chip_id();
            // All zero: MASK_CHIP_ID. The certificate still says which chip's key this is.
            let masked = chip.iter().all(|byte| *byte == 0);
            let (head, tail) = chip.split_at(generation.chip_id_bytes());
            if !masked && (head != hwid.as_slice() || tail.iter().any(|byte| *byte != 0)) {
                return Err(EvidenceError::WrongChip);
            }
        }
        Ok(())
    }
}
