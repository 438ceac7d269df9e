//! What a host does to the guest, and what the operator is told of it.

use super::parts::Part;
use super::{CORRUPTED, NOTHING_BOOTS, SHUT, stopped};
use crate::below::ROLLED_BACK;
use crate::failure::Failure;
use crate::peers::step;
use crate::steps::Step;

/// Parts of the disk of which the host changes a byte.
pub(super) const ALTERED: [(Part, Attack); 5] = [
    (Part::Section(".linux"), in_image("altered-kernel-stops", "changed a byte of the kernel")),
    (Part::Section(".initrd"), in_image("altered-initrd-stops", "changed a byte of the initrd")),
    (Part::Section(".cmdline"), in_image("altered-command-line-stops", "changed a byte of the command line")),
    (Part::Root, in_root("altered-root-stops", "changed a byte of the root")),
    (Part::Hashes, in_root("altered-hashes-stop", "changed a byte of the root's hashes")),
];
pub(super) const PUT_BACK: Attack = Attack {
    name: "both-put-back-refused",
    did: "put back yesterday's disk together with yesterday's TPM",
    by: "the broker, before the guest starts",
    why: "it remembers a newer TPM",
    sign: ROLLED_BACK,
};
pub(super) const CLONED: Attack = sealed(
    "clone-does-not-open",
    "gave the disk to a machine with another TPM",
    "it is sealed to the first one",
);
pub(super) const NO_TPM: Attack =
    sealed("no-tpm-does-not-open", "started the disk in a machine without a TPM", "there is none");
pub(super) const WORDS_ADDED: Attack =
    sealed("added-words-do-not-open", "added words to the command line by SMBIOS", "PCR 12 is not zero");
pub(super) const CREDENTIAL: Attack = sealed(
    "planted-credential-does-not-open",
    "put a credential beside the kernel image that is sealed to this TPM",
    "PCR 12 is not zero (and the guest takes no credentials)",
);
pub(super) const OTHER_VARIABLES: Attack = sealed(
    "other-variables-do-not-open",
    "brought variables without keys, so that Secure Boot is off",
    "PCR 7 is another",
);
pub(super) const OTHER_FIRMWARE: Attack = sealed(
    "other-firmware-does-not-open",
    "changed a bit of the guest's firmware where it is not used",
    "PCR 8 is another, of what the layer measured before the firmware ran",
);
pub(super) const MADE_ELSEWHERE: Attack = sealed(
    "made-elsewhere-does-not-open",
    "let the first boot happen in front of a TPM of its own, and brought the disk here",
    "it is sealed to that one",
);
pub(super) const NULL_CIPHER: Attack = known(
    "null-cipher-refused",
    "wrote into the volume's header that its cipher is the null cipher, and a file system of its own behind it",
    "it is not encrypted as this guest does it",
);
/// The same where the initrd opens the volume.
pub(super) const NULL_CIPHER_IN_INITRD: Attack = Attack {
    name: "null-cipher-does-not-open",
    did: NULL_CIPHER.did,
    by: "the initrd, in which no kernel module has such a cipher",
    why: "the guest would refuse it thereafter",
    sign: "Error allocating crypto tfm",
};
pub(super) const OLD_FORMAT: Attack = sealed(
    "volume-of-luks1-does-not-open",
    "put a volume of LUKS1 in the place of the guest's, with a key that it knows",
    "in that format there is nothing of the TPM's",
);
pub(super) const EXCHANGED: Attack = sealed(
    "exchanged-volume-does-not-open",
    "put a volume of its own in the place of the guest's, with a key that it knows",
    "nothing in it is sealed to this TPM",
);
pub(super) const PLANTED: Attack = known(
    "planted-volume-refused",
    "made a volume with a key that it knows, sealed to this TPM by the same policy",
    "this TPM knows another one",
);
pub(super) const BLANK: Attack = known(
    "new-disk-refused",
    "gave the disk as it was built to a TPM that has been used",
    "it is new, and this TPM knows another one",
);

/// An attack that ends a boot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attack {
    pub(super) name: &'static str,
    /// What the host did.
    pub(super) did: &'static str,
    /// What stopped it.
    pub(super) by: &'static str,
    /// Why, if it is not plain.
    pub(super) why: &'static str,
    /// What the console says of it.
    pub(super) sign: &'static str,
}

impl Attack {
    /// The step, by the console of the boot.
    pub(super) fn judged(&self, said: Result<String, Failure>) -> Step {
        let sign = said.and_then(|said| stopped(&said, &[self.sign]));
        step(self.name, sign.map(|sign| self.told(&sign)))
    }

    /// The same, of a launch that was refused with this line.
    pub(super) fn refused(&self, line: Result<String, Failure>) -> Step {
        step(self.name, line.map(|line| self.told(line.trim())))
    }

    fn told(&self, sign: &str) -> String {
        let why = if self.why.is_empty() { String::new() } else { format!(": {}", self.why) };
        format!("the host {}; stopped by {}{why}; the operator sees: {sign}", self.did, self.by)
    }
}

const fn in_image(name: &'static str, did: &'static str) -> Attack {
    Attack { name, did, by: "Secure Boot, before the kernel image starts", why: "", sign: NOTHING_BOOTS }
}

const fn in_root(name: &'static str, did: &'static str) -> Attack {
    Attack { name, did, by: "dm-verity, in the initrd or when the block is read", why: "", sign: CORRUPTED }
}

const fn sealed(name: &'static str, did: &'static str, why: &'static str) -> Attack {
    Attack { name, did, by: "the TPM, asked for the volume's key", why, sign: SHUT }
}

const fn known(name: &'static str, did: &'static str, sign: &'static str) -> Attack {
    Attack { name, did, by: "the guest, before it mounts the volume", why: "", sign }
}
