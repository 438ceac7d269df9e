//! **A simulation of silicon that we do not have.**
//!
//! **What.** A program that plays AMD's secure processor for Husk's guests: launch digests, the secrets page, guest
//! messages and attestation reports with the real layouts, rules and cryptography, under **its own roots**.
//! **Trust.** Whoever runs it can make any report: **nothing but its root key tells it from silicon**, and it protects
//! nobody from its host. A relying party must refuse its root unless it is testing; `husk-evidence` does.
//! **Laws.** Every name in its certificates says that it is simulated. A message key meets each sequence number once. A
//! REPORT_ID ends with its guest and never comes back.
//! **Not here.** Memory encryption, the RMP, ID blocks, migration, VLEKs.
//!
//! [`Processor`] is pure: no sockets, no clock, entropy is handed in. Three ways to it: a world in one process
//! ([`LocalGuest`]), the socket of `husk psp serve` ([`client::Guest`]), and either of them behind [`PspReporter`], which
//! is the component's `Reporter`.

pub mod cli;
pub mod client;
mod guest;
mod identity;
mod issue;
mod keys;
mod launch;
mod processor;
mod protocol;
mod reporter;
pub mod server;

pub use cli::{Args, run};
pub use guest::{LocalGuest, Mailbox, PspError, RemoteGuest};
pub use identity::{Entropy, Identity, IdentityError, os_entropy};
pub use issue::Revocations;
pub use launch::{
    LaunchDigest, PageType, SECRETS_GPA, Stretch, expected_measurement, expected_measurement_of, firmware_gpa,
};
pub use processor::{GUESTS_MAX, Processor, SharedProcessor};
pub use protocol::{Page, Refusal, Reply, Request};
pub use reporter::PspReporter;
