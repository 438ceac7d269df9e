//! The disconnected mode: a key of the processor alone, and nobody who remembers.
//!
//! **What.** [`HwSealed`] is a launch whose configuration names `hw-sealed`: it asks the processor for the key
//! ([`ProcessorSecret`]), and reads the operator's [`Permit`] where there is no TPM yet.
//! **Trust.** The processor, and the tenant root key that the configuration names.
//! **Laws.** Only a [`HwSealedConfig`] begins it. Creating a TPM takes a permit that the tenant's root key signed for this very
//! configuration: a blank disk never makes one. **Not promised**, and shown as not promised by manifest, tools and
//! console: that the state is the newest, that there is one instance, that limits on guessing (lockout, PIN) hold. A
//! host that keeps old bytes of the disk can put them back.
//! **Not here.** The keys that come of the secret: `keys::derive`. Any way from a mode with a broker to this one.

use super::local::LocalAnchor;
use super::transcript::{point_digest, verifies};
use super::wire::{POINT_BYTES, SIGNATURE_BYTES};
use super::{Head, ReleaseFault};
use crate::attest::launch::{AnchoredConfig, HwSealedConfig, LaunchConfig};
use crate::seams::{DerivedKeyRequest, Platform, ReporterError};
use crate::secret::Secret;
use sha2::{Digest as _, Sha384};
use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What the processor derived for this image on this chip, together with the configuration that asked for it. Only this box
/// makes one.
#[derive(Debug)]
pub struct ProcessorSecret {
    secret: Secret<32>,
    host_data: [u8; 32],
}

impl ProcessorSecret {
    /// The further input of a broker's keys, where the configuration names one.
    ///
    /// # Errors
    /// [`ReleaseFault::NoProcessorKey`].
    pub fn wanted(
        platform: &mut Platform<'_>,
        config: &AnchoredConfig,
    ) -> Result<Option<Self>, ReleaseFault> {
        let config = config.config();
        config.processor.as_ref().map(|asked| Self::ask(platform, config, asked)).transpose()
    }

    fn ask(
        platform: &mut Platform<'_>,
        config: &LaunchConfig,
        asked: &DerivedKeyRequest,
    ) -> Result<Self, ReleaseFault> {
        match platform.reporter.derived_key(asked) {
            Ok(secret) => Ok(Self { secret, host_data: config.host_data() }),
            Err(ReporterError::Failed | ReporterError::Refused | ReporterError::Unsupported) => {
                Err(ReleaseFault::NoProcessorKey)
            }
        }
    }

    /// The processor's key, for `keys::derive` alone.
    #[must_use]
    pub const fn secret(&self) -> &Secret<32> {
        &self.secret
    }

    /// HOST_DATA, which the processor cannot mix in: `keys::derive` does.
    #[must_use]
    pub const fn host_data(&self) -> &[u8; 32] {
        &self.host_data
    }
}

/// A launch that needs no network.
#[derive(Debug)]
pub struct HwSealed {
    config: HwSealedConfig,
    secret: ProcessorSecret,
}

impl HwSealed {
    /// Asks the processor for the key of the mode that `config` names, and tells the console that it did.
    ///
    /// # Errors
    /// [`ReleaseFault::NoProcessorKey`].
    pub fn begin(platform: &mut Platform<'_>, config: HwSealedConfig) -> Result<Self, ReleaseFault> {
        let asked = config.config().processor.as_ref().ok_or(ReleaseFault::NoProcessorKey)?;
        let secret = ProcessorSecret::ask(platform, config.config(), asked)?;
        platform.console.line("husk: HW-SEALED: no broker, and no protection against rollback", 0);
        Ok(Self { config, secret })
    }

    /// The configuration that names this mode.
    #[must_use]
    pub const fn config(&self) -> &LaunchConfig {
        self.config.config()
    }

    /// The material of one epoch's key.
    #[must_use]
    pub const fn key(&self, epoch: u64) -> HwSealedKey<'_> {
        HwSealedKey { epoch, secret: &self.secret }
    }

    /// The memory of this launch, which begins with what the disk shows.
    #[must_use]
    pub const fn believe(&self, head: Head) -> LocalAnchor {
        LocalAnchor::at(head)
    }

    /// The permission to make a TPM, if `permit` is the tenant's for this very configuration.
    ///
    /// # Errors
    /// [`ReleaseFault::PermitRefused`].
    pub fn permitted(&self, permit: &Permit) -> Result<HwCreation, ReleaseFault> {
        let config = self.config();
        let holds = *permit
            == Permit { root: permit.root, signature: permit.signature, ..Permit::of(config) }
            && point_digest(&permit.root) == config.root
            && verifies(&permit.root, &permit.digest(), &permit.signature);
        if holds { Ok(HwCreation(())) } else { Err(ReleaseFault::PermitRefused) }
    }
}

/// The processor's key material for one epoch. Only a launch in this mode has it.
#[derive(Clone, Copy, Debug)]
pub struct HwSealedKey<'s> {
    epoch: u64,
    secret: &'s ProcessorSecret,
}

impl HwSealedKey<'_> {
    /// The epoch that it belongs to.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The material, for `keys::derive` alone.
    #[must_use]
    pub const fn secret(&self) -> &ProcessorSecret {
        self.secret
    }
}

/// The operator's permission to make a TPM without a broker.
#[derive(Debug)]
#[must_use]
pub struct HwCreation(());

/// The header with which an operator hands out a volume for this mode: whoever holds the tenant's root key says that a TPM may be
/// made, for one configuration (`volume/format.md`, section 11). It is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Permit {
    magic: [u8; 8],
    format: U16,
    zero: [u8; 5],
    /// The tenant root key (SEC 1, uncompressed).
    pub root: [u8; POINT_BYTES],
    /// The tenant.
    pub tenant: [u8; 16],
    /// The VM.
    pub vm: [u8; 16],
    /// SHA-256 of the launch configuration.
    pub host_data: [u8; 32],
    /// ECDSA by the root key over [`digest`](Self::digest): r ‖ s, big-endian.
    pub signature: [u8; SIGNATURE_BYTES],
}

const PERMIT_MAGIC: [u8; 8] = *b"HUSKMAKE";
const PERMIT_FORMAT: u16 = 1;

impl Permit {
    /// Size in bytes.
    pub const BYTES: usize = size_of::<Self>();

    /// A permit for `config` that nobody has signed: root and signature are zero.
    #[must_use]
    pub fn of(config: &LaunchConfig) -> Self {
        Self {
            magic: PERMIT_MAGIC,
            format: U16::new(PERMIT_FORMAT),
            zero: [0; 5],
            root: [0; POINT_BYTES],
            tenant: config.tenant,
            vm: config.vm,
            host_data: config.host_data(),
            signature: [0; SIGNATURE_BYTES],
        }
    }

    /// What lies at the front of `bytes`, if it says that it is a permit. Nothing of it has been checked.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (permit, _) = Self::read_from_prefix(bytes).ok()?;
        (permit.magic == PERMIT_MAGIC).then_some(permit)
    }

    /// What the root key signs.
    #[must_use]
    pub fn digest(&self) -> [u8; 48] {
        let signed = &self.as_bytes()[..Self::BYTES - SIGNATURE_BYTES];
        Sha384::new().chain_update(b"HUSK v1 hw-sealed permit\0").chain_update(signed).finalize().into()
    }
}
