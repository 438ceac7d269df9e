//! The untrusted pipe between a VM and its broker.
//!
//! **What.** A unix socket that takes frames, posts each to the broker (or, by its kind, to a KBS: [`kbs`]) and hands the answer back. One connection
//! carries any number of exchanges, one at a time.
//! **Trust.** None in either direction, and none is needed: whatever a relay does, its worst is silence. That is why it may
//! run on the host, and why [`tamper`] can be offered to anybody.
//! **Laws.** No frame is invented, but the refusal where a KBS is asked for and none was named: an exchange that fails closes its connection, and the client knows that it knows
//! nothing. Sizes, waits and connections are bounded. Nothing is retried here: only the VM knows which request may
//! be asked again.
//! **Not here.** What the frames mean.

pub mod cli;
pub mod client;
pub mod frames;
pub mod kbs;
pub mod pipe;
pub mod server;
pub mod tamper;
