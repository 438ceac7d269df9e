//! Who vouches for the newest state, and for the right to answer.

use super::boot::identity;
use crate::attest::launch::{Kbs, Mode, Serve, Staleness};
use crate::engine::Needs;
use crate::fault::Fault;
use crate::frontend::svsm::{Persistence, Serving};
use crate::keys::Identity;
use crate::release::tenure::Tenure;
use crate::release::{Anchor, Anchored, Head, LocalAnchor, ReleaseFault};
use crate::seams::Platform;
use crate::volume::spend_permits;

/// The anchor of trust of this launch. Which one it is was decided by how it was booted, and never changes.
#[expect(clippy::large_enum_variant, reason = "there is one, and there is no heap to put the larger in")]
pub(super) enum Trust<'m> {
    /// A tenure at the tenant's broker.
    Sealed {
        tenure: Tenure<'m>,
        /// The first head of a launch is confirmed, every later one anchored.
        confirmed: bool,
    },
    /// Nobody: hw-sealed, or a test.
    Alone {
        anchor: LocalAnchor,
        /// Stands in for the fencing token.
        token: u64,
        /// Which of the two: what the evidence shows.
        persistence: Persistence,
    },
}

impl<'m> Trust<'m> {
    /// A tenure that has confirmed nothing yet.
    pub(super) const fn granted(tenure: Tenure<'m>) -> Self {
        Self::Sealed { tenure, confirmed: false }
    }

    /// The fencing token.
    pub(super) const fn token(&self) -> u64 {
        match self {
            Self::Sealed { tenure, .. } => tenure.standing().token(),
            Self::Alone { token, .. } => *token,
        }
    }

    /// Whose TPM it is, where a broker granted it.
    pub(super) fn identity(&self) -> Option<Identity> {
        match self {
            Self::Sealed { tenure, .. } => Some(identity(tenure.config(), tenure.standing().generation())),
            Self::Alone { .. } => None,
        }
    }

    /// What protects the state, what keeps a second instance from answering, and whether a KBS key is required.
    pub(super) const fn promises(&self) -> (Persistence, Serving, bool) {
        let config = match self {
            Self::Sealed { tenure, .. } => tenure.config(),
            Self::Alone { persistence, .. } => return (*persistence, Serving::Nothing, false),
        };
        let serving = match config.serve {
            Serve::Lease => Serving::Lease,
            Serve::PerCommand => Serving::PerCommand,
            Serve::Detect => Serving::Detect,
            Serve::Nothing => Serving::Nothing,
        };
        let persistence = match (config.mode, config.staleness) {
            (Mode::Ephemeral, _) => Persistence::Ephemeral,
            (_, None) => Persistence::Strict,
            (_, Some(Staleness { .. })) => Persistence::Bounded,
        };
        (persistence, serving, matches!(config.kbs, Kbs::Required))
    }

    /// How much of what is answered a boot may lose, where the launch configuration says so.
    pub(super) const fn staleness(&self) -> Option<Staleness> {
        match self {
            Self::Sealed { tenure, .. } => tenure.config().staleness,
            Self::Alone { .. } => None,
        }
    }

    /// Whether an anchor's outcome is not known.
    pub(super) fn is_undecided(&self) -> bool {
        matches!(self, Self::Sealed { tenure, .. } if tenure.standing().undecided().is_some())
    }

    /// See [`Tenure::count_resets_from`].
    pub(super) const fn count_resets_from(&mut self, base: u64) {
        if let Self::Sealed { tenure, .. } = self {
            tenure.count_resets_from(base);
        }
    }

    /// A command begins: see [`Tenure::begin`].
    pub(super) const fn begin(&mut self) {
        if let Self::Sealed { tenure, .. } = self {
            tenure.begin();
        }
    }

    /// What a command needs before it may be executed.
    pub(super) fn allow(&mut self, platform: &mut Platform<'_>, needs: Needs) -> Result<(), Fault> {
        let Self::Sealed { tenure, .. } = self else { return Ok(()) };
        match (needs, tenure.config().mode) {
            (Needs::Nothing, _) => Ok(()),
            // What is written to memory waits for no anchor that a broker might not give.
            (Needs::Lease, _) | (Needs::Nv, Mode::Ephemeral) => tenure.permit(platform).map(drop),
            (Needs::Nv, _) => tenure.may_write(platform),
        }
        .map_err(Fault::from)
    }

    /// The right to answer now, asked for right before a response leaves.
    pub(super) fn permit(&mut self, platform: &mut Platform<'_>, needs: Needs) -> Result<(), Fault> {
        match (self, needs) {
            (Self::Alone { .. }, _) | (_, Needs::Nothing) => Ok(()),
            (Self::Sealed { tenure, .. }, Needs::Lease | Needs::Nv) => {
                tenure.permit(platform).map(drop).map_err(Fault::from)
            }
        }
    }

    /// Finds out whether this instance was fenced, before an area of the volume is overwritten that its successor may use.
    /// The first commit of a launch needs no such care: its grant is fresh.
    pub(super) fn renew(&mut self, platform: &mut Platform<'_>) -> Result<(), ReleaseFault> {
        match self {
            Self::Sealed { tenure, confirmed: true } => tenure.renew(platform),
            Self::Sealed { .. } | Self::Alone { .. } => Ok(()),
        }
    }

    /// Whether this instance may write to the disk now. The first commit of a launch needs no lease: its grant is fresh.
    pub(super) fn may_touch_disk(&mut self, platform: &mut Platform<'_>) -> Result<(), ReleaseFault> {
        match self {
            Self::Sealed { tenure, confirmed: true } => tenure.permit(platform).map(drop),
            Self::Sealed { .. } | Self::Alone { .. } => Ok(()),
        }
    }

    /// A fresh token for a TPM reset without a launch.
    pub(super) fn bump(&mut self, platform: &mut Platform<'_>) -> Result<u64, ReleaseFault> {
        match self {
            Self::Sealed { tenure, .. } => tenure.bump(platform),
            Self::Alone { token, .. } => {
                *token = token.saturating_add(1);
                Ok(*token)
            }
        }
    }

    /// Gives the right to answer up, in order and for good.
    pub(super) fn release(&mut self, platform: &mut Platform<'_>) -> Result<(), ReleaseFault> {
        match self {
            Self::Sealed { tenure, .. } => tenure.release(platform),
            Self::Alone { .. } => Ok(()),
        }
    }
}

impl Anchor for Trust<'_> {
    fn anchor(
        &mut self,
        platform: &mut Platform<'_>,
        previous: &Head,
        new: &Head,
    ) -> Result<Anchored, ReleaseFault> {
        match self {
            Self::Sealed { tenure, confirmed: true } => tenure.anchor(platform, previous, new),
            Self::Sealed { tenure, confirmed } => {
                let anchored = tenure.confirm(platform, new)?;
                *confirmed = true;
                Ok(anchored)
            }
            Self::Alone { anchor, persistence, .. } => {
                let anchored = anchor.anchor(platform, previous, new)?;
                if *persistence == Persistence::HwSealed && *previous == Head::NONE {
                    // The making is confirmed by this: from here on nothing is made on this volume again.
                    spend_permits(platform.disk).map_err(|_| ReleaseFault::PermitKept)?;
                }
                Ok(anchored)
            }
        }
    }
}
