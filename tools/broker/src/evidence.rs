//! Whether a report is a genuine processor's: the seam to `husk-evidence`.

use crate::policy::{Genuine, Revocation, Signer};
use crate::store::Trusted;
use husk::attest::report::Report;
use husk::seams::REPORT_BYTES;
use husk_evidence::{Endorsement, EvidenceError, Vek, Verifier};
use sha2::{Digest as _, Sha384};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// How many chips' certificates are remembered as verified. A chip more costs its chain again, nothing else.
const ENDORSEMENTS_MAX: usize = 1024;

/// Why a report's bytes, signature or chain do not hold. The text is for its tenant's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvidenceRefused {
    /// They do not hold.
    Unsound(String),
    /// They may hold, under a simulated root that this broker was not told to accept.
    Simulated(String),
    /// A certificate of the chain was revoked.
    Revoked(String),
}

/// Judges reports.
pub trait Evidence: Send + Sync {
    /// Verifies `report` with the DER `certificate` of its key (empty if the host had none) down to a root.
    ///
    /// # Errors
    /// [`EvidenceRefused`].
    fn verify(&self, report: &[u8; REPORT_BYTES], certificate: &[u8]) -> Result<Genuine, EvidenceRefused>;

    /// Which [`Trusted`] it judges by; none if it takes none.
    fn trusts(&self) -> Option<u64> {
        None
    }

    /// Judges by `trusted` from now on.
    ///
    /// # Errors
    /// [`EvidenceRefused::Unsound`] if a part of it does not hold: nothing has changed then.
    fn trust(&self, _: &Trusted) -> Result<(), EvidenceRefused> {
        Ok(())
    }
}

/// A verifier that walks each certificate's chain once: the chain costs two RSA operations, a report one ECDSA operation.
#[derive(Debug)]
pub struct Judge {
    /// What it was made with.
    verifier: Verifier,
    known: Mutex<Known>,
}

/// Certificates that were verified, by the SHA-384 of their bytes; the oldest goes first.
#[derive(Debug)]
struct Known {
    /// With what the database has beside.
    verifier: Verifier,
    version: u64,
    endorsements: HashMap<[u8; 48], Arc<Endorsement>>,
    by_age: VecDeque<[u8; 48]>,
}

impl Known {
    fn keep(&mut self, digest: [u8; 48], endorsement: Arc<Endorsement>) {
        if self.endorsements.insert(digest, endorsement).is_none() {
            self.by_age.push_back(digest);
        }
        if self.by_age.len() > ENDORSEMENTS_MAX
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.endorsements.remove(&oldest);
        }
    }
}

impl Judge {
    /// Judges as `verifier` does.
    #[must_use]
    pub fn new(verifier: Verifier) -> Self {
        let known = Known {
            verifier: verifier.clone(),
            version: 0,
            endorsements: HashMap::new(),
            by_age: VecDeque::new(),
        };
        Self { verifier, known: Mutex::new(known) }
    }

    /// The verified certificate; only one whose chain holds is remembered.
    fn endorse(&self, certificate: &[u8]) -> Result<Arc<Endorsement>, EvidenceError> {
        let digest = Sha384::digest(certificate).into();
        // What is kept was verified before it was kept, so a panic elsewhere takes nothing from it.
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endorsement) = known().endorsements.get(&digest) {
            return Ok(Arc::clone(endorsement));
        }
        let (verifier, version) = {
            let known = known();
            (known.verifier.clone(), known.version)
        };
        let endorsement = Arc::new(verifier.endorse(certificate)?);
        let mut known = known();
        // What was verified by an older list is not remembered under a newer one.
        if known.version == version {
            known.keep(digest, Arc::clone(&endorsement));
        }
        Ok(endorsement)
    }

    fn verified(&self, report: &[u8; REPORT_BYTES], certificate: &[u8]) -> Result<Genuine, EvidenceError> {
        // The report's layout first: the cheapest to refuse.
        Report::parse(report)?;
        let endorsement = self.endorse(certificate)?;
        let verified = endorsement.verify(report)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if let Some(dates) = verified.out_of_date(now) {
            tracing::warn!("accepted under `{}`, whose certificate is out of date", dates.name);
        }
        if verified.silicon.is_simulated() {
            tracing::warn!("accepted a report of SIMULATED silicon, as this broker was told to");
        }
        let signer = match &verified.vek {
            Vek::Vcek { hwid } => {
                let mut padded = [0; 64];
                padded.iter_mut().zip(hwid).for_each(|(to, from)| *to = *from);
                Signer::Chip(padded)
            }
            Vek::Vlek { csp } => Signer::Provider(csp.clone()),
        };
        let revocation = match &verified.revocations {
            None => Revocation::Unknown,
            Some(list) if list.cover(now) => Revocation::Known,
            Some(list) => Revocation::Ended(list.not_after),
        };
        Ok(Genuine { generation: verified.silicon.generation(), signer, revocation })
    }
}

impl Evidence for Judge {
    fn verify(&self, report: &[u8; REPORT_BYTES], certificate: &[u8]) -> Result<Genuine, EvidenceRefused> {
        self.verified(report, certificate).map_err(|error| match error {
            EvidenceError::SimulatedSilicon { .. } => EvidenceRefused::Simulated(error.to_string()),
            EvidenceError::Revoked { .. } => EvidenceRefused::Revoked(error.to_string()),
            _ => EvidenceRefused::Unsound(error.to_string()),
        })
    }

    fn trusts(&self) -> Option<u64> {
        Some(self.known.lock().unwrap_or_else(PoisonError::into_inner).version)
    }

    fn trust(&self, trusted: &Trusted) -> Result<(), EvidenceRefused> {
        let verifier = with(self.verifier.clone(), trusted).map_err(|error| {
            EvidenceRefused::Unsound(format!("what the database keeps does not hold: {error}"))
        })?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Known {
            verifier,
            version: trusted.version,
            endorsements: HashMap::new(),
            by_age: VecDeque::new(),
        };
        Ok(())
    }
}

/// `verifier`, with intermediates and revocation lists that are verified here once more.
///
/// # Errors
/// [`EvidenceError`].
pub fn with(mut verifier: Verifier, trusted: &Trusted) -> Result<Verifier, EvidenceError> {
    for der in &trusted.intermediates {
        verifier = unless_unknown(verifier.clone().with_intermediate(der), verifier)?;
    }
    for der in &trusted.lists {
        verifier = unless_unknown(verifier.clone().with_revocations(der), verifier)?;
    }
    Ok(verifier)
}

/// What a root issued that is not believed here, such as a simulated one, says nothing of what is.
fn unless_unknown(
    more: Result<Verifier, EvidenceError>,
    before: Verifier,
) -> Result<Verifier, EvidenceError> {
    match more {
        Err(EvidenceError::UnknownIssuer { .. }) => Ok(before),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::{ENDORSEMENTS_MAX, Evidence as _, Judge};
    use husk_evidence::Verifier;
    use husk_psp::{Identity, LocalGuest, Processor, os_entropy};

    #[test]
    fn a_certificate_is_believed_from_memory_only_as_the_one_that_was_verified() {
        let identity = Identity::published(1).unwrap();
        let chain = identity.chain_pem().unwrap();
        let processor = Processor::shared(identity, os_entropy());
        let (mut guest, _) = LocalGuest::launch(&processor, &[0x90; 4096], &[0; 32], 0x3_0000).unwrap();
        let certificate = guest.certificate().unwrap();
        let judge = Judge::new(Verifier::new().unwrap().accept_simulated(chain.as_bytes()).unwrap());
        let digest = |judge: &Judge| judge.known.lock().unwrap().by_age.len();
        assert!(judge.endorse(&certificate).is_ok() && digest(&judge) == 1);
        assert!(judge.endorse(&certificate).is_ok() && digest(&judge) == 1, "kept once");
        let mut altered = certificate.clone();
        *altered.last_mut().unwrap() ^= 1;
        assert!(judge.endorse(&altered).is_err() && digest(&judge) == 1, "what does not hold is not kept");
        assert!(judge.verify(&[0; 1184], &certificate).is_err(), "no report is believed for its certificate");
        let endorsement = judge.endorse(&certificate).unwrap();
        for number in 0..2 * ENDORSEMENTS_MAX {
            let mut digest = [0; 48];
            digest[..8].copy_from_slice(&number.to_le_bytes());
            judge.known.lock().unwrap().keep(digest, std::sync::Arc::clone(&endorsement));
        }
        assert_eq!(judge.known.lock().unwrap().endorsements.len(), ENDORSEMENTS_MAX);
        assert_eq!(digest(&judge), ENDORSEMENTS_MAX);
    }
}
