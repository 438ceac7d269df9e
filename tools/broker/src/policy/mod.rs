//! What a tenant demands of the machine that may have a VM's keys.
//!
//! **What.** [`Policy`] as enrolled; [`guest_is_closed`] and [`Policy::admits`] judge a report whose signature already
//! held. [`Refusal`] is the rule that was broken.
//! **Trust.** The report, since its signature was verified down to a root; the policy, since the tenant enrolled it.
//! **Laws.** An empty list of measurements admits nobody; any other empty list demands nothing. Each rule is judged by itself, in one
//! order, and the first that fails is the answer.
//! **Not here.** Signatures and certificates (`husk-evidence`); which session a report is for (`service`); the GUEST_SVN that a VM
//! had keys with before, which its row remembers (`rules`).

mod file;
mod refusal;
mod words;

pub use file::{Contradiction, FILE_BYTES_MAX, LIST_MAX, PolicyFileError};
pub(crate) use refusal::holds;
pub use refusal::{Refusal, Rule};
pub use words::{Abi, Firmware, FlagRule, Floors, NamedBits, chip, key_digest, measurement, tcb};

use husk::attest::report::{Generation, PlatformInfo, Policy as GuestPolicy, Report, Tcb};
use refusal::one_of;
use serde::{Deserialize, Serialize};
use words::{TcbText, list, maybe, named};

/// A launch digest.
pub type Measurement = [u8; 48];
/// CHIP_ID of a report.
pub type ChipId = [u8; 64];
/// ID_KEY_DIGEST or AUTHOR_KEY_DIGEST of a report.
pub type KeyDigest = [u8; 48];

/// What the verified certificate says of the chip; a host may mask CHIP_ID in reports, never this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genuine {
    /// How its TCB_VERSION is laid out.
    pub generation: Generation,
    /// Whose key signed.
    pub signer: Signer,
    /// What is known of revocations by its root; it revokes nothing of this chain.
    pub revocation: Revocation,
}

/// Whose key signed a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// This chip's, padded with zeros.
    Chip(ChipId),
    /// A cloud provider's, by its CSP_ID.
    Provider(String),
}

/// What is known of a root's revocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// No list.
    Unknown,
    /// A list that is in date.
    Known,
    /// A list that ended then, in seconds since 1970.
    Ended(u64),
}

/// What is demanded of the knowledge of revocations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RevocationRule {
    /// Where a list is kept, it must be in date.
    #[default]
    Known,
    /// A list must be kept, and in date.
    Required,
    /// A list that has ended counts on: it revokes what it did, and nothing since.
    Ended,
}

/// What a tenant demands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The firmware that may have the keys; two while one follows another.
    #[serde(with = "list")]
    pub measurements: Vec<Measurement>,
    /// Each part of REPORTED, COMMITTED and LAUNCH TCB must be at least this.
    #[serde(default)]
    pub min_tcb: Floors,
    /// If this or `providers` is not empty, only these chips and those providers' keys.
    #[serde(default, with = "list")]
    pub chips: Vec<ChipId>,
    /// Cloud providers by the CSP_ID of their VLEKs.
    #[serde(default)]
    pub providers: Vec<String>,
    /// If not empty, the ID block must be signed by one of these keys.
    #[serde(default, with = "list")]
    pub id_keys: Vec<KeyDigest>,
    /// If not empty, the ID key must be signed by one of these keys.
    #[serde(default, with = "list")]
    pub author_keys: Vec<KeyDigest>,
    /// The lowest GUEST_SVN. What was granted with a higher one raises it for this VM, for ever.
    #[serde(default)]
    pub min_guest_svn: u32,
    /// The lowest ABI version that the guest's POLICY may accept.
    #[serde(default, with = "maybe")]
    pub min_abi: Option<Abi>,
    /// The lowest SNP firmware, current and committed.
    #[serde(default, with = "maybe")]
    pub min_firmware: Option<Firmware>,
    /// Bits of the guest's POLICY.
    #[serde(default)]
    pub guest: FlagRule<GuestPolicy>,
    /// Bits of PLATFORM_INFO.
    #[serde(default)]
    pub platform: FlagRule<PlatformInfo>,
    /// Revocation lists.
    #[serde(default)]
    pub revocation: RevocationRule,
}

impl Policy {
    /// Admits this firmware where no memory alias was found, and demands nothing else.
    #[must_use]
    pub fn of(measurements: Vec<Measurement>) -> Self {
        let required = PlatformInfo::ALIAS_CHECK_COMPLETE;
        let platform = FlagRule { required, ..FlagRule::default() };
        Self { measurements, platform, ..Self::default() }
    }

    /// Judges firmware and platform.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn admits(&self, report: &Report<'_>, genuine: &Genuine) -> Result<(), Refusal> {
        self.admits_image(report)?;
        self.admits_launch(report)?;
        self.admits_levels(report, genuine.generation)?;
        flags(Rule::Platform, &self.platform, report.platform_info())?;
        self.admits_signer(&genuine.signer)?;
        self.admits_revocation(genuine.revocation)
    }

    fn admits_image(&self, report: &Report<'_>) -> Result<(), Refusal> {
        digest(Rule::Measurement, &self.measurements, Some(report.measurement()))?;
        if !self.id_keys.is_empty() {
            digest(Rule::IdKey, &self.id_keys, Some(report.id_key_digest()))?;
        }
        if !self.author_keys.is_empty() {
            let author = report.author_key_enabled().then(|| report.author_key_digest());
            digest(Rule::AuthorKey, &self.author_keys, author)?;
        }
        svn_reaches(report, self.min_guest_svn)
    }

    fn admits_launch(&self, report: &Report<'_>) -> Result<(), Refusal> {
        flags(Rule::GuestFlags, &self.guest, report.policy())?;
        let (major, minor) = report.policy().abi();
        at_least(Rule::GuestAbi, self.min_abi, Abi([major, minor]))
    }

    fn admits_levels(&self, report: &Report<'_>, generation: Generation) -> Result<(), Refusal> {
        let levels = [
            (Rule::ReportedTcb, report.reported_tcb()),
            (Rule::CommittedTcb, report.committed_tcb()),
            (Rule::LaunchTcb, report.launch_tcb()),
        ];
        for (rule, bytes) in levels {
            let seen = Tcb::from_bytes(bytes, generation);
            let floor = match &self.min_tcb {
                Floors::None => continue,
                Floors::Every(floor) => Some(floor),
                Floors::Each(floors) => {
                    floors.iter().find(|(one, _)| *one == generation).map(|(_, floor)| floor)
                }
            };
            let wanted =
                || floor.map_or_else(|| "another generation".to_owned(), |one| TcbText(*one).to_string());
            holds(floor.is_some_and(|floor| seen.covers(*floor)), || {
                Refusal::new(rule, wanted(), format!("{} of {}", TcbText(seen), generation.name()))
            })?;
        }
        for [build, minor, major] in [*report.current_firmware(), *report.committed_firmware()] {
            at_least(Rule::Firmware, self.min_firmware, Firmware([major, minor, build]))?;
        }
        Ok(())
    }

    fn admits_revocation(&self, known: Revocation) -> Result<(), Refusal> {
        let wanted = "a revocation list of the root that is in date (`husk broker certs import-crl`)";
        match (self.revocation, known) {
            (RevocationRule::Required, Revocation::Unknown) => {
                Err(Refusal::new(Rule::Revocation, wanted, "none"))
            }
            (RevocationRule::Required | RevocationRule::Known, Revocation::Ended(at)) => {
                Err(Refusal::new(Rule::Revocation, wanted, format!("one that ended {at} s after 1970")))
            }
            _ => Ok(()),
        }
    }

    fn admits_signer(&self, signer: &Signer) -> Result<(), Refusal> {
        let open = self.chips.is_empty() && self.providers.is_empty();
        let (listed, seen) = match signer {
            Signer::Chip(chip) => (self.chips.contains(chip), format!("chip {}", hex::encode(chip))),
            Signer::Provider(csp) => (self.providers.contains(csp), format!("provider {csp}")),
        };
        let members = self.chips.iter().map(hex::encode).chain(self.providers.iter().cloned());
        let members: Vec<String> = members.collect();
        holds(open || listed, || Refusal::new(Rule::Chip, one_of(members.into_iter()), seen))
    }
}

/// Whether GUEST_SVN is at least `floor`.
///
/// # Errors
/// [`Rule::GuestSvn`].
pub fn svn_reaches(report: &Report<'_>, floor: u32) -> Result<(), Refusal> {
    let seen = report.guest_svn();
    holds(seen >= floor, || Refusal::new(Rule::GuestSvn, format!("at least {floor}"), seen))
}

/// What no tenant can waive in a guest's POLICY.
const fn not_waived() -> GuestPolicy {
    GuestPolicy::DEBUG.union(GuestPolicy::MIGRATE_MA)
}

/// What no tenant can waive: VMPL 0 asked, the host may not debug, no migration agent.
///
/// # Errors
/// [`Rule::Vmpl`], [`Rule::GuestFlags`].
pub fn guest_is_closed(report: &Report<'_>) -> Result<(), Refusal> {
    holds(report.vmpl() == 0, || Refusal::new(Rule::Vmpl, "VMPL 0", report.vmpl()))?;
    let closed = FlagRule { required: GuestPolicy::empty(), forbidden: not_waived() };
    flags(Rule::GuestFlags, &closed, report.policy())
}

fn digest(rule: Rule, allowed: &[[u8; 48]], seen: Option<&[u8; 48]>) -> Result<(), Refusal> {
    holds(seen.is_some_and(|seen| allowed.contains(seen)), || {
        Refusal::new(
            rule,
            one_of(allowed.iter().map(hex::encode)),
            seen.map_or_else(|| "none".to_owned(), hex::encode),
        )
    })
}

fn at_least<T: Ord + std::fmt::Display>(rule: Rule, floor: Option<T>, seen: T) -> Result<(), Refusal> {
    let Some(floor) = floor else { return Ok(()) };
    holds(seen >= floor, || Refusal::new(rule, format!("at least {floor}"), seen))
}

fn flags<F: NamedBits>(rule: Rule, of: &FlagRule<F>, seen: F) -> Result<(), Refusal> {
    let (missing, barred) = (of.required.difference(seen), of.forbidden.intersection(seen));
    holds(missing.is_empty(), || Refusal::new(rule, named(missing).join(", "), "it off"))?;
    holds(barred.is_empty(), || Refusal::new(rule, format!("{} off", named(barred).join(", ")), "it on"))
}

#[cfg(test)]
mod tests;
