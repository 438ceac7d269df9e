//! Earning the keys, and keeping the right to answer.
//!
//! **What.** One conversation with the broker: a session bound to this VM's report ([`session`]), a signed grant
//! ([`open`]), then confirming, anchoring, renewing and releasing under a fencing token ([`tenure`], which obeys the pure
//! [`standing`]). Where the launch configuration names it, [`hw_sealed`] does without a broker, or a static key comes from a KBS ([`kbs`]). [`protocol`] is normative; [`wire`], [`mod@frame`], [`transcript`] and [`record`] are compiled by both ends,
//! [`ticket`] and [`statement`] by the broker and those who order or ask. [`backup`] hands a copy of the state over, sealed to the tenant's [`recovery`] key; [`restore`] makes a state of it again. [`unlock`] is for a program in the guest, which earns a secret by its TPM.
//! **Trust.** The tenant root key that the launch configuration names, and what it signed. Nothing in between.
//! **Laws.** No key without a signed grant for this session and this report; [`Anchored`] only for a reply to the very
//! request that is outstanding; no answer outside the lease.
//! **Not here.** What the keys open (`keys`, `volume`); what a report binds (`attest`).

mod anchor;
pub mod backup;
pub mod endorsement;
mod fault;
pub mod frame;
pub mod hw_sealed;
pub mod kbs;
mod local;
pub mod open;
#[doc = include_str!("protocol.md")]
pub mod protocol {}
pub mod record;
pub mod recovery;
pub mod restore;
pub mod session;
pub mod standing;
pub mod statement;
pub mod tenure;
pub mod ticket;
pub mod transcript;
pub mod unlock;
pub mod unsealed;
pub mod wire;

pub use anchor::{Anchor, Anchored, HEAD_DIGEST_BYTES, Head};
pub use fault::ReleaseFault;
pub use local::LocalAnchor;
pub use open::{Granted, ReleasedKey};
