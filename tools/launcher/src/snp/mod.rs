//! Starting an IGVM file under SEV-SNP: `husk run --sev-snp`, and whether a host can: `husk host check`.
//!
//! **What.** [`host`] looks at what a host needs; [`machine`] is QEMU's command line; [`libvirt`] the same as a domain; [`launch`]
//! what a launch measures, and the command.
//! **Trust.** None is needed: this is the host. What it starts shows in the report: MEASUREMENT, HOST_DATA, policy.
//! **Laws.** Nothing starts on a host that lacks something; every missing piece is named, with what to do. What is not known counts
//! as missing. Guest policy and ID block are the file's own, as QEMU takes them from there.
//! **Not here.** The image for hosts without SEV-SNP: [`run`](crate::run).

pub mod cli;
pub mod host;
pub mod launch;
pub mod libvirt;
pub mod machine;
