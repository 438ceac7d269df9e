//! Reports by way of a driver that is there already.

use super::report::{REPORT_RESPONSE_BYTES, read_report_response, report_request};
use super::table::signing_certificate;
use crate::attest::AttestFault;
use crate::seams::{REPORT_BYTES, REPORT_DATA_BYTES, Reporter, ReporterError};

/// The driver of guest requests of an SVSM, which holds VMPCK0 itself and keeps the rules of [`Messenger`](super::Messenger): the same bytes
/// again, no number twice, and no answer that did not authenticate.
pub trait GuestRequestService {
    /// Has the processor answer the MSG_REPORT_REQ at the front of `message`, as an extended request, and puts the decrypted MSG_REPORT_RSP there.
    /// `certificates` gets the host's table, and stays zero where the host has none. Whether there is an answer.
    fn extended_report(&mut self, message: &mut [u8], certificates: &mut [u8]) -> bool;
}

/// The component's [`Reporter`] over such a driver.
#[derive(Debug)]
pub struct ServiceReporter<'c, S> {
    service: S,
    certificates: &'c mut [u8],
}

impl<'c, S: GuestRequestService> ServiceReporter<'c, S> {
    /// `certificates` holds the table of the latest report; 16 KiB is enough for what hosts have.
    #[must_use]
    pub const fn new(service: S, certificates: &'c mut [u8]) -> Self {
        Self { service, certificates }
    }
}

impl<S: GuestRequestService> Reporter for ServiceReporter<'_, S> {
    fn report(
        &mut self,
        data: &[u8; REPORT_DATA_BYTES],
        report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), ReporterError> {
        let mut message = [0; REPORT_RESPONSE_BYTES];
        let request = report_request(data, 0);
        message[..request.len()].copy_from_slice(&request);
        self.certificates.fill(0);
        if !self.service.extended_report(&mut message, self.certificates) {
            return Err(ReporterError::Failed);
        }
        read_report_response(&message, data, 0, report).map_err(|fault| match fault {
            AttestFault::ProcessorRefused => ReporterError::Refused,
            _ => ReporterError::Failed,
        })
    }

    fn certificate(&mut self, into: &mut [u8]) -> usize {
        let certificate = signing_certificate(self.certificates);
        match into.get_mut(..certificate.len()) {
            Some(room) => {
                room.copy_from_slice(certificate);
                certificate.len()
            }
            None => 0,
        }
    }
}
