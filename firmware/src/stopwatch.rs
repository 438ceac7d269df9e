//! How long the TPM's commands took: what a driver of the guest waited for, for whoever asks why it gave up, or why a start took so long.
//!
//! **What.** [`Timed`] is a TPM that notes in a [`Stopwatch`] how long each command took.
//! **Trust.** None: the code is the guest's word.
//! **Laws.** Every command passes unchanged. Only its code and its time are noted, both of which the host could see as well.
//! **Not here.** When it is shown: `serve`.

use husk::engine::Locality;
use husk::fault::Fault;
use husk::frontend::Tpm;

/// Where a command has its code (TPM 2.0 part 1, section "Command/Response Header Fields").
const CODE_AT: usize = 6;

/// The commands so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stopwatch {
    /// How many there were.
    pub commands: u32,
    /// How long all of them took, in microseconds.
    pub took_us: u64,
    /// How long the slowest one took, in microseconds.
    pub slowest_us: u64,
    /// Its TPM_CC; 0 before there was one, and for a command without.
    pub slowest: u32,
}

impl Stopwatch {
    /// No command yet.
    pub const ZERO: Self = Self { commands: 0, took_us: 0, slowest_us: 0, slowest: 0 };

    fn note(&mut self, command: &[u8], took_us: u64) {
        self.commands = self.commands.saturating_add(1);
        self.took_us = self.took_us.saturating_add(took_us);
        if took_us >= self.slowest_us {
            let code = command.get(CODE_AT..).and_then(<[u8]>::first_chunk);
            (self.slowest_us, self.slowest) = (took_us, code.copied().map_or(0, u32::from_be_bytes));
        }
    }

    /// For a console: static text, and a number to each.
    #[must_use]
    pub fn lines(&self) -> [(&'static str, u32); 4] {
        let ms = |us: u64| u32::try_from(us / 1000).unwrap_or(u32::MAX);
        [
            ("husk: the guest's TPM commands", self.commands),
            ("husk: the guest's TPM commands took ms", ms(self.took_us)),
            ("husk: the slowest command took ms", ms(self.slowest_us)),
            ("husk: the slowest command was", self.slowest),
        ]
    }
}

/// A TPM under a stopwatch.
#[expect(missing_debug_implementations, reason = "commands carry passwords")]
pub struct Timed<'t, T> {
    /// Who executes.
    pub tpm: T,
    /// What is known by now.
    pub stopwatch: &'t mut Stopwatch,
    /// Microseconds since some instant.
    pub now_us: fn() -> u64,
}

impl<T: Tpm> Tpm for Timed<'_, T> {
    fn execute(&mut self, locality: Locality, command: &[u8], response: &mut [u8]) -> usize {
        let began = (self.now_us)();
        let bytes = self.tpm.execute(locality, command, response);
        self.stopwatch.note(command, (self.now_us)().saturating_sub(began));
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
    use super::Stopwatch;

    #[test]
    fn all_commands_are_summed_and_the_slowest_is_kept_with_its_code() {
        let mut stopwatch = Stopwatch::ZERO;
        for (command, took_us, slowest_us, slowest, sum) in [
            (&[0x80, 1, 0, 0, 0, 11, 0, 0, 1, 0x43, 1][..], 7, 7, 0x143, 7),
            (&[0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7B, 0, 8], 6, 7, 0x143, 13),
            (&[0x80, 1, 0], 8, 8, 0, 21),
        ] {
            stopwatch.note(command, took_us);
            assert_eq!(
                (stopwatch.slowest_us, stopwatch.slowest, stopwatch.took_us),
                (slowest_us, slowest, sum)
            );
        }
        assert_eq!(stopwatch.commands, 3);
    }
}
