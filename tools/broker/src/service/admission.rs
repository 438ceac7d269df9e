//! Whether a report may have a VM's keys: whose it is, and what the VM's tenant says of it.

use super::Service;
use crate::evidence::EvidenceRefused;
use crate::ids::VmName;
use crate::policy::{Genuine, Refusal, Rule, guest_is_closed, holds, svn_reaches};
use crate::rules::Keeps;
use crate::store::{Criteria, Enrolment, KeptKind};
use husk::attest::binding::report_data;
use husk::attest::launch::{LaunchConfig, Mode};
use husk::attest::report::{Generation, Report, SigningKey, Tcb};
use husk::release::wire::RefusalReason;
use husk::seams::REPORT_BYTES;
use sha2::{Digest as _, Sha256, Sha384};

impl Service {
    /// What the store has now to judge reports of a VM by.
    pub(super) fn criteria(&self, vm: &VmName) -> Result<Criteria, RefusalReason> {
        self.stored(vm, |serving| serving.store().criteria(vm))
    }

    /// Whether the report is a processor's, by its certificate or, where the host has none, by those that are kept.
    pub(super) fn genuine(
        &self,
        (vm, criteria): (&VmName, &Criteria),
        report: &[u8; REPORT_BYTES],
        certificate: &[u8],
    ) -> Result<Result<Genuine, Refusal>, RefusalReason> {
        if let Err(refused) = self.trust(vm, criteria.trust_version)? {
            return Ok(Err(unfounded(refused)));
        }
        if !certificate.is_empty() {
            return Ok(self.evidence.verify(report, certificate).map_err(unfounded));
        }
        let mut verdict = self.evidence.verify(report, certificate);
        for kept in self.kept_certificates(vm, report)? {
            verdict = self.evidence.verify(report, &kept);
            if verdict.is_ok() {
                break;
            }
        }
        Ok(verdict.map_err(unfounded))
    }

    /// Judges by what the database keeps by now, whichever broker it was given to; `version` names that.
    fn trust(&self, vm: &VmName, version: u64) -> Result<Result<(), EvidenceRefused>, RefusalReason> {
        if self.evidence.trusts().is_none_or(|known| known == version) {
            return Ok(Ok(()));
        }
        let trusted = self.stored(vm, |serving| serving.store().trusted())?;
        Ok(self.evidence.trust(&trusted))
    }

    /// Certificates that are kept for the key that the report names.
    fn kept_certificates(
        &self,
        vm: &VmName,
        report: &[u8; REPORT_BYTES],
    ) -> Result<Vec<Vec<u8>>, RefusalReason> {
        let Ok(report) = Report::parse(report) else { return Ok(Vec::new()) };
        let kind = match report.signing_key() {
            SigningKey::Vcek => KeptKind::Vcek,
            SigningKey::Vlek => KeptKind::Vlek,
            SigningKey::None => return Ok(Vec::new()),
        };
        // Version 2 names no generation; its chips lay out their TCB_VERSION alike.
        let generation = report.generation().unwrap_or(Generation::Milan);
        let tcb = Tcb::from_bytes(report.reported_tcb(), generation).to_bytes();
        let chip = if kind == KeptKind::Vcek { *report.chip_id() } else { [0; 64] };
        self.stored(vm, |serving| serving.store().certificates_for(kind, &chip, &tcb))
    }
}

/// Whether a report that is genuine may have a VM's keys, as its tenant has it.
pub(super) fn admits(
    criteria: &Criteria,
    report: &[u8; REPORT_BYTES],
    genuine: &Genuine,
) -> Result<Result<(), Refusal>, RefusalReason> {
    let Criteria { enrolment, row, .. } = criteria;
    let report = Report::parse(report).map_err(|_| RefusalReason::Malformed)?;
    Ok(guest_is_closed(&report)
        .and_then(|()| bears(&report, enrolment))
        .and_then(|()| enrolment.policy.admits(&report, genuine))
        .and_then(|()| svn_reaches(&report, row.guest_svn)))
}

/// Why a report is nobody's.
fn unfounded(refused: EvidenceRefused) -> Refusal {
    match refused {
        EvidenceRefused::Unsound(why) => Refusal::new(Rule::Evidence, "a genuine report", why),
        EvidenceRefused::Simulated(why) => Refusal::new(Rule::Silicon, "silicon", why),
        EvidenceRefused::Revoked(why) => Refusal::new(Rule::Revocation, "a chain that holds", why),
    }
}

/// The report is of a launch with the enrolled configuration.
pub(super) fn bears(report: &Report<'_>, enrolment: &Enrolment) -> Result<(), Refusal> {
    let (wanted, seen) = (enrolment.host_data, report.host_data());
    holds(*seen == wanted, || Refusal::new(Rule::HostData, hex::encode(wanted), hex::encode(seen)))
}

/// The configuration is the enrolled one.
pub(super) fn shown(config: &[u8], enrolment: &Enrolment) -> Result<(), Refusal> {
    let (wanted, seen) = (enrolment.host_data, <[u8; 32]>::from(Sha256::digest(config)));
    holds(seen == wanted, || {
        Refusal::new(Rule::Configuration, format!("SHA-256 {}", hex::encode(wanted)), hex::encode(seen))
    })
}

/// The report was made for this very session.
pub(super) fn bound(report: &Report<'_>, transcript: &[u8; 48], config: &[u8]) -> Result<(), Refusal> {
    let (wanted, seen) = (report_data(transcript, &Sha384::digest(config).into()), report.report_data());
    holds(*seen == wanted, || Refusal::new(Rule::Binding, "REPORT_DATA of this session", hex::encode(seen)))
}

/// What becomes of the TPM of a launch with that configuration, which is the enrolled one. One that this build does not read is of a VM
/// that this build's component does not run either.
pub(super) fn kept_by(config: &[u8]) -> Keeps {
    match LaunchConfig::parse(config).map(|config| config.mode) {
        Ok(Mode::Ephemeral) => Keeps::Nothing,
        Ok(Mode::Strict | Mode::HwSealed) | Err(_) => Keeps::State,
    }
}
