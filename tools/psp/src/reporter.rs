//! The component's `Reporter` over the simulated processor.

use husk::attest::AttestFault;
use husk::attest::guest_message::{GuestRequest, Messenger, SecretsPage};
use husk::seams::{DerivedKeyRequest, REPORT_BYTES, REPORT_DATA_BYTES, Reporter, ReporterError};
use husk::secret::Secret;

/// The component's `Reporter` over a guest of a simulated processor: the same code that speaks to silicon, with another
/// hand carrying the pages.
#[derive(Debug)]
pub struct PspReporter<G> {
    messenger: Messenger,
    guest: G,
    certificate: Vec<u8>,
}

impl<G: GuestRequest> PspReporter<G> {
    /// Takes a launched guest, its secrets and the certificate that the host supplies with its reports.
    #[must_use]
    pub fn new(guest: G, secrets: SecretsPage, certificate: Vec<u8>) -> Self {
        Self { messenger: Messenger::new(secrets), guest, certificate }
    }
}

impl<G: GuestRequest> Reporter for PspReporter<G> {
    fn report(
        &mut self,
        data: &[u8; REPORT_DATA_BYTES],
        report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), ReporterError> {
        self.messenger.report(&mut self.guest, data, 0, report).map_err(told)
    }

    fn derived_key(&mut self, asked: &DerivedKeyRequest) -> Result<Secret<32>, ReporterError> {
        self.messenger.derive_key(&mut self.guest, &asked.into()).map_err(told)
    }

    fn certificate(&mut self, into: &mut [u8]) -> usize {
        let bytes = self.certificate.len();
        match into.get_mut(..bytes) {
            Some(place) => {
                place.copy_from_slice(&self.certificate);
                bytes
            }
            None => 0,
        }
    }
}

const fn told(fault: AttestFault) -> ReporterError {
    match fault {
        AttestFault::ProcessorRefused => ReporterError::Refused,
        _ => ReporterError::Failed,
    }
}
