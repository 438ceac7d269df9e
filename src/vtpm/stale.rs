//! What may be answered before it is anchored, where a tenant opted into that (`release/protocol.md`, section 4).

use super::serve::Vtpm;
use crate::attest::launch::NvIndices;
use crate::engine::{Engine, Needs};
use crate::fault::Fault;
use crate::nv::order::{Change, Due};
use crate::release::ReleaseFault;
use crate::seams::Platform;

impl<E: Engine> Vtpm<'_, E> {
    /// What a command that was executed left to make durable. Strict, unless all of it may be stale, so little waits already that
    /// this may wait too, and it has not waited too long.
    pub(super) fn change(&mut self, platform: &Platform<'_>) -> Change {
        let change = self.nv.change();
        let defers = change == Change::Record
            && self.nv.has_slack()
            && !self.is_due(platform)
            && self.trust.staleness().is_some_and(|staleness| self.may_be_stale(staleness.indices));
        if defers { Change::Deferred } else { change }
    }

    /// Whether every field that changed is one whose change may be lost: none of Husk's own, and the data of `indices`.
    fn may_be_stale(&self, indices: NvIndices) -> bool {
        let image = self.nv.image();
        match (image.durable_parts(), image.current_parts()) {
            (Some((old, old_engine)), Some((new, new_engine))) => {
                old == new && self.engine.may_be_stale(old_engine, new_engine, &indices.handles())
            }
            _ => false,
        }
    }

    /// Whether what waits for its anchor has waited for as long as it may. Without a clock it has.
    fn is_due(&self, platform: &Platform<'_>) -> bool {
        let Some(since_ms) = self.deferred_since_ms else { return false };
        let seconds = self.trust.staleness().map_or(0, |staleness| staleness.seconds);
        platform
            .clock
            .is_none_or(|clock| clock.now_ms().saturating_sub(since_ms) >= u64::from(seconds) * 1000)
    }

    /// Before a command that needs anything: anchors what has waited long enough, or whose anchor was asked for and not answered.
    ///
    /// # Errors
    /// As [`close`](Self::close).
    pub(super) fn close_what_is_due(&mut self, platform: &mut Platform<'_>) -> Result<(), Fault> {
        if self.is_due(platform) || self.trust.is_undecided() { self.close(platform) } else { Ok(()) }
    }

    /// Anchors what waits for it.
    ///
    /// # Errors
    /// [`ReleaseFault::Unreachable`] while the broker does not answer: nothing was executed, and it can be tried again. Any other
    /// fault is for good.
    pub(super) fn close(&mut self, platform: &mut Platform<'_>) -> Result<(), Fault> {
        if self.nv.deferred() == 0 {
            return Ok(());
        }
        match self.carry(platform, Change::Window, Needs::Nothing) {
            Ok(_) => Ok(()),
            Err(fault) if fault == ReleaseFault::Undecided.fault() => Err(ReleaseFault::Unreachable.into()),
            Err(fault) => Err(self.latch(fault)),
        }
    }

    /// Notes since when something waits.
    pub(super) fn note_deferral(&mut self, platform: &Platform<'_>, done: Due) {
        match done {
            Due::Anchor => self.deferred_since_ms = None,
            Due::Defer => {
                let now_ms = platform.clock.map_or(0, |clock| clock.now_ms());
                self.deferred_since_ms = self.deferred_since_ms.or(Some(now_ms));
            }
            Due::Renew
            | Due::Hold
            | Due::Write
            | Due::Flush
            | Due::Keep
            | Due::Permit
            | Due::Answer
            | Due::Over => {}
        }
    }
}
