//! The whole: a TPM that boots from a grant, serves commands, and shuts down in order.
//!
//! **What.** [`Vtpm`] joins engine, memory and anchor of trust. `boot` is the chain of states
//! `Cold → Identified → Released → Unsealed → Running`, `disconnected` its way without a broker; `serve` runs one command; `power` resets and shuts down; `certify` has the endorsement keys certified; `backup` seals a copy for the tenant, `restore` takes one for a state; `stale` says what
//! may be answered before it is anchored; `suspend`
//! saves a running TPM for the same launch; `flash` keeps a guest's flash beside it; `blobs` gives a test TPM's state away.
//! **Trust.** Only what the boxes to its right have proved.
//! **Laws.** No response without [`Committed`](crate::nv::Committed); nothing executes that has not been permitted first;
//! after a fault that is definite the TPM answers `TPM_RC_FAILURE` and nothing else.
//! **Not here.** Registers and calls: `frontend`. Mechanisms: every other box.

mod attested;
mod backup;
mod blobs;
mod boot;
mod certify;
mod disconnected;
mod fault;
mod flash;
mod power;
mod restore;
mod serve;
mod served;
mod stale;
mod suspend;
mod trust;

pub use backup::Backup;
pub use blobs::PERMANENT_BYTES_MAX;
pub use boot::{Asked, Cold, Identified, Memory, Released, Storage, Unsealed};
pub use certify::Certification;
pub use fault::VtpmFault;
pub use flash::FlashOrigin;
pub use serve::Vtpm;
pub use served::Served;
