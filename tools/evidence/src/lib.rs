//! Verifies SEV-SNP attestation reports down to AMD's roots, or to a named test root.
