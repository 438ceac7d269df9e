//! What a guest runs to be attested while it is at work, and to earn a secret while it starts.
//!
//! **What.** [`attest`] is the guest's side of the conversation that `husk evidence ask` has with it, [`wire`] what both say, [`tpm`] the few commands
//! that it takes. The program `husk-attest` puts them together: a request on its standard input, the answers on its standard output.
//! [`mod@unlock`] is the guest's side of another conversation, with its tenant's broker.
//! **Trust.** The guest's own files and its TPM. Whoever asks is anybody: it gets public keys, a quote and nothing that was secret; a broker is
//! believed for its tenant's signature.
//! **Laws.** What is quoted begins with a label, so that nobody gets a signature over bytes of their choice; what a credential carried never leaves.
//! Everything that is read has a limit.
//! **Not here.** Judging: that is the client's, in `tools/husk`. A TPM stack: one guest, two keys, eight commands.

pub mod attest;
mod templates;
pub mod tpm;
pub mod unlock;
pub mod wire;
