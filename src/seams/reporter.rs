use crate::secret::Secret;

/// Size of an SNP attestation report in bytes (AMD 56860, table ATTESTATION_REPORT).
pub const REPORT_BYTES: usize = 0x4A0;
/// Size of the caller's data inside a report in bytes.
pub const REPORT_DATA_BYTES: usize = 64;

/// Why there is no report. Always final: a driver may have wiped its message key, so nobody retries blindly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReporterError {
    /// The host did not carry the message, or the processor's answer did not authenticate.
    Failed,
    /// The processor answered with an error status.
    Refused,
    /// This platform has no such thing.
    Unsupported,
}

/// What a derived key must be made of beside this chip, VMPL 0, the guest policy and MEASUREMENT, which are always mixed in
/// (AMD 56860, MSG_KEY_REQ).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DerivedKeyRequest {
    /// GUEST_SVN to mix in: an image of a lower one is refused. Nothing: it is not mixed in.
    pub guest_svn: Option<u32>,
    /// TCB_VERSION to mix in, raw as in a report: a platform whose committed TCB is below it is refused, one above it gets the
    /// same key. Nothing: it is not mixed in.
    pub tcb: Option<[u8; 8]>,
}

/// Attestation reports of this very VM at VMPL 0, authenticated as coming from the secure processor.
pub trait Reporter {
    /// Writes a report that carries `data` into `report`.
    ///
    /// # Errors
    /// [`ReporterError`]; final for this boot.
    fn report(
        &mut self,
        data: &[u8; REPORT_DATA_BYTES],
        report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), ReporterError>;

    /// Copies the DER certificate of the key that signs the reports into `into`, as the host supplied it (an
    /// allegation, for the broker to check), and returns its length in bytes; 0 where the host supplied none.
    fn certificate(&mut self, into: &mut [u8]) -> usize;

    /// A key that the processor derives from this chip and launch, the same for every launch of this image under this guest
    /// policy, and for nobody else.
    ///
    /// # Errors
    /// [`ReporterError::Unsupported`] where the platform has none.
    fn derived_key(&mut self, _: &DerivedKeyRequest) -> Result<Secret<32>, ReporterError> {
        Err(ReporterError::Unsupported)
    }
}
