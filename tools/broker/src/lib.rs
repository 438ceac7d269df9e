//! The key broker: keeps the newest head and the keys of every VM, and releases them to the only living instance.
//!
//! **What.** The line is `http → service → store → rules`: bytes become a request of a proven instance, the request
//! is decided by a pure function inside one transaction, and the answer leaves when it is durable.
//! **Trust.** The root key file, the database file and this machine's memory. Not the network, not the relay, not the
//! host that a VM runs on; a VM only as far as its report and its token go.
//! **Laws.** `src/release/protocol.md`, sections 3 and 5, each with a test of its name in `tests/`. No answer before its transaction is
//! durable. Nothing secret in a log line, an error or an argument.
//! **Not here.** Restore and clone.

pub mod admin;
pub mod audit;
pub mod authority;
pub mod cli;
pub mod evidence;
pub mod http;
pub mod ids;
pub mod kbs;
pub mod log;
pub mod metrics;
pub mod operations;
pub mod policy;
pub mod rules;
pub mod service;
pub mod store;
pub mod tls;
pub mod token;
pub mod unlock;
pub mod vault;
pub mod world;
