//! The driver for a machine that traps every access to the register pages.

use super::exchange::{Exchange, Work};
use super::registers::{Buffer, DATA_BUFFER_BYTES, Layout, Place, event};
use super::state::{Effect, Event, Phase, State};
use crate::engine::Locality;
use crate::frontend::Tpm;
use crate::seams::GuestPage;

/// How much of the buffer is wiped at a time: a divisor of its size.
const WIPE_BYTES: usize = 128;

/// How many bytes an access moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One.
    Byte = 1,
    /// Two.
    Word = 2,
    /// Four.
    Dword = 4,
    /// Eight.
    Qword = 8,
}

/// One access of a guest to the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Its first byte, counted from [`Layout::base`].
    pub offset: usize,
    /// How many bytes it moves.
    pub width: Width,
}

impl Access {
    /// The pieces between four-byte boundaries: the multiple of four, the first byte's place in the access, and lanes.
    fn pieces(self) -> impl Iterator<Item = Piece> {
        let end = self.offset.saturating_add(self.width as usize);
        let first = self.offset & !3;
        (0..3usize).map(move |n| first.saturating_add(4 * n)).take_while(move |word| *word < end).map(
            move |word| {
                let from = word.max(self.offset);
                let to = word.saturating_add(4).min(end);
                Piece { word, from_lane: from - word, to_lane: to - word, at: from - self.offset }
            },
        )
    }
}

/// The part of an access that falls into one aligned word of four bytes.
struct Piece {
    word: usize,
    from_lane: usize,
    to_lane: usize,
    at: usize,
}

impl Piece {
    fn lanes(&self) -> u8 {
        (self.from_lane..self.to_lane).fold(0, |lanes, lane| lanes | 1 << lane)
    }

    /// The bytes of `word` that the access moves: lanes are at most four.
    fn of<'w>(&self, word: &'w [u8; 4]) -> &'w [u8] {
        word.get(self.from_lane..self.to_lane).unwrap_or_default()
    }
}

/// Memory for a data buffer that only traps can reach ([`Buffer::InPage`](super::Buffer::InPage)).
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "commands carry passwords")]
pub struct PrivateWindow([u8; DATA_BUFFER_BYTES]);

impl PrivateWindow {
    /// Empty memory, also for a static.
    pub const EMPTY: Self = Self([0; DATA_BUFFER_BYTES]);
}

impl GuestPage for PrivateWindow {
    fn size_bytes(&self) -> usize {
        DATA_BUFFER_BYTES
    }

    fn load(&self, offset: usize) -> u32 {
        let mut word = [0; 4];
        self.copy_in(offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn store(&mut self, offset: usize, value: u32) {
        self.copy_out(offset, &value.to_le_bytes());
    }

    fn copy_in(&self, offset: usize, into: &mut [u8]) {
        for (byte, from) in into.iter_mut().zip(self.0.iter().skip(offset)) {
            *byte = *from;
        }
    }

    fn copy_out(&mut self, offset: usize, from: &[u8]) {
        for (byte, to) in from.iter().zip(self.0.iter_mut().skip(offset)) {
            *to = *byte;
        }
    }
}

/// The CRB behind traps.
///
/// A caller that executes in place hands each [`Effect`] to [`serve`](Self::serve). One that executes elsewhere, on
/// another processor, takes the command on [`Effect::Execute`], lets accesses go on meanwhile (so that a
/// [`Effect::Cancel`] can reach the TPM), and then calls [`finish`](Self::finish).
#[expect(missing_debug_implementations, reason = "commands carry passwords")]
pub struct Trapped<'b> {
    exchange: Exchange<'b>,
    window: &'b mut dyn GuestPage,
}

impl<'b> Trapped<'b> {
    /// The interface as after power-on. `window` is the memory of the data buffer: a [`PrivateWindow`], or for
    /// [`Buffer::OwnPage`](super::Buffer::OwnPage) the page that the guest writes without traps. It must have
    /// [`Layout::buffer_bytes`].
    pub fn new(layout: Layout, work: &'b mut Work, window: &'b mut dyn GuestPage) -> Self {
        Self { exchange: Exchange::new(layout, work), window }
    }

    /// Power-on or reset of the TPM: everything is forgotten.
    pub fn reset(&mut self, tpm: &mut dyn Tpm) {
        self.exchange.state = State::POWER_ON;
        self.exchange.learn(tpm);
    }

    /// The interface's state.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.exchange.state
    }

    /// What a guest reads, in the low bytes; it changes nothing.
    #[must_use]
    pub fn mmio_read(&self, access: Access) -> u64 {
        let mut bytes = [0; 8];
        for piece in access.pieces() {
            let word = self.word(piece.word).to_le_bytes();
            for (to, from) in bytes.iter_mut().skip(piece.at).zip(piece.of(&word)) {
                *to = *from;
            }
        }
        u64::from_le_bytes(bytes)
    }

    /// What a guest writes: the low bytes of `value`. The effect, if any, is the caller's to serve.
    pub fn mmio_write(&mut self, access: Access, value: u64) -> Effect {
        let bytes = value.to_le_bytes();
        let mut effect = Effect::None;
        for piece in access.pieces() {
            let mut word = [0; 4];
            for (to, from) in word.iter_mut().skip(piece.from_lane).zip(bytes.iter().skip(piece.at)) {
                *to = *from;
            }
            match self.write_piece(&piece, word) {
                Effect::None | Effect::Accept => {}
                // One access reaches CANCEL and START at most, and CANCEL acts only where START does not.
                other @ (Effect::Execute(_)
                | Effect::AnswerCancelled(_)
                | Effect::Cancel
                | Effect::ResetEstablished(_)) => effect = other,
            }
        }
        effect
    }

    /// Does what an effect asks for, here and now.
    pub fn serve(&mut self, effect: Effect, tpm: &mut dyn Tpm) {
        self.exchange.serve(effect, self.window, 0, tpm);
    }

    /// On [`Effect::AnswerCancelled`]: shows the answer, for a caller that has no TPM at hand.
    pub fn answer_cancelled(&mut self) {
        self.exchange.answer_cancelled(self.window, 0);
    }

    /// On [`Effect::Execute`]: copies the command into private memory and lends it.
    pub fn take_command(&mut self) -> &[u8] {
        self.exchange.take_command(self.window, 0);
        self.exchange.command()
    }

    /// The TPM's response to the command that was taken.
    pub fn finish(&mut self, response: &[u8], tpm: &mut dyn Tpm) {
        self.exchange.finish(response, self.window, 0);
        self.exchange.learn(tpm);
    }

    /// A locality that comes to have the TPM finds nothing of another's in a buffer that only traps can reach.
    fn happened(&mut self, event: Event) -> Effect {
        let before = self.exchange.state.active;
        let effect = self.exchange.happened(event);
        if self.exchange.state.active != before && self.exchange.layout.buffer() == Buffer::InPage {
            for at in (0..DATA_BUFFER_BYTES).step_by(WIPE_BYTES) {
                self.window.copy_out(at, &[0; WIPE_BYTES]);
            }
        }
        effect
    }

    fn word(&self, offset: usize) -> u32 {
        let Exchange { layout, state, .. } = &self.exchange;
        match layout.place(offset) {
            Place::Register(locality, register) => layout.shows(state, locality, register),
            Place::Data(locality, at) if readable(state, locality) => self.window.load(at),
            Place::Data(..) | Place::Beyond => u32::MAX,
        }
    }

    /// Bytes of `word` outside the piece's lanes mean nothing.
    fn write_piece(&mut self, piece: &Piece, word: [u8; 4]) -> Effect {
        match self.exchange.layout.place(piece.word) {
            Place::Register(locality, register) => {
                match event(locality, register, u32::from_le_bytes(word), piece.lanes()) {
                    Some(event) => self.happened(event),
                    None => Effect::None,
                }
            }
            Place::Data(locality, at) => {
                let effect = self.exchange.happened(Event::Data(locality));
                if effect == Effect::Accept {
                    self.window.copy_out(at + piece.from_lane, piece.of(&word));
                }
                effect
            }
            Place::Beyond => Effect::None,
        }
    }
}

/// A locality reads back the command it is writing and the response it was given, and nothing else.
fn readable(state: &State, locality: Locality) -> bool {
    match state.phase {
        Phase::Reception | Phase::Completion => state.active == Some(locality),
        Phase::Idle | Phase::Ready | Phase::Execution | Phase::Draining { .. } => false,
    }
}
