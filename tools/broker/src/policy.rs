//! What a tenant demands of the machine that may have a VM's keys.
//!
//! **What.** [`Policy`] as enrolled; [`guest_is_closed`] and [`Policy::admits`] judge a report whose signature already
//! held.
//! **Trust.** The report, since its signature was verified down to a root; the policy, since the tenant enrolled it.
//! **Laws.** An empty list of measurements admits nobody; an empty list of chips admits every genuine chip. Each rule
//! has a reason of its own, and the first that fails is the answer.
//! **Not here.** Signatures and certificates (`husk-evidence`); which session a report is for (`service`).

use husk::attest::report::{Generation, Policy as GuestPolicy, Report, Tcb};
use husk::release::wire::DeniedReason;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A launch digest.
pub type Measurement = [u8; 48];
/// CHIP_ID of a report.
pub type ChipId = [u8; 64];

/// What the verified certificate says of the chip; a host may mask CHIP_ID in reports, never this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Genuine {
    /// How its TCB_VERSION is laid out.
    pub generation: Generation,
    /// Which chip it is, padded with zeros; none where a provider's key signed.
    pub chip: Option<ChipId>,
}

/// What a tenant demands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PolicyText", into = "PolicyText")]
pub struct Policy {
    /// The firmware that may have the keys.
    pub measurements: Vec<Measurement>,
    /// Each part of REPORTED, COMMITTED and LAUNCH TCB must be at least this.
    pub min_tcb: Option<Tcb>,
    /// If not empty, only these chips.
    pub chips: Vec<ChipId>,
}

impl Policy {
    /// Judges firmware and platform.
    ///
    /// # Errors
    /// The reason that the VM is told.
    pub fn admits(&self, report: &Report<'_>, genuine: &Genuine) -> Result<(), DeniedReason> {
        let chip_is_listed = genuine.chip.is_some_and(|chip| self.chips.contains(&chip));
        refused(self.measurements.contains(report.measurement()), DeniedReason::Measurement)?;
        refused(self.covers(report, genuine.generation), DeniedReason::Tcb)?;
        refused(self.chips.is_empty() || chip_is_listed, DeniedReason::Chip)
    }

    fn covers(&self, report: &Report<'_>, generation: Generation) -> bool {
        let Some(floor) = self.min_tcb else { return true };
        [report.reported_tcb(), report.committed_tcb(), report.launch_tcb()]
            .into_iter()
            .all(|bytes| Tcb::from_bytes(bytes, generation).covers(floor))
    }
}

/// What no tenant can waive: VMPL 0 asked, the host may not debug, no migration agent.
///
/// # Errors
/// [`DeniedReason::GuestPolicy`].
pub fn guest_is_closed(report: &Report<'_>) -> Result<(), DeniedReason> {
    let guest = report.policy();
    refused(report.vmpl() == 0, DeniedReason::GuestPolicy)?;
    refused(!guest.contains(GuestPolicy::DEBUG), DeniedReason::GuestPolicy)?;
    refused(!guest.contains(GuestPolicy::MIGRATE_MA), DeniedReason::GuestPolicy)
}

/// `Ok` if `ok`, the reason otherwise.
pub(crate) const fn refused(ok: bool, reason: DeniedReason) -> Result<(), DeniedReason> {
    if ok { Ok(()) } else { Err(reason) }
}

/// How a policy rests in the database and shows to the operator.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyText {
    measurements: Vec<String>,
    min_tcb: Option<String>,
    chips: Vec<String>,
}

impl From<Policy> for PolicyText {
    fn from(policy: Policy) -> Self {
        Self {
            measurements: policy.measurements.iter().map(hex::encode).collect(),
            min_tcb: policy.min_tcb.map(|tcb| TcbText(tcb).to_string()),
            chips: policy.chips.iter().map(hex::encode).collect(),
        }
    }
}

impl TryFrom<PolicyText> for Policy {
    type Error = String;

    fn try_from(text: PolicyText) -> Result<Self, String> {
        Ok(Self {
            measurements: text.measurements.iter().map(|one| measurement(one)).collect::<Result<_, _>>()?,
            min_tcb: text.min_tcb.as_deref().map(tcb).transpose()?,
            chips: text.chips.iter().map(|one| chip(one)).collect::<Result<_, _>>()?,
        })
    }
}

/// Reads a measurement: 96 hexadecimal digits.
///
/// # Errors
/// One line that says so.
pub fn measurement(text: &str) -> Result<Measurement, String> {
    let mut out = [0; 48];
    hex::decode_to_slice(text, &mut out).map_err(|_| "a measurement is 96 hexadecimal digits".to_owned())?;
    Ok(out)
}

/// Reads a CHIP_ID: 128 hexadecimal digits, or the 16 that Turin has.
///
/// # Errors
/// One line that says so.
pub fn chip(text: &str) -> Result<ChipId, String> {
    let mut out = [0; 64];
    let used = if text.len() == 16 { &mut out[..8] } else { &mut out[..] };
    hex::decode_to_slice(text, used).map_err(|_| "a chip id is 128 or 16 hexadecimal digits".to_owned())?;
    Ok(out)
}

/// Reads a TCB floor such as `bootloader=4,tee=0,snp=22,microcode=213`, with `fmc=1` for Turin.
///
/// # Errors
/// One line that says what is wrong.
pub fn tcb(text: &str) -> Result<Tcb, String> {
    let mut floor = Tcb { fmc: None, bootloader: 0, tee: 0, snp: 0, microcode: 0 };
    let mut seen = Vec::new();
    for part in text.split(',') {
        let (word, level) = part.split_once('=').ok_or_else(|| format!("`{part}` is not PART=LEVEL"))?;
        let level = level.parse().map_err(|_| format!("`{level}` is not a level from 0 to 255"))?;
        match word {
            "fmc" => floor.fmc = Some(level),
            "bootloader" => floor.bootloader = level,
            "tee" => floor.tee = level,
            "snp" => floor.snp = level,
            "microcode" => floor.microcode = level,
            _ => return Err(format!("`{word}` is none of bootloader, tee, snp, microcode, fmc")),
        }
        if seen.contains(&word) {
            return Err(format!("`{word}` is given twice"));
        }
        seen.push(word);
    }
    Ok(floor)
}

/// A TCB as [`tcb`] reads it.
struct TcbText(Tcb);

impl fmt::Display for TcbText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tcb { fmc, bootloader, tee, snp, microcode } = self.0;
        write!(f, "bootloader={bootloader},tee={tee},snp={snp},microcode={microcode}")?;
        fmc.map_or(Ok(()), |fmc| write!(f, ",fmc={fmc}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{Genuine, Policy, TcbText, chip, guest_is_closed, tcb};
    use husk::attest::report::{Generation, Layout, Report};
    use husk::release::wire::DeniedReason;
    use husk::seams::REPORT_BYTES;
    use zerocopy::{FromBytes, IntoBytes};

    type Change = fn(&mut Layout);

    fn report() -> Layout {
        let mut layout = Layout::read_from_bytes(&[0; REPORT_BYTES]).unwrap();
        layout.version.set(3);
        layout.policy.set(0x3_0000);
        layout.signature_algo.set(1);
        layout.measurement = [7; 48];
        layout.chip_id = [8; 64];
        layout.reported_tcb = [4, 0, 0, 0, 0, 0, 22, 213];
        layout.committed_tcb = layout.reported_tcb;
        layout.launch_tcb = layout.reported_tcb;
        layout
    }

    fn judged(policy: &Policy, layout: &Layout) -> Result<(), DeniedReason> {
        let raw = <[u8; REPORT_BYTES]>::read_from_bytes(layout.as_bytes()).unwrap();
        let report = Report::parse(&raw).unwrap();
        let chip = (layout.chip_id != [0; 64]).then_some(layout.chip_id);
        let genuine = Genuine { generation: Generation::Milan, chip };
        guest_is_closed(&report).and_then(|()| policy.admits(&report, &genuine))
    }

    fn policy() -> Policy {
        let min_tcb = Some(tcb("bootloader=4,tee=0,snp=22,microcode=213").unwrap());
        Policy { measurements: vec![[1; 48], [7; 48]], min_tcb, chips: vec![[8; 64]] }
    }

    #[test]
    fn each_rule_has_its_reason() {
        assert_eq!(judged(&policy(), &report()), Ok(()));
        let changes: [(Change, DeniedReason); 9] = [
            (|r| r.vmpl.set(1), DeniedReason::GuestPolicy),
            (|r| r.vmpl.set(u32::MAX), DeniedReason::GuestPolicy),
            (|r| r.policy.set(0xB_0000), DeniedReason::GuestPolicy),
            (|r| r.policy.set(0x7_0000), DeniedReason::GuestPolicy),
            (|r| r.measurement[47] ^= 1, DeniedReason::Measurement),
            (|r| r.reported_tcb[7] = 212, DeniedReason::Tcb),
            (|r| r.committed_tcb[6] = 21, DeniedReason::Tcb),
            (|r| r.launch_tcb[0] = 3, DeniedReason::Tcb),
            (|r| r.chip_id[63] ^= 1, DeniedReason::Chip),
        ];
        for (change, reason) in changes {
            let mut changed = report();
            change(&mut changed);
            assert_eq!(judged(&policy(), &changed), Err(reason));
        }
    }

    #[test]
    fn no_measurement_admits_nobody_and_no_chip_admits_every_chip() {
        let nobody = Policy { measurements: vec![], ..policy() };
        assert_eq!(judged(&nobody, &report()), Err(DeniedReason::Measurement));
        let mut other = report();
        other.chip_id = [0; 64];
        assert_eq!(judged(&Policy { chips: vec![], ..policy() }, &other), Ok(()));
    }

    #[test]
    fn a_policy_reads_what_it_writes() {
        let text = serde_json::to_string(&policy()).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy());
        for wrong in ["", "bootloader", "bootloader=256", "snp=1,snp=2", "cpu=1"] {
            assert!(tcb(wrong).is_err(), "{wrong}");
        }
        let turin = tcb("fmc=1,bootloader=1,tee=1,snp=4,microcode=79").unwrap();
        assert_eq!(tcb(&TcbText(turin).to_string()), Ok(turin));
        assert_eq!(chip("0102030405060708").unwrap()[..9], [1, 2, 3, 4, 5, 6, 7, 8, 0]);
        assert!(chip("01").is_err());
    }
}
