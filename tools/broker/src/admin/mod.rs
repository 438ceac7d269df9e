//! What a tenant asks of its broker, signed.
//!
//! **What.** [`signed`] is the envelope: an operator's key signs each request, under the certificate that the tenant's root key gave it. [`Request`]
//! is what may be asked, [`Right`] what an operator may ask, [`Failure`] why it was not done.
//! **Trust.** The tenant's root key, by which the tenant is registered. Not the connection: what is signed may come through any proxy.
//! TLS keeps the content from the network.
//! **Laws.** A request names its tenant by its certificate alone, and everything that is looked up is looked up below that tenant: what is
//! another's is as unknown as what is nobody's, in answer and in work. Each request is done once, within [`WINDOW_MS`] of the broker's clock. Parsed is only what
//! was signed.
//! **Not here.** Tickets: an order about a VM's life stays one of its own, which can be signed offline (`husk::release::ticket`).

mod request;
mod shown;
pub mod signed;

pub use request::{Failure, Firmware, Id, REQUEST_BYTES_MAX, Request, Right, VMS_MAX};
pub use shown::{life_of, life_word, refusal_shown, row_shown, standing_shown};

/// How long the broker's clock may have gone on since the moment that a request names; the requests that were done in that time are
/// remembered.
pub const WINDOW_MS: u64 = 60_000;
