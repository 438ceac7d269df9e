//! Starting a machine with the image in it: `husk run`.
//!
//! **What.** [`image`] reads the image and says what a launch of it measures; [`payload`] packs what the guest starts from, [`flash`] what of that is a UEFI firmware's;
//! [`machine`] is QEMU's command line; [`channel`] the host's end of the firmware's channel; [`run`] does it all. [`snp`] starts an IGVM file
//! under SEV-SNP instead.
//! **Trust.** None is needed: this is the host. It can refuse to start, or start something else, which the broker, the volume and
//! the PCRs then show.
//! **Laws.** Every input is checked before anything starts, with the checks of the firmware itself where it has one. What is started
//! is printed first.
//! **Not here.** Whether another machine runs the same VM: only the broker knows.

pub mod channel;
mod child;
pub mod cli;
mod disk;
pub mod flash;
pub mod image;
pub mod machine;
pub mod payload;
pub mod run;
pub mod snp;
mod volume;
