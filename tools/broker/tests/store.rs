//! The laws of what the broker remembers: the same on SQLite and on PostgreSQL, and what is only one's.

#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

#[path = "store/audit.rs"]
mod audit;
#[path = "store/back.rs"]
mod back;
#[path = "store/backups.rs"]
mod backups;
#[path = "store/bench.rs"]
mod bench;
#[path = "store/copies.rs"]
mod copies;
#[path = "store/endorsements.rs"]
mod endorsements;
#[path = "store/full.rs"]
mod full;
#[path = "store/group.rs"]
mod group;
#[path = "store/keys.rs"]
mod keys;
#[path = "store/laws.rs"]
mod laws;
#[path = "store/postgres.rs"]
mod on_postgres;
#[path = "store/sqlite.rs"]
mod on_sqlite;
#[path = "support/server.rs"]
mod server;
#[path = "store/tickets.rs"]
mod tickets;
#[path = "store/unlocks.rs"]
mod unlocks;
#[path = "support/world.rs"]
mod world;
