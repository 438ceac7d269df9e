//! Every key, from one table.
//!
//! **What.** [`mod@derive`] turns what was released into the key of one epoch of one VM's volume ([`VolumeKey`]), and that
//! into one key per stored object. [`CreateKey`] is a volume key under a grant to create or to restore, [`SuspendSecret`] the random secret of
//! one suspension, [`BackupSecret`] that of one backup, [`BlockKey`] the random key of one write of a block of a guest's flash.
//! **Trust.** The secrets that `release` yields.
//! **Laws.** A key that is not in the table does not exist. The epoch secret is an input of every key of a volume that a broker
//! releases, and the static key of a KBS wherever the configuration requires one; the processor's key alone is one of its own mode. Mode, tenant, VM,
//! generation and epoch are inputs too, so no volume opens as another.
//! **Not here.** Which secrets may be used: the signed grant says that. Ciphers: `volume/seal.rs`.

mod backup;
mod block;
mod create;
pub mod derive;

pub use backup::BackupSecret;
pub use block::{BLOCK_KEY_BYTES, BlockKey};
pub use create::CreateKey;
pub use derive::{Further, Identity, Mode, ObjectKey, ObjectName, ObjectSort, SuspendSecret, VolumeKey};
