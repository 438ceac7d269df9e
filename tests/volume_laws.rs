//! The promises of the sealed volume and of the store above it, on a hostile disk.

#![expect(clippy::expect_used, reason = "a test says what it expected and stops")]

#[path = "support/disk.rs"]
mod disk;
#[path = "support/world.rs"]
mod world;

#[path = "volume/attacks.rs"]
mod attacks;
#[path = "volume/blocks.rs"]
mod blocks;
#[path = "volume/budgets.rs"]
mod budgets;
#[path = "volume/cuts.rs"]
mod cuts;
#[path = "volume/golden.rs"]
mod golden;
#[path = "volume/store.rs"]
mod store;

#[path = "volume/window.rs"]
mod window;
