//! The driver for registers that are plain memory.
//!
//! Nothing traps, so a write is seen when its register holds something else than this driver left there. The order of
//! stores keeps a driver that waits as the PTP says from losing anything: TPM_LOC_CTRL is cleared *before* the locality
//! registers change (a guest waits for those and may then write again), and TPM_LOC_STATE says that it is not valid until
//! TPM_LOC_STS agrees with it (drivers wait for one or the other); TPM_CRB_CTRL_REQ and TPM_CRB_CTRL_START are
//! cleared *after* what they asked for is shown (a guest waits for the bit itself). Writes that come faster than that
//! are merged or lost, which harms only the guest that did not wait. All registers that a guest may not write are put
//! right at every poll.
//!
//! The command runs inside [`poll`](Shared::poll): other localities' registers stand still meanwhile, and a cancel is
//! seen before it starts; during it only by someone who watches TPM_CRB_CTRL_CANCEL beside this driver.

use super::exchange::{Exchange, Work};
use super::registers::{
    ALWAYS_ZERO, CTRL_CANCEL, LOC_CTRL, LOC_STATE, Layout, SHOWN, SPOKEN, event, page_offset,
};
use super::state::{Effect, State};
use crate::engine::Locality;
use crate::frontend::Tpm;
use crate::seams::GuestPage;

/// All byte lanes of a register.
const ALL_LANES: u8 = 0b1111;

/// The CRB on a page that guest and component share.
#[expect(missing_debug_implementations, reason = "commands carry passwords")]
pub struct Shared<'b> {
    exchange: Exchange<'b>,
}

impl<'b> Shared<'b> {
    /// The interface as after power-on; nothing is shown before [`reset`](Self::reset).
    pub fn new(layout: Layout, work: &'b mut Work) -> Self {
        Self { exchange: Exchange::new(layout, work) }
    }

    /// Power-on or reset of the TPM: everything is forgotten and every register is written. `page` must have
    /// [`Layout::window_bytes`].
    pub fn reset(&mut self, page: &mut dyn GuestPage, tpm: &mut dyn Tpm) {
        self.exchange.state = State::POWER_ON;
        self.exchange.learn(tpm);
        for locality in self.exchange.layout.localities() {
            for register in SPOKEN {
                self.put(page, locality, register);
            }
        }
        self.put_right(page);
    }

    /// The interface's state.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.exchange.state
    }

    /// Looks at every register once, serves what a guest asked for, and says whether it had asked for anything.
    pub fn poll(&mut self, page: &mut dyn GuestPage, tpm: &mut dyn Tpm) -> bool {
        let mut asked = false;
        for locality in self.exchange.layout.localities() {
            for register in SPOKEN {
                asked |= self.look(page, tpm, locality, register);
            }
        }
        self.put_right(page);
        asked
    }

    fn look(
        &mut self,
        page: &mut dyn GuestPage,
        tpm: &mut dyn Tpm,
        locality: Locality,
        register: usize,
    ) -> bool {
        let seen = page.load(page_offset(locality) + register);
        if seen == self.exchange.layout.shows(&self.exchange.state, locality, register) {
            return false;
        }
        if register == LOC_CTRL {
            self.put(page, locality, register);
        }
        let before = self.exchange.state;
        if let Some(event) = event(locality, register, seen, ALL_LANES) {
            let effect = self.exchange.happened(event);
            let at = self.buffer(effect);
            self.exchange.serve(effect, page, at, tpm);
        }
        if self.exchange.state.active != before.active {
            self.hide_loc_state(page);
        }
        if self.exchange.state.cancel != before.cancel || self.exchange.state.active != before.active {
            self.alias_cancel(page);
        }
        self.put_right(page);
        if register != LOC_CTRL {
            self.put(page, locality, register);
        }
        true
    }

    /// Clears TPM_LOC_STATE.tpmRegValidSts until [`put_right`](Self::put_right) has brought the locality registers together.
    fn hide_loc_state(&self, page: &mut dyn GuestPage) {
        for locality in self.exchange.layout.localities() {
            page.store(page_offset(locality) + LOC_STATE, 0);
        }
    }

    /// Where the locality that an effect serves has its buffer.
    fn buffer(&self, effect: Effect) -> usize {
        match effect {
            Effect::Execute(locality) | Effect::AnswerCancelled(locality) => {
                self.exchange.layout.buffer_offset(locality)
            }
            Effect::None | Effect::Accept | Effect::Cancel | Effect::ResetEstablished(_) => 0,
        }
    }

    /// A locality that comes to have the TPM must not inherit what another left in TPM_CRB_CTRL_CANCEL.
    fn alias_cancel(&self, page: &mut dyn GuestPage) {
        for locality in self.exchange.layout.localities() {
            self.put(page, locality, CTRL_CANCEL);
        }
    }

    /// Writes every register that is not the guest's, where it does not hold what it must.
    fn put_right(&self, page: &mut dyn GuestPage) {
        for register in ALWAYS_ZERO.into_iter().chain(SHOWN) {
            for locality in self.exchange.layout.localities() {
                self.put(page, locality, register);
            }
        }
    }

    fn put(&self, page: &mut dyn GuestPage, locality: Locality, register: usize) {
        let shown = self.exchange.layout.shows(&self.exchange.state, locality, register);
        let at = page_offset(locality) + register;
        if page.load(at) != shown {
            page.store(at, shown);
        }
    }
}
