//! A TPM that shows what reached it, with known facts and a processor that does as it is told.

use husk::attest::AttestFault;
use husk::attest::report::Layout;
use husk::engine::{EndorsementKey, EngineFault, Fingerprint, Locality};
use husk::fault::Fault;
use husk::frontend::svsm::{Attested, CallMemory, Facts, Persistence, Registers, ResultCode, Serving, call};
use husk::frontend::{FrontendFault, Tpm};
use husk::keys::Identity;
use husk::nv::NvFault;
use husk::release::{Head, ReleaseFault};
use husk::seams::{REPORT_BYTES, REPORT_DATA_BYTES};
use zerocopy::{FromZeros, IntoBytes};

use crate::guest_ram::GuestRam;
use crate::tpm::{self, Bytes};

/// Every result code that a guest may see.
pub(crate) const CODES: [ResultCode; 9] = [
    ResultCode::Success,
    ResultCode::UnsupportedProtocol,
    ResultCode::UnsupportedCall,
    ResultCode::InvalidAddress,
    ResultCode::InvalidParameter,
    ResultCode::InvalidRequest,
    ResultCode::Busy,
    ResultCode::NoReport,
    ResultCode::Failed,
];

/// What the processor does when it is asked for a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Processor {
    Honest,
    /// Reports something else than it was asked to.
    OtherData,
    /// Reports for another privilege level.
    OtherVmpl,
    Silent,
}

pub(crate) struct StandIn {
    pub(crate) facts: Facts,
    pub(crate) processor: Processor,
    pub(crate) certificate: Vec<u8>,
    /// SIGNING_KEY of the reports.
    pub(crate) signing_key: u32,
    /// How many more times there is a right to answer.
    pub(crate) permits: u32,
    pub(crate) endorsement_known: bool,
    /// Whether this machine attests at all.
    pub(crate) offered: bool,
    /// Whether the TPM has failed for good.
    pub(crate) latched: bool,
    /// The response to the next commands.
    pub(crate) response: Vec<u8>,
    /// What reached the TPM and the processor.
    pub(crate) commands: Vec<Vec<u8>>,
    pub(crate) reported: Vec<[u8; REPORT_DATA_BYTES]>,
}

impl StandIn {
    pub(crate) fn new() -> Self {
        Self {
            facts: Facts {
                persistence: Persistence::Strict,
                serving: Serving::Lease,
                kbs_required: false,
                identity: Identity { tenant: *b"tenant of a test", vm: *b"the VM of a test", generation: 3 },
                epoch: 0x0102_0304_0506_0708,
                token: 0x1112_1314_1516_1718,
                head: Head {
                    sequence: 0x2122_2324_2526_2728,
                    digest: std::array::from_fn(|at| 0x80 + u8::try_from(at).unwrap()),
                },
                engine: Fingerprint(*b"stand-in engine of a test\0\0\0\0\0\0\0"),
            },
            processor: Processor::Honest,
            certificate: Vec::new(),
            signing_key: 0,
            permits: u32::MAX,
            endorsement_known: true,
            offered: true,
            latched: false,
            response: vec![0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0],
            commands: Vec::new(),
            reported: Vec::new(),
        }
    }

    /// A public area of the right template, with a key of counting bytes.
    pub(crate) fn key(key: EndorsementKey) -> Vec<u8> {
        let counting = |bytes| (0..=u8::MAX).cycle().skip(key as usize * 7 + 1).take(bytes);
        match key {
            EndorsementKey::Rsa2048 => {
                with_key(&tpm::endorsement_template("L-1"), 258, 256, &[counting(256).collect()])
            }
            EndorsementKey::P256 => with_key(
                &tpm::endorsement_template("L-2"),
                68,
                32,
                &[counting(32).collect(), counting(32).collect()],
            ),
            EndorsementKey::P384 => with_key(
                &tpm::endorsement_template("H-3"),
                4,
                48,
                &[counting(48).collect(), counting(48).collect()],
            ),
        }
    }

    /// One call over `ram`.
    pub(crate) fn call(&mut self, ram: &mut GuestRam, request: Registers) -> Registers {
        let mut memory = Box::new(CallMemory::EMPTY);
        call(request, ram, self, &mut memory)
    }

    /// The report that the processor gives for `data`.
    pub(crate) fn report_of(&self, data: &[u8; REPORT_DATA_BYTES]) -> Vec<u8> {
        let mut layout = Layout::new_zeroed();
        layout.version.set(2);
        layout.policy.set(1 << 17);
        layout.signature_algo.set(1);
        layout.key_flags.set(self.signing_key << 2);
        layout.report_data = *data;
        layout.measurement = [7; 48];
        match self.processor {
            Processor::OtherData => layout.report_data[63] ^= 1,
            Processor::OtherVmpl => layout.vmpl.set(1),
            Processor::Honest | Processor::Silent => {}
        }
        layout.as_bytes().to_vec()
    }
}

/// RAX as a number.
pub(crate) fn rax(code: ResultCode) -> u64 {
    u64::from(code as u32)
}

impl Tpm for StandIn {
    fn execute(&mut self, locality: Locality, command: &[u8], response: &mut [u8]) -> usize {
        assert_eq!(locality, Locality::Zero);
        self.commands.push(command.to_vec());
        response[..self.response.len()].copy_from_slice(&self.response);
        self.response.len()
    }

    fn established(&mut self) -> bool {
        false
    }

    fn reset_established(&mut self, _: Locality) -> Result<(), Fault> {
        Ok(())
    }

    fn hash_start(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    fn hash_data(&mut self, _: &[u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn hash_end(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

impl Attested for StandIn {
    fn facts(&mut self) -> Result<Facts, Fault> {
        Ok(self.facts)
    }

    fn endorsement_key(&mut self, key: EndorsementKey, into: &mut [u8]) -> Result<usize, Fault> {
        if !self.endorsement_known {
            return Err(EngineFault::EndorsementUnknown.into());
        }
        let key = Self::key(key);
        into[..key.len()].copy_from_slice(&key);
        Ok(key.len())
    }

    fn permit(&mut self) -> Result<(), Fault> {
        match (self.latched, self.offered) {
            (true, _) => return Err(NvFault::Latched.into()),
            (false, false) => return Err(FrontendFault::NotOffered.into()),
            (false, true) => {}
        }
        self.permits = self.permits.checked_sub(1).ok_or(ReleaseFault::LeaseOver)?;
        Ok(())
    }

    fn report(
        &mut self,
        data: &[u8; REPORT_DATA_BYTES],
        report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), Fault> {
        if self.processor == Processor::Silent {
            return Err(AttestFault::NoReport.into());
        }
        self.reported.push(*data);
        report.copy_from_slice(&self.report_of(data));
        Ok(())
    }

    fn certificate(&mut self, into: &mut [u8]) -> usize {
        into[..self.certificate.len()].copy_from_slice(&self.certificate);
        self.certificate.len()
    }
}

/// A template whose last `unique` bytes give way to `parts`, each of `bytes` bytes.
fn with_key(template: &[u8], unique: usize, bytes: usize, parts: &[Vec<u8>]) -> Vec<u8> {
    let head = Bytes::new().raw(&template[..template.len() - unique]);
    parts.iter().inspect(|part| assert_eq!(part.len(), bytes)).fold(head, |key, part| key.sized(part)).0
}
