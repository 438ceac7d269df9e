//! A Debian disk for a confidential VM, from a small file that says what is in it.
//!
//! **What.** [`config`] is that file, `tree` two installed Debians (the guest's, and one with the tools that make its disk), `content` what is put into the
//! guest's, `volume` how it makes and opens its volume, `disk` partitions and the signed kernel image, `manifest` what came out, [`expect`] what its PCRs hold behind a boot,
//! `prepared` a volume that is encrypted before there is a guest, `attested` what earns the key of one; [`cli`] is the command.
//! **Trust.** Debian's archive by its signatures, and its tools, run inside the trees; the tenant who writes the file and owns the keys.
//! **Laws.** The same file, keys and versions of packages give the same bytes, but for a volume that its owner makes, whose keys are drawn. The disk holds no secret in the open, and nothing of Husk but what earns a key, where that is asked for. No output is overwritten.
//! **Not here.** Starting a guest: `husk run`. What the guest does at its first boot is systemd's.

mod attested;
mod build;
pub mod cli;
pub mod config;
mod content;
mod disk;
pub mod expect;
mod known;
mod manifest;
mod prepared;
mod sealing;
mod tree;
mod volume;

pub use config::{ConfigError, GuestConfig};
