//! One command and its response, for both drivers.

use super::registers::Layout;
use super::state::{Effect, Event, State, step};
use crate::engine::{COMMAND_BYTES_MAX, Locality};
use crate::frontend::{Tpm, reply};
use crate::seams::GuestPage;
use zeroize::Zeroize;

/// Size of a command's header in bytes (TPM 2.0 part 1, section "Command/Response Header Fields").
const HEADER_BYTES: usize = 10;

/// Private memory for one command and one response. The firmware hands it in at boot.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "commands carry passwords")]
pub struct Work {
    command: [u8; COMMAND_BYTES_MAX],
    response: [u8; COMMAND_BYTES_MAX],
}

impl Work {
    /// Empty memory, also for a static.
    pub const EMPTY: Self = Self { command: [0; COMMAND_BYTES_MAX], response: [0; COMMAND_BYTES_MAX] };
}

/// The interface's state and the memory it works in.
pub(super) struct Exchange<'b> {
    pub(super) layout: Layout,
    pub(super) state: State,
    command_bytes: usize,
    work: &'b mut Work,
}

impl<'b> Exchange<'b> {
    pub(super) fn new(layout: Layout, work: &'b mut Work) -> Self {
        Self { layout, state: State::POWER_ON, command_bytes: 0, work }
    }

    pub(super) fn happened(&mut self, event: Event) -> Effect {
        let (state, effect) = step(self.state, event);
        self.state = state;
        effect
    }

    /// The TPM's news that a register shows.
    pub(super) fn learn(&mut self, tpm: &mut dyn Tpm) {
        let established = tpm.established();
        self.state = step(self.state, Event::Established(established)).0;
    }

    /// Copies the command out of the guest's reach: the header once, then as much as the header's size field says and
    /// the buffer holds. What the guest writes from now on is not seen.
    pub(super) fn take_command(&mut self, page: &dyn GuestPage, at: usize) {
        let (header, body) = self.work.command.split_at_mut(HEADER_BYTES);
        page.copy_in(at, header);
        let stated = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
        let room = self.layout.buffer_bytes().saturating_sub(HEADER_BYTES).min(body.len());
        let more =
            usize::try_from(stated).map_or(room, |stated| stated.saturating_sub(HEADER_BYTES).min(room));
        page.copy_in(at + HEADER_BYTES, &mut body[..more]);
        self.command_bytes = HEADER_BYTES + more;
    }

    pub(super) fn command(&self) -> &[u8] {
        &self.work.command[..self.command_bytes.min(COMMAND_BYTES_MAX)]
    }

    /// Shows `response` to the locality that asked, if it still has the TPM.
    pub(super) fn finish(&mut self, response: &[u8], page: &mut dyn GuestPage, at: usize) {
        let room = self.work.response.get_mut(..response.len());
        if let Some(room) = room {
            room.copy_from_slice(response);
        }
        self.show_response(response.len(), page, at);
    }

    /// Does what an effect asks for, in the calling thread.
    pub(super) fn serve(&mut self, effect: Effect, page: &mut dyn GuestPage, at: usize, tpm: &mut dyn Tpm) {
        match effect {
            // Nothing runs while this thread serves, so a Cancel has nothing to reach.
            Effect::None | Effect::Accept | Effect::Cancel => {}
            Effect::Execute(locality) => self.execute(locality, page, at, tpm),
            Effect::AnswerCancelled(_) => self.answer_cancelled(page, at),
            Effect::ResetEstablished(locality) => {
                // A refusal changes nothing, and that is what the register then shows.
                if tpm.reset_established(locality).is_ok() {
                    self.learn(tpm);
                }
            }
        }
    }

    /// Shows that the command was cancelled before it began.
    pub(super) fn answer_cancelled(&mut self, page: &mut dyn GuestPage, at: usize) {
        let bytes = reply::cancelled(&mut self.work.response);
        page.copy_out(at, &self.work.response[..bytes]);
    }

    fn execute(&mut self, locality: Locality, page: &mut dyn GuestPage, at: usize, tpm: &mut dyn Tpm) {
        self.take_command(page, at);
        let Work { command, response } = &mut *self.work;
        let bytes = tpm.execute(locality, &command[..self.command_bytes.min(COMMAND_BYTES_MAX)], response);
        self.show_response(bytes, page, at);
        self.learn(tpm);
    }

    /// A response that fits no buffer is a failure to the guest.
    fn show_response(&mut self, bytes: usize, page: &mut dyn GuestPage, at: usize) {
        let fits = (HEADER_BYTES..=self.layout.buffer_bytes()).contains(&bytes);
        let bytes = if fits { bytes } else { reply::failure(&mut self.work.response) };
        if self.state.phase == super::Phase::Execution {
            page.copy_out(at, &self.work.response[..bytes.min(COMMAND_BYTES_MAX)]);
        }
        self.wipe(if fits { bytes } else { COMMAND_BYTES_MAX });
        self.state = step(self.state, Event::Completed).0;
    }

    /// Commands carry passwords and responses what was unsealed: neither outlives its exchange here.
    fn wipe(&mut self, response_bytes: usize) {
        self.work.command[..self.command_bytes.min(COMMAND_BYTES_MAX)].zeroize();
        self.work.response[..response_bytes.min(COMMAND_BYTES_MAX)].zeroize();
        self.command_bytes = 0;
    }
}
