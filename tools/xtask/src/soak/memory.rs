//! Whether a process grows: readings of its resident memory, compared with a bound.

use crate::failure::Failure;

/// After how many commands a process has seen everything that it keeps for good: its libraries' tables, its threads' stacks.
pub(super) const WARM_UP: u64 = 300;

/// A life that is shorter says nothing about growth.
pub(super) const COMMANDS_MIN: u64 = 1000;

/// How many KiB a process may have more at the end of a life than when it was warm.
pub(super) const GROWTH_KIB_MAX: u64 = 2048;

/// Readings in KiB, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Vec<u64>);

impl Memory {
    /// Takes a reading of process `pid`; a process that has gone gives none.
    pub(super) fn weigh(&mut self, pid: u32) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        self.0.extend(line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()));
    }

    /// How much more the last reading is than the first.
    pub(super) fn growth_kib(&self) -> u64 {
        match (self.0.first(), self.0.last()) {
            (Some(first), Some(last)) => last.saturating_sub(*first),
            _ => 0,
        }
    }

    /// Fails if it grew beyond `kib_max`.
    pub(super) fn judge(&self, whose: &str, kib_max: u64) -> Result<u64, Failure> {
        let growth = self.growth_kib();
        if growth <= kib_max {
            return Ok(growth);
        }
        Err(Failure::failed(format!(
            "soak: {whose} grew by {growth} KiB, of which {kib_max} are allowed: {:?}",
            self.0
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;

    #[test]
    fn growth_beyond_the_bound_fails_and_shrinking_is_none() {
        assert!(Memory(vec![9000, 8000, 11_049]).judge("x", 2048).is_err());
        assert_eq!(Memory(vec![9000, 11_048]).judge("x", 2048).ok(), Some(2048));
        assert_eq!(Memory(vec![9000, 8000]).growth_kib(), 0);
        let mut own = Memory::default();
        own.weigh(std::process::id());
        assert!(own.0.len() == 1 && own.0[0] > 0);
    }
}
