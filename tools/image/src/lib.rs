//! What a launch under SEV-SNP measures, and what a tenant signs about it.
//!
//! **What.** Launch digests of OVMF ([`ovmf_launch`]) and IGVM ([`plan`]) launches as QEMU and KVM make them, what is in an IGVM
//! file in plain words ([`mod@inspect`]), launch configurations in a measured page ([`config_page`]), ID blocks ([`id_block`]).
//! **Trust.** None in the files that are looked at: they are allegations, read with bounds. Key files are the tenant's.
//! **Laws.** A digest is printed only if a launch can have it. The same input gives the same bytes.
//! **Not here.** Reports and their verification: `husk-evidence`. Starting a VM: `husk run`.

pub mod cli;
pub mod config_page;
pub mod digest;
pub mod fuzzing;
mod guid;
pub mod hashes;
pub mod id_block;
pub mod igvm_file;
pub mod inspect;
pub mod ovmf;
pub mod ovmf_launch;
pub mod plan;
pub mod rewrite;
pub mod run;
pub mod vcpu;
