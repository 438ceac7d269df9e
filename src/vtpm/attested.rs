//! The TPM as the attestation protocol shows it.

use super::serve::Endorsement;
use super::{Served, Vtpm};
use crate::attest::AttestFault;
use crate::engine::{EndorsementKey, Engine, Needs};
use crate::fault::Fault;
use crate::frontend::FrontendFault;
use crate::frontend::svsm::{Attested, Facts};
use crate::nv::NvFault;
use crate::release::Head;
use crate::seams::{Platform, REPORT_BYTES, REPORT_DATA_BYTES};

impl<E: Engine> Vtpm<'_, E> {
    /// Whether there is anything to attest. A TPM that has latched says nothing more than that.
    fn attestable(&self) -> Result<(), Fault> {
        match (self.latched(), self.endorsement) {
            (Some(_), _) => Err(NvFault::Latched.into()),
            (None, Endorsement::Unasked) => Err(FrontendFault::NotOffered.into()),
            (None, Endorsement::Learned) => self.alive(),
        }
    }

    fn facts(&self) -> Result<Facts, Fault> {
        self.attestable()?;
        let (identity, epoch, head) = match (self.nv.newest(), self.trust.identity()) {
            (Some(newest), _) => (newest.identity, newest.epoch, newest.head),
            (None, Some(identity)) if self.nv.is_ephemeral() => (identity, 0, Head::NONE),
            (None, _) => return Err(NvFault::NotCommitted.into()),
        };
        let (persistence, serving, kbs_required) = self.trust.promises();
        let (token, engine) = (self.trust.token(), self.engine.fingerprint());
        Ok(Facts { persistence, serving, kbs_required, identity, epoch, token, head, engine })
    }

    fn may_attest(&mut self, platform: &mut Platform<'_>) -> Result<(), Fault> {
        self.attestable()?;
        self.begin();
        self.trust.permit(platform, Needs::Lease).map_err(|fault| self.latch_if_definite(fault))
    }
}

impl<E: Engine> Attested for Served<'_, '_, '_, E> {
    fn facts(&mut self) -> Result<Facts, Fault> {
        self.vtpm.facts()
    }

    fn endorsement_key(&mut self, key: EndorsementKey, into: &mut [u8]) -> Result<usize, Fault> {
        self.vtpm.attestable()?;
        Ok(self.vtpm.engine.endorsement_key(self.vtpm.nv.image(), key, into)?)
    }

    fn permit(&mut self) -> Result<(), Fault> {
        self.vtpm.may_attest(self.platform)
    }

    fn report(
        &mut self,
        data: &[u8; REPORT_DATA_BYTES],
        report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), Fault> {
        self.platform.reporter.report(data, report).map_err(|_| AttestFault::NoReport.into())
    }

    fn certificate(&mut self, into: &mut [u8]) -> usize {
        self.platform.reporter.certificate(into).min(into.len())
    }
}
