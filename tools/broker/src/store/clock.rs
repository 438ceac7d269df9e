//! The database's clock.
//!
//! **What.** A number in the database that each deciding transaction moves on, and never back.
//! **Laws.** It goes no faster than any clock that is asked: not than the asking process's, measured from when that process
//! last saw the number, and not than the database machine's own, measured from when anybody last moved it. So one clock
//! that jumps, in either direction, ends no lease early; that both jump ahead at once is the only way. While nobody
//! asks it stands still, which costs waiting only. No calendar is trusted.

use super::StoreError;
use super::sql::{Sql, to_sql};

/// The stored clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stored {
    now_ms: u64,
    /// What the database's own machine said when it was last moved; of no meaning where there is none.
    server_ms: u64,
}

/// What one process saw of the database's clock, and when by its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) database_ms: u64,
    pub(super) world_ms: u64,
}

impl Stored {
    /// The clock after a look at the others.
    fn moved(self, server_ms: Option<u64>, seen: Seen, world_ms: u64) -> Self {
        let by_world = seen.database_ms.saturating_add(world_ms.saturating_sub(seen.world_ms));
        let by_server = server_ms.map_or(u64::MAX, |server_ms| {
            self.now_ms.saturating_add(server_ms.saturating_sub(self.server_ms))
        });
        Self {
            now_ms: self.now_ms.max(by_world.min(by_server)),
            server_ms: server_ms.unwrap_or(self.server_ms),
        }
    }
}

/// The one row that all transactions share.
pub(super) struct Shared {
    clock: Stored,
    /// How many transactions changed something, ever.
    pub(super) commits: u64,
    /// Tells whether wrapped secrets are under the keys at hand.
    pub(super) root_check: [u8; 16],
}

impl Shared {
    pub(super) fn read(sql: &mut dyn Sql) -> Result<Self, StoreError> {
        let statement = "SELECT now_ms, server_ms, commits, root_check FROM broker";
        let mut columns = sql.one(statement, &[])?.ok_or(StoreError::Damaged)?;
        let clock = Stored { now_ms: columns.number()?, server_ms: columns.number()? };
        Ok(Self { clock, commits: columns.number()?, root_check: columns.array()? })
    }

    /// What the clock shows.
    pub(super) const fn now_ms(&self) -> u64 {
        self.clock.now_ms
    }

    /// Starts: what the clock shows. What passed before anybody of this process looked is not counted.
    pub(super) fn look(&mut self, sql: &mut dyn Sql) -> Result<u64, StoreError> {
        if let Some(server_ms) = sql.server_ms()? {
            self.clock.server_ms = server_ms;
        }
        Ok(self.clock.now_ms)
    }

    /// Moves the clock on. `world_ms` is asked after the database was read, so that waiting for it counts for nobody.
    pub(super) fn ratchet(
        &mut self,
        sql: &mut dyn Sql,
        seen: Seen,
        world_ms: impl FnOnce() -> u64,
    ) -> Result<Seen, StoreError> {
        let server_ms = sql.server_ms()?;
        let world_ms = world_ms();
        self.clock = self.clock.moved(server_ms, seen, world_ms);
        Ok(Seen { database_ms: self.clock.now_ms, world_ms })
    }

    /// Goes on at once by so much: whatever happens at a moment that was named before, happens at another.
    pub(super) const fn jump(&mut self, by_ms: u64) {
        self.clock.now_ms = self.clock.now_ms.saturating_add(by_ms);
    }

    pub(super) fn write(&self, sql: &mut dyn Sql) -> Result<(), StoreError> {
        let Self { clock, commits, root_check } = self;
        let clock = [to_sql(clock.now_ms)?.into(), to_sql(clock.server_ms)?.into()];
        let [now_ms, server_ms] = clock;
        let values = [now_ms, server_ms, to_sql(*commits)?.into(), (*root_check).into()];
        let statement = "UPDATE broker SET now_ms = ?1, server_ms = ?2, commits = ?3, root_check = ?4";
        sql.execute(statement, &values).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::{Seen, Stored};

    const STORED: Stored = Stored { now_ms: 1000, server_ms: 50_000 };
    const SEEN: Seen = Seen { database_ms: 900, world_ms: 7 };

    #[test]
    fn time_goes_as_the_slowest_clock_goes() {
        // Of the server and of the process: what passed since 1000, and since 900, and what the clock then shows.
        let table = [
            (0, 0, 1000, "nothing passed"),
            (100, 200, 1100, "both agree"),
            (1_000_000, 200, 1100, "the server's clock jumped ahead"),
            (100, 1_000_000, 1100, "the process's clock jumped ahead"),
            (100, 50, 1000, "others moved it further than this process saw"),
            (-1_000, 200, 1000, "the server's clock jumped back"),
        ];
        for (server, world, shown, why) in table {
            let server_ms = STORED.server_ms.checked_add_signed(server).unwrap();
            let moved = STORED.moved(Some(server_ms), SEEN, SEEN.world_ms + world);
            assert_eq!(moved, Stored { now_ms: shown, server_ms }, "{why}");
        }
    }

    #[test]
    fn a_clock_that_went_back_goes_on_from_there() {
        let back = STORED.moved(Some(10_000), SEEN, SEEN.world_ms + 500);
        assert_eq!(back.moved(Some(10_100), SEEN, SEEN.world_ms + 500).now_ms, 1100);
    }

    #[test]
    fn without_a_server_the_process_counts() {
        assert_eq!(STORED.moved(None, SEEN, SEEN.world_ms + 300).now_ms, 1200);
    }
}
