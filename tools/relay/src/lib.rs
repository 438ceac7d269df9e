//! The untrusted pipe between a VM and its broker.
