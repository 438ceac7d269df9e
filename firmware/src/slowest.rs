//! The command that took longest: what a driver of the guest waited for, for whoever asks why it gave up.
//!
//! **What.** [`Timed`] is a TPM that notes in a [`Slowest`] how long each command took.
//! **Trust.** None: the code is the guest's word.
//! **Laws.** Every command passes unchanged. Only its code and its time are noted, both of which the host could see as well.
//! **Not here.** Who shows it: `service`.

use husk::engine::Locality;
use husk::fault::Fault;
use husk::frontend::Tpm;

/// Where a command has its code (TPM 2.0 part 1, section "Command/Response Header Fields").
const CODE_AT: usize = 6;

/// The slowest command so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slowest {
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Its TPM_CC; 0 before there was one, and for a command without.
    pub code: u32,
}

impl Slowest {
    /// No command yet.
    pub const NONE: Self = Self { took_ms: 0, code: 0 };

    fn note(&mut self, command: &[u8], took_ms: u64) {
        if took_ms >= self.took_ms {
            let code = command.get(CODE_AT..).and_then(<[u8]>::first_chunk);
            *self = Self { took_ms, code: code.copied().map_or(0, u32::from_be_bytes) };
        }
    }
}

/// A TPM under a stopwatch.
#[expect(missing_debug_implementations, reason = "commands carry passwords")]
pub struct Timed<'t, T> {
    /// Who executes.
    pub tpm: T,
    /// What is known by now.
    pub slowest: &'t mut Slowest,
    /// Milliseconds since some instant.
    pub now_ms: fn() -> u64,
}

impl<T: Tpm> Tpm for Timed<'_, T> {
    fn execute(&mut self, locality: Locality, command: &[u8], response: &mut [u8]) -> usize {
        let began = (self.now_ms)();
        let bytes = self.tpm.execute(locality, command, response);
        self.slowest.note(command, (self.now_ms)().saturating_sub(began));
        bytes
    }

    fn established(&mut self) -> bool {
        self.tpm.established()
    }

    fn reset_established(&mut self, locality: Locality) -> Result<(), Fault> {
        self.tpm.reset_established(locality)
    }

    fn hash_start(&mut self) -> Result<(), Fault> {
        self.tpm.hash_start()
    }

    fn hash_data(&mut self, data: &[u8]) -> Result<(), Fault> {
        self.tpm.hash_data(data)
    }

    fn hash_end(&mut self) -> Result<(), Fault> {
        self.tpm.hash_end()
    }
}

#[cfg(test)]
mod tests {
    use super::Slowest;

    #[test]
    fn the_slowest_command_is_kept_with_its_code() {
        let mut slowest = Slowest::NONE;
        for (command, took_ms, kept) in [
            (&[0x80, 1, 0, 0, 0, 11, 0, 0, 1, 0x43, 1][..], 7, Slowest { took_ms: 7, code: 0x143 }),
            (&[0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7B, 0, 8], 6, Slowest { took_ms: 7, code: 0x143 }),
            (&[0x80, 1, 0], 8, Slowest { took_ms: 8, code: 0 }),
        ] {
            slowest.note(command, took_ms);
            assert_eq!(slowest, kept);
        }
    }
}
