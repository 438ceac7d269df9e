//! Whether a report is a genuine processor's: the seam to `husk-evidence`.

use crate::policy::Genuine;
use husk::seams::REPORT_BYTES;
use husk_evidence::{EvidenceError, Verifier};
use std::time::{SystemTime, UNIX_EPOCH};

/// Why a report's bytes, signature or chain do not hold. The text is for the broker's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvidenceRefused {
    /// They do not hold.
    Unsound(String),
    /// They may hold, under a simulated root that this broker was not told to accept.
    Simulated(String),
}

/// Judges reports.
pub trait Evidence: Send + Sync {
    /// Verifies `report` with the DER `certificate` of its key (empty if the host had none) down to a root.
    ///
    /// # Errors
    /// [`EvidenceRefused`].
    fn verify(&self, report: &[u8; REPORT_BYTES], certificate: &[u8]) -> Result<Genuine, EvidenceRefused>;
}

impl Evidence for Verifier {
    fn verify(&self, report: &[u8; REPORT_BYTES], certificate: &[u8]) -> Result<Genuine, EvidenceRefused> {
        let verified = Self::verify(self, report, certificate).map_err(|error| match error {
            EvidenceError::SimulatedSilicon { .. } => EvidenceRefused::Simulated(error.to_string()),
            _ => EvidenceRefused::Unsound(error.to_string()),
        })?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if let Some(dates) = verified.out_of_date(now) {
            eprintln!("husk-broker: accepted under `{}`, whose certificate is out of date", dates.name);
        }
        if verified.silicon.is_simulated() {
            eprintln!("husk-broker: accepted a report of SIMULATED silicon, as this broker was told to");
        }
        let chip = verified.chip().map(|hwid| {
            let mut padded = [0; 64];
            padded.iter_mut().zip(hwid).for_each(|(to, from)| *to = *from);
            padded
        });
        Ok(Genuine { generation: verified.silicon.generation(), chip })
    }
}
