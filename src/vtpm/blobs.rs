//! State blobs: a test TPM's state, in clear, for the host to carry elsewhere. A sealed TPM has none to give.

use super::VtpmFault;
use super::power::power_on_facts;
use super::serve::{Power, Vtpm};
use super::trust::Trust;
use crate::engine::{Engine, Start};
use crate::fault::Fault;
use crate::frontend::svsm::Persistence;
use crate::nv::{Envelope, STATE_BYTES_MAX};
use crate::seams::Platform;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The largest permanent blob in bytes.
pub const PERMANENT_BYTES_MAX: usize = size_of::<BlobHeader>() + STATE_BYTES_MAX;

const MAGIC: [u8; 8] = *b"HUSKTEST";

/// What stands before the durable image in a permanent blob.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct BlobHeader {
    magic: [u8; 8],
    /// TPMS_CLOCK_INFO.resetCount at that moment.
    reset_count: U32,
    /// Whether the TPM was started up.
    started: U32,
}

impl<E: Engine> Vtpm<'_, E> {
    /// A sealed TPM's state stays where it is.
    fn test_only(&self) -> Result<(), Fault> {
        match self.trust {
            Trust::Alone { persistence: Persistence::UnsealedForTesting, .. } => Ok(()),
            Trust::Alone { .. } | Trust::Sealed { .. } => Err(VtpmFault::StateStays.into()),
        }
    }

    /// Writes the permanent state of a running test TPM into `into`, which has [`PERMANENT_BYTES_MAX`] bytes; its length in
    /// bytes.
    ///
    /// # Errors
    /// [`VtpmFault::StateStays`] of a sealed TPM; [`VtpmFault::PoweredOff`]; [`VtpmFault::BlobRefused`] if `into` is too short.
    pub fn permanent_for_testing(&self, into: &mut [u8]) -> Result<usize, Fault> {
        self.test_only()?;
        self.alive()?;
        let image = self.nv.image();
        let facts = power_on_facts(image, self.trust.token(), Start::Load);
        let header = BlobHeader {
            magic: MAGIC,
            reset_count: U32::new(facts.reset_count),
            started: U32::new(u32::from(self.power == Power::Started)),
        };
        let at = size_of::<BlobHeader>();
        let total = at + image.current().len();
        let blob = into.get_mut(..total).ok_or(VtpmFault::BlobRefused)?;
        blob[..at].copy_from_slice(header.as_bytes());
        blob[at..].copy_from_slice(image.current());
        Ok(total)
    }

    /// Writes the volatile state of a running test TPM into `into`, which has
    /// [`VOLATILE_BYTES_MAX`](crate::volume::suspend::VOLATILE_BYTES_MAX) bytes; its length in bytes.
    ///
    /// # Errors
    /// [`VtpmFault::StateStays`] of a sealed TPM; [`VtpmFault::PoweredOff`]; the engine's faults.
    pub fn volatile_for_testing(&mut self, into: &mut [u8]) -> Result<usize, Fault> {
        self.test_only()?;
        self.alive()?;
        Ok(self.engine.save_volatile(into)?)
    }

    /// Powers a test TPM on from blobs in place of its own state, which is lost. With a volatile blob it goes on where it was,
    /// without one it is reset.
    ///
    /// # Errors
    /// [`VtpmFault::StateStays`] of a sealed TPM; [`VtpmFault::BlobRefused`], of bytes that are no blob of this engine: nothing
    /// changed. Other faults end this TPM; what lies on the disk stays.
    pub fn power_on_for_testing(
        &mut self,
        platform: &mut Platform<'_>,
        permanent: Option<&[u8]>,
        volatile: Option<&[u8]>,
    ) -> Result<(), Fault> {
        self.test_only()?;
        if let Some(fault) = self.latched {
            return Err(fault);
        }
        let header = permanent.map(|blob| self.parse(blob)).transpose()?;
        self.power_off();
        self.suspended = None;
        let started = match header {
            Some((header, state)) => self.implant(header, state, volatile.is_some()),
            None => Ok(self.power == Power::ResetDue),
        };
        let started = started.map_err(|fault| self.latch(fault))?;
        let Some(volatile) = volatile else { return self.reset(platform) };
        let facts = power_on_facts(self.nv.image(), self.trust.token(), Start::Load);
        let facts = crate::engine::PowerOn { clock_ms_min: 0, ..facts };
        let resumed = self.engine.resume_volatile(self.nv.image_mut(), facts, volatile);
        resumed.map_err(|fault| self.latch(fault.into()))?;
        self.power = if started { Power::Started } else { Power::Initialized };
        self.keyed = true;
        self.commit(platform).map(drop).map_err(|fault| self.latch(fault))
    }

    /// Cuts a permanent blob into what stands before the image and the image.
    fn parse<'b>(&self, blob: &'b [u8]) -> Result<(BlobHeader, &'b [u8]), Fault> {
        let (header, image) =
            BlobHeader::read_from_prefix(blob).map_err(|_| Fault::from(VtpmFault::BlobRefused))?;
        let engine = image.get(Envelope::BYTES..).unwrap_or(&[]);
        let known = header.magic == MAGIC
            && Envelope::parse(image).is_ok_and(|envelope| envelope.blocks() == 0)
            && engine.starts_with(&self.engine.fingerprint().0);
        if known { Ok((header, image)) } else { Err(VtpmFault::BlobRefused.into()) }
    }

    /// Puts a blob's image in place of this TPM's, under this launch's token; whether that TPM was started.
    fn implant(&mut self, header: BlobHeader, image: &[u8], resumes: bool) -> Result<bool, Fault> {
        let mut envelope = Envelope::parse(image)?;
        // What follows a reset counts one more, by a token of its own.
        let token = self.trust.token();
        envelope.reset_base.set(token.wrapping_sub(u64::from(header.reset_count.get())));
        let nv = self.nv.image_mut();
        nv.store_engine_state(&image[Envelope::BYTES..])?;
        nv.store_envelope(&envelope);
        let started = header.started.get() != 0;
        if !resumes {
            self.power = Power::ResetDue;
        }
        Ok(started)
    }
}
