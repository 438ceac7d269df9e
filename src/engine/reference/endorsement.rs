//! Working out the endorsement keys' public areas without the running TPM.
//!
//! The library is powered on from the very state that a launch will start from, but whatever it stores is forgotten.
//! In this rehearsal the TPM is cleared by the platform, whose authorization is empty after every TPM Reset: so no
//! hierarchy has an authorization or is disabled, and all slots are free. TPM2_Clear leaves the endorsement primary seed
//! alone, and from that seed and the template alone a primary key is made.

use super::super::endorsement::{EndorsementKey, Public};
use super::super::{Command, Engine, EngineFault, Fingerprint, Maker, ResponseCode};
use super::inquiry::Request;
use super::permall::Permall;
use super::world::{Entry, Stores};
use super::{Phase, ReferenceEngine};
use crate::nv::NvImage;
use sha2::{Digest, Sha384};

/// TPM_RH_ENDORSEMENT and TPM_RH_PLATFORM (TPM 2.0 part 2, table TPM_RH).
pub(super) const ENDORSEMENT: u32 = 0x4000_000B;
pub(super) const PLATFORM: u32 = 0x4000_000C;
/// TPM_CC_ClearControl, TPM_CC_CreatePrimary, TPM_CC_FlushContext (part 2, table TPM_CC).
const CLEAR_CONTROL: u32 = 0x127;
const CREATE_PRIMARY: u32 = 0x131;
const FLUSH_CONTEXT: u32 = 0x165;
pub(super) const GET_CAPABILITY: u32 = 0x17A;
/// TPM_CAP_TPM_PROPERTIES, TPM_PT_MANUFACTURER, and how many properties on TPM_PT_FIRMWARE_VERSION_1 is (part 2, table TPM_PT).
const TPM_PROPERTIES: u32 = 6;
const PT_MANUFACTURER: u32 = 0x105;
const FIRMWARE_AFTER_MANUFACTURER: usize = 6;

/// What was worked out, and from which seed.
#[derive(Debug)]
pub(super) struct Endorsement {
    /// Names the seed without telling it.
    seed: [u8; 48],
    keys: [Public; EndorsementKey::ALL.len()],
    maker: Maker,
}

impl Endorsement {
    /// Who made the TPM.
    pub(super) const fn maker(&self) -> Maker {
        self.maker
    }

    /// The public area of `key`, if the seed in `nv` is the one that it was worked out from.
    pub(super) fn public(&self, key: EndorsementKey, nv: &NvImage<'_>) -> Option<&[u8]> {
        let current = seed_name(nv)? == self.seed;
        self.keys.get(key as usize).filter(|_| current).map(|public| public.as_slice())
    }
}

/// A name of the endorsement primary seed that is stored in `nv`; `None` if the state is not one that this code knows.
fn seed_name(nv: &NvImage<'_>) -> Option<[u8; 48]> {
    let permall = nv.engine_state().get(size_of::<Fingerprint>()..)?;
    let seed = permall.get(Permall::find(permall)?.endorsement_seed)?;
    Some(Sha384::new().chain_update(b"HUSK v1 EPS name\0").chain_update(seed).finalize().into())
}

impl ReferenceEngine {
    /// Works out the keys of the stored seed, unless they are known. The engine is off, before and afterwards.
    pub(super) fn work_out_endorsement(&mut self, nv: &mut NvImage<'_>) -> Result<(), EngineFault> {
        let seed = seed_name(nv).ok_or(EngineFault::StateRefused)?;
        if self.endorsement.as_ref().is_some_and(|known| known.seed == seed) {
            return Ok(());
        }
        let (keys, maker) = self.rehearse(nv, |engine, nv| {
            let mut keys = [const { Public::new() }; EndorsementKey::ALL.len()];
            for (key, room) in EndorsementKey::ALL.into_iter().zip(&mut keys) {
                let (handle, public) = engine.create_endorsement(nv, key)?;
                engine.flush(nv, handle)?;
                *room = public;
            }
            Ok((keys, engine.ask_maker(nv)?))
        })?;
        self.endorsement = Some(Endorsement { seed, keys, maker });
        Ok(())
    }

    /// Does `act` on a TPM that was cleared, and forgets that.
    pub(super) fn rehearse<T>(
        &mut self,
        nv: &mut NvImage<'_>,
        act: impl FnOnce(&mut Self, &mut NvImage<'_>) -> Result<T, EngineFault>,
    ) -> Result<T, EngineFault> {
        self.stores = Stores::Forget;
        let acted = self.clear_as_platform(nv).and_then(|()| act(self, nv));
        self.power_off();
        self.stores = Stores::Keep;
        acted
    }

    /// Powers the stored TPM on, and clears it (TPM2_Clear).
    pub(super) fn clear_as_platform(&mut self, nv: &mut NvImage<'_>) -> Result<(), EngineFault> {
        self.load(nv, Entry::Launch { reset_count: 0, clock_ms_min: 0 })?;
        self.expect(nv, Request::new(false, Command::STARTUP).put(&[0, 0]))?;
        self.expect(nv, Request::authorized(CLEAR_CONTROL, PLATFORM).put(&[0]))?;
        self.expect(nv, Request::authorized(Command::CLEAR, PLATFORM)).map(drop)
    }

    fn ask_maker(&mut self, nv: &mut NvImage<'_>) -> Result<Maker, EngineFault> {
        let request = Request::new(false, GET_CAPABILITY).word(TPM_PROPERTIES).word(PT_MANUFACTURER);
        let reply = self.expect(nv, request.word(16))?;
        let maker = reply.property(0).zip(reply.property(FIRMWARE_AFTER_MANUFACTURER));
        let (manufacturer, firmware) = maker.ok_or(EngineFault::Failed)?;
        Ok(Maker { manufacturer: manufacturer.to_be_bytes(), firmware })
    }

    /// Makes a key; its handle and its public area.
    pub(super) fn create_endorsement(
        &mut self,
        nv: &mut NvImage<'_>,
        key: EndorsementKey,
    ) -> Result<(u32, Public), EngineFault> {
        let template = key.template();
        let size = u16::try_from(template.len()).map_err(|_| EngineFault::Failed)?;
        // TPM2B_SENSITIVE_CREATE without authorization and data; outsideInfo and creationPCR are empty.
        let request = Request::authorized(CREATE_PRIMARY, ENDORSEMENT).put(&[0, 4, 0, 0, 0, 0]);
        let request = request.put(&size.to_be_bytes()).put(&template).put(&[0; 6]);
        let reply = self.expect(nv, request)?;
        let public = reply.created_public().and_then(|bytes| Public::from_slice(bytes).ok());
        reply.handle().zip(public).ok_or(EngineFault::Failed)
    }

    fn flush(&mut self, nv: &mut NvImage<'_>, handle: u32) -> Result<(), EngineFault> {
        self.expect(nv, Request::new(false, FLUSH_CONTEXT).word(handle)).map(drop)
    }

    /// Sends a request that only a broken engine or a damaged state refuses.
    pub(super) fn expect(
        &mut self,
        nv: &mut NvImage<'_>,
        request: Request,
    ) -> Result<super::inquiry::Reply, EngineFault> {
        debug_assert!(self.phase == Phase::On);
        let reply = self.ask(nv, request)?;
        if reply.code() == ResponseCode::SUCCESS { Ok(reply) } else { Err(EngineFault::Failed) }
    }
}
