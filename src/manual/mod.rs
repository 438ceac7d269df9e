//! The handbook: read [`threats`] first, then [`flow`].
//!
//! | page | question |
//! | --- | --- |
//! | [`threats`] | who attacks, what stops them, which test shows it, what is not stopped |
//! | [`flow`] | one boot and one command, line by line |
//! | [`past_holes`] | how other vTPMs failed, and the type or test that bars each |
//! | [`swtpm`] | what of swtpm's words and messages is obeyed, what is refused, and why |
//! | [`faults`] | every fault code: whose fault, what happened, what to do |
//! | [`measurement`] | what a launch measures, what a tenant signs, what the host may still choose |
//! | [`image`] | the bootable image: its memory, its boot in ten steps, how it ends, what it shows |
//! | [`encrypted_disk`] | how to build a guest whose disk encrypts itself, what stops whom, and what is not stopped |
//! | [`unlock`] | how a guest has its disk's passphrase from the broker by what it was started as, and what each step proves |
//! | [`ephemeral`] | a TPM that is made at each launch and ends with it: what it promises, and for which guests it is |
//! | [`hw_sealed`] | a TPM without a network: what it keeps, what it gives up, what goes into its key |
//! | [`kbs`] | a static key from a CoCo KBS beside the broker: what it adds, how to use Trustee, what the VM believes |
//! | [`broker`] | which database, how many instances, what it does when something fails |
//! | [`policy`] | what a tenant may demand of the machine that runs a VM, and how a refusal reads |
//! | [`tenants`] | what a tenant sees and changes at somebody else's broker, and what is signed |
//! | [`runtime_attestation`] | how a client learns that it talks to the VM that it expects, and what a relay can do |
//! | [`bench`](mod@bench) | what each promise costs, measured |
//! | [`fuzzing`] | which bytes from outside are tried, how to try more, how to add a target |
//! | [`building`] | the seams, what each must promise, and the order of calls |
//! | [`snp_tried`] | against what each piece of SEV-SNP was checked, and what never was |
//! | [`decisions`] | why it is so and not otherwise |
//! | [`volume_format`] | the sealed volume, byte by byte (normative) |
//! | [`manifest_format`](crate::frontend::svsm::manifest_format) | the services manifests, byte by byte (normative) |
//! | [`release_protocol`] | the key-release and freshness protocol (normative) |

#[doc = include_str!("threats.md")]
pub mod threats {}

#[doc = include_str!("flow.md")]
pub mod flow {}

#[doc = include_str!("past_holes.md")]
pub mod past_holes {}

#[doc = include_str!("swtpm.md")]
pub mod swtpm {}

#[doc = include_str!("faults.md")]
pub mod faults {}

#[doc = include_str!("measurement.md")]
pub mod measurement {}

#[doc = include_str!("image.md")]
pub mod image {}

#[doc = include_str!("encrypted_disk.md")]
pub mod encrypted_disk {}

#[doc = include_str!("ephemeral.md")]
pub mod ephemeral {}

#[doc = include_str!("hw_sealed.md")]
pub mod hw_sealed {}

#[doc = include_str!("kbs.md")]
pub mod kbs {}

#[doc = include_str!("broker.md")]
pub mod broker {}

#[doc = include_str!("policy.md")]
pub mod policy {}

#[doc = include_str!("unlock.md")]
pub mod unlock {}

#[doc = include_str!("tenants.md")]
pub mod tenants {}

#[doc = include_str!("runtime_attestation.md")]
pub mod runtime_attestation {}

#[doc = include_str!("building.md")]
pub mod building {}

#[doc = include_str!("snp_tried.md")]
pub mod snp_tried {}

#[doc = include_str!("bench.md")]
pub mod bench {}

#[doc = include_str!("fuzzing.md")]
pub mod fuzzing {}

#[doc = include_str!("../volume/format.md")]
pub mod volume_format {}

#[doc = include_str!("../release/protocol.md")]
pub mod release_protocol {}

/// Why it is so and not otherwise.
pub mod decisions {
    #[doc = include_str!("decisions/01-platform-value.md")]
    pub mod platform_value {}

    #[doc = include_str!("decisions/02-attempts.md")]
    pub mod attempts {}

    #[doc = include_str!("decisions/03-clock-and-reset-count.md")]
    pub mod clock_and_reset_count {}

    #[doc = include_str!("decisions/04-command-classes.md")]
    pub mod command_classes {}

    #[doc = include_str!("decisions/05-dependencies.md")]
    pub mod dependencies {}

    #[doc = include_str!("decisions/06-suspend.md")]
    pub mod suspend {}

    #[doc = include_str!("decisions/07-endorsement-keys.md")]
    pub mod endorsement_keys {}

    #[doc = include_str!("decisions/08-svsm-calls.md")]
    pub mod svsm_calls {}

    #[doc = include_str!("decisions/09-call-gate.md")]
    pub mod call_gate {}

    #[doc = include_str!("decisions/10-private-crb.md")]
    pub mod private_crb {}

    #[doc = include_str!("decisions/11-self-tests.md")]
    pub mod self_tests {}

    #[doc = include_str!("decisions/12-first-banks.md")]
    pub mod first_banks {}

    #[doc = include_str!("decisions/13-endorsement-certificates.md")]
    pub mod endorsement_certificates {}

    #[doc = include_str!("decisions/14-guest-disk.md")]
    pub mod guest_disk {}
}
