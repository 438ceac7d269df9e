//! Who may vouch for a signing key.
//!
//! **What.** AMD's three root keys (ARK), pinned, with the intermediates (ASK, ASVK) under them; and, only where asked
//! for, a simulated processor's root.
//! **Trust.** The pins below, made from AMD's published certificates.
//! **Laws.** An intermediate enters only with a verified signature of its root; a simulated root only if its name says
//! that it is one, and an AMD root never as anything else.
//! **Not here.** Fetching certificates: no network is needed.

use crate::{Certificate, EvidenceError, RevocationList};
use husk::attest::report::Generation;

/// How the common name of every simulated processor's root begins.
pub const SIMULATED_PREFIX: &str = "ARK-Husk-Simulated";
/// What the names under such a root have in common.
const SIMULATED_MARK: &str = "Husk-Simulated";
/// How the common name of a root begins.
const ROOT_PREFIX: &str = "ARK-";

/// SHA-256 over the SubjectPublicKeyInfo of AMD's roots.
const fn pin(generation: Generation) -> [u8; 32] {
    match generation {
        Generation::Milan => digest(b"9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9"),
        Generation::Genoa => digest(b"429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831"),
        Generation::Turin => digest(b"4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08"),
    }
}

/// Hexadecimal to bytes, at compile time.
const fn digest(text: &[u8; 64]) -> [u8; 32] {
    const fn nibble(character: u8) -> u8 {
        if character.is_ascii_digit() { character - b'0' } else { character - b'a' + 10 }
    }
    let mut out = [0; 32];
    let mut index = 0;
    while index < out.len() {
        out[index] = nibble(text[2 * index]) << 4 | nibble(text[2 * index + 1]);
        index += 1;
    }
    out
}

/// Whose root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authority {
    /// AMD's for one generation.
    Amd(Generation),
    /// A simulated processor's.
    Simulated,
}

/// A root and what it vouches for.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    pub(crate) authority: Authority,
    pub(crate) certificate: Certificate,
    pub(crate) intermediates: Vec<Certificate>,
    /// What it has revoked, if that is known.
    pub(crate) list: Option<RevocationList>,
}

impl Root {
    /// AMD's root and VCEK intermediate as the `sev` crate carries them.
    pub(crate) fn amd(generation: Generation) -> Result<Self, EvidenceError> {
        use sev::certs::snp::builtin::{genoa, milan, turin};
        let (ark, ask) = match generation {
            Generation::Milan => (milan::ARK, milan::ASK),
            Generation::Genoa => (genoa::ARK, genoa::ASK),
            Generation::Turin => (turin::ARK, turin::ASK),
        };
        let whose = "AMD's built-in certificate";
        let mut certificates = Certificate::from_pem_bundle(ark, whose)?;
        let certificate = certificates.swap_remove(0);
        if certificate.key_sha256()? != pin(generation) {
            return Err(EvidenceError::FalseRoot { name: certificate.subject().to_owned() });
        }
        certificate.is_signed_by(&certificate)?;
        let mut root = Self {
            authority: Authority::Amd(generation),
            certificate,
            intermediates: Vec::new(),
            list: None,
        };
        for intermediate in Certificate::from_pem_bundle(ask, whose)? {
            root.add(intermediate)?;
        }
        Ok(root)
    }

    /// A simulated processor's root, the one self-signed certificate of `bundle`, and what lies under it.
    pub(crate) fn simulated(bundle: &[u8]) -> Result<Self, EvidenceError> {
        let (mut roots, intermediates): (Vec<_>, Vec<_>) =
            Certificate::from_pem_bundle(bundle, "the simulated processor's certificate")?
                .into_iter()
                .partition(|certificate| certificate.subject() == certificate.issuer());
        let certificate = match (roots.pop(), roots.pop()) {
            (Some(one), None) => one,
            _ => {
                return Err(EvidenceError::NotSimulated { name: "a bundle without exactly one root".into() });
            }
        };
        if !certificate.subject().starts_with(SIMULATED_PREFIX) {
            return Err(EvidenceError::NotSimulated { name: certificate.subject().to_owned() });
        }
        certificate.is_signed_by(&certificate)?;
        let mut root =
            Self { authority: Authority::Simulated, certificate, intermediates: Vec::new(), list: None };
        for intermediate in intermediates {
            root.add(intermediate)?;
        }
        Ok(root)
    }

    /// The part of the names after `ARK-`, `SEV-` and `SEV-VLEK-`.
    fn name(&self) -> &str {
        self.certificate.subject().strip_prefix(ROOT_PREFIX).unwrap_or_default()
    }

    /// Takes an intermediate that this root signed and whose name belongs under it.
    pub(crate) fn add(&mut self, intermediate: Certificate) -> Result<(), EvidenceError> {
        let subject = intermediate.subject();
        let fits = [SignerKind::Ask, SignerKind::Asvk].iter().any(|kind| kind.name(self.name()) == subject);
        if !fits {
            return Err(intermediate.bad("its name does not belong under its root's"));
        }
        intermediate.is_signed_by(&self.certificate)?;
        self.intermediates.push(intermediate);
        Ok(())
    }

    /// Takes what this root has revoked.
    pub(crate) fn revoke(&mut self, list: RevocationList) -> Result<(), EvidenceError> {
        list.is_signed_by(&self.certificate)?;
        if self.list.as_ref().is_some_and(|old| !list.succeeds(old)) {
            return Err(EvidenceError::OlderList { issuer: list.issuer().to_owned() });
        }
        self.list = Some(list);
        Ok(())
    }

    /// Refuses what this root has revoked.
    pub(crate) fn bears(&self, certificate: &Certificate) -> Result<(), EvidenceError> {
        match &self.list {
            Some(list) if list.revokes(certificate) => Err(EvidenceError::Revoked {
                name: certificate.subject().to_owned(),
                issuer: list.issuer().to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Whether an intermediate names this root as its issuer.
    pub(crate) fn is_issuer_of(&self, intermediate: &Certificate) -> bool {
        intermediate.issuer() == self.certificate.subject()
    }

    /// The intermediates that may have issued a signing key's certificate.
    pub(crate) fn candidates<'r>(
        &'r self,
        kind: SignerKind,
        issuer: &str,
    ) -> impl Iterator<Item = &'r Certificate> {
        let fits = kind.name(self.name()) == issuer;
        self.intermediates
            .iter()
            .filter(move |certificate| fits && kind.name(self.name()) == certificate.subject())
    }
}

/// Which intermediate signs which kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignerKind {
    /// Signs VCEKs.
    Ask,
    /// Signs VLEKs.
    Asvk,
}

impl SignerKind {
    fn name(self, product: &str) -> String {
        match self {
            Self::Ask => format!("SEV-{product}"),
            Self::Asvk => format!("SEV-VLEK-{product}"),
        }
    }
}

/// Whether an issuer calls itself simulated.
pub(crate) fn is_simulated_name(issuer: &str) -> bool {
    issuer.contains(SIMULATED_MARK)
}

/// Whether a bundle's certificate is a root rather than something under one.
pub(crate) fn is_root(certificate: &Certificate) -> bool {
    certificate.subject().starts_with(ROOT_PREFIX)
}

/// Whether a certificate that calls itself a root is one of AMD's, by its key.
pub(crate) fn is_amd_root(certificate: &Certificate) -> Result<bool, EvidenceError> {
    let key = certificate.key_sha256()?;
    Ok(Generation::ALL.into_iter().any(|generation| pin(generation) == key))
}
