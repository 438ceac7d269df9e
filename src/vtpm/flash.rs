//! The guest's flash: kept in the volume, by the commits that keep the TPM's memory; or in memory, where that is all that the TPM has.

use super::serve::Vtpm;
use crate::engine::{Engine, Needs};
use crate::fault::Fault;
use crate::frontend::flash::Flash;
use crate::seams::{Cells, Platform};

/// Where what a flash shows came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlashOrigin {
    /// It is what was kept.
    Kept,
    /// Nothing was kept; it is what the firmware brought, and kept from now on.
    Template,
    /// Nothing is kept: it is what the firmware brought, until the launch ends.
    Brought,
}

impl<E: Engine> Vtpm<'_, E> {
    /// The guest's flash: shows what is kept in `cells`. Where nothing is kept yet, what `cells` shows is taken, and made durable.
    ///
    /// # Errors
    /// [`FlashSize`](crate::nv::NvFault::FlashSize) and faults of the volume. No guest must run then.
    pub fn open_flash(
        &mut self,
        platform: &mut Platform<'_>,
        cells: &mut dyn Cells,
    ) -> Result<(Flash, FlashOrigin), Fault> {
        self.alive()?;
        if self.nv.fetch_blocks(platform, cells)? {
            return Ok((Flash::new(cells)?, FlashOrigin::Kept));
        }
        let mut flash = Flash::unkept(cells)?;
        self.keep_flash(platform, cells, &mut flash)?;
        let origin = if self.nv.is_ephemeral() { FlashOrigin::Brought } else { FlashOrigin::Template };
        Ok((flash, origin))
    }

    /// Whether a flash is kept.
    #[must_use]
    pub fn keeps_flash(&self) -> bool {
        self.nv.image().blocks() > 0
    }

    /// Makes what the guest changed in its flash durable, and anchored: afterwards nothing is owed. The caller lets nobody access the flash meanwhile.
    ///
    /// # Errors
    /// A [`Fault`], with which the change stays owed. Where it [leaves the TPM serving](Self::latched) the same may be tried again; after any other the guest must not go
    /// on: EDK II does not look at the status that would say so.
    pub fn keep_flash(
        &mut self,
        platform: &mut Platform<'_>,
        cells: &dyn Cells,
        flash: &mut Flash,
    ) -> Result<(), Fault> {
        if flash.changed().is_empty() {
            return Ok(());
        }
        self.alive()?;
        self.begin();
        self.close_what_is_due(platform)?;
        self.trust.allow(platform, Needs::Nv).map_err(|fault| self.latch_if_definite(fault))?;
        if !self.nv.is_ephemeral() {
            self.trust.renew(platform).map_err(|fault| self.latch_if_definite(fault.into()))?;
        }
        self.place(platform, cells, flash).map_err(|fault| self.latch(fault))
    }

    /// Blocks first, then the state that names them: only what that commit proves is told to the guest.
    fn place(
        &mut self,
        platform: &mut Platform<'_>,
        cells: &dyn Cells,
        flash: &mut Flash,
    ) -> Result<(), Fault> {
        let placed = self.nv.place_blocks(platform, cells, flash.changed())?;
        let change = self.nv.change();
        let committed = self.carry(platform, change, Needs::Nv)?;
        Ok(flash.settle(placed, &committed)?)
    }
}
