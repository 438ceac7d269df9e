//! One seeded world around a store: a hostile disk, entropy, and a broker that is ten lines long.
//!
//! The engine is a toy: its state is plain bytes that a script changes.

use crate::disk::SimDisk;
use husk::fault::Fault;
use husk::keys::{CreateKey, Identity, VolumeKey};
use husk::nv::order::{self, Due, Outcome};
use husk::nv::{Committed, Keys, NvImage, NvStore, STATE_BYTES_MAX};
use husk::release::unsealed::Unsealed;
use husk::release::{Anchor, Anchored, Head, ReleaseFault};
use husk::seams::{
    Channel, ChannelError, Console, Entropy, EntropyError, Platform, REPORT_BYTES, REPORT_DATA_BYTES,
    Reporter, ReporterError,
};
use husk::volume::{Stamp, Wanted, Workspace};

pub(crate) const IDENTITY: Identity =
    Identity { tenant: *b"tenant of a test", vm: *b"the VM of a test", generation: 1 };
pub(crate) const FINGERPRINT: [u8; 32] = *b"toy engine 1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// SplitMix64: every byte of a test comes from its seed.
#[derive(Clone, Debug)]
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

impl Entropy for Seeded {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError> {
        into.copy_from_slice(&self.bytes(into.len()));
        Ok(())
    }
}

/// What the broker does with the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    Honestly,
    /// The request is lost.
    NotReached,
    /// The request is carried out, the reply is lost.
    ReplyLost,
    /// A definite no.
    No(ReleaseFault),
}

/// Remembers the head, its epoch and the newest token.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    pub(crate) head: Head,
    pub(crate) epoch: u64,
    pub(crate) token: u64,
    pub(crate) answers: Answers,
    pub(crate) asked: usize,
}

/// One launch's grant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    pub(crate) token: u64,
    pub(crate) epoch: u64,
}

/// The broker, as one instance reaches it.
pub(crate) struct Instance<'b> {
    pub(crate) broker: &'b mut Broker,
    pub(crate) grant: Grant,
}

impl Anchor for Instance<'_> {
    fn anchor(
        &mut self,
        platform: &mut Platform<'_>,
        previous: &Head,
        new: &Head,
    ) -> Result<Anchored, ReleaseFault> {
        self.broker.asked += 1;
        match self.broker.answers {
            Answers::No(fault) => return Err(fault),
            Answers::NotReached => return Err(ReleaseFault::Undecided),
            Answers::Honestly | Answers::ReplyLost => {}
        }
        if self.grant.token != self.broker.token {
            return Err(ReleaseFault::Fenced);
        }
        let mut memory = Unsealed::for_testing().believe(self.broker.head);
        let anchored = memory.anchor(platform, previous, new)?;
        (self.broker.head, self.broker.epoch) = (*new, self.grant.epoch);
        match self.broker.answers {
            Answers::ReplyLost => Err(ReleaseFault::Undecided),
            _ => Ok(anchored),
        }
    }
}

/// The buffers of one launch.
pub(crate) struct Memory {
    pub(crate) durable: Box<[u8; STATE_BYTES_MAX]>,
    pub(crate) current: Box<[u8; STATE_BYTES_MAX]>,
    pub(crate) work: Box<Workspace>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        let boxed = || vec![0; STATE_BYTES_MAX].try_into().expect("the length fits");
        Self { durable: boxed(), current: boxed(), work: Box::new(Workspace::new()) }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) entropy: Seeded,
    pub(crate) broker: Broker,
}

impl World {
    pub(crate) fn new(disk: SimDisk, seed: u64) -> Self {
        let broker = Broker { head: Head::NONE, epoch: 0, token: 0, answers: Answers::Honestly, asked: 0 };
        Self { disk, entropy: Seeded(seed), broker }
    }

    /// A new instance: everything older is fenced.
    pub(crate) fn grant(&mut self) -> Grant {
        self.broker.token += 1;
        Grant { token: self.broker.token, epoch: self.broker.epoch + 1 }
    }

    pub(crate) fn with<R>(
        &mut self,
        grant: Grant,
        using: impl FnOnce(&mut Platform<'_>, &mut Instance<'_>) -> R,
    ) -> R {
        let (mut nowhere, mut mute, mut dark) = (Nowhere, Mute, Dark);
        let mut platform = Platform {
            disk: &mut self.disk,
            channel: &mut nowhere,
            reporter: &mut mute,
            entropy: &mut self.entropy,
            clock: None,
            console: &mut dark,
        };
        using(&mut platform, &mut Instance { broker: &mut self.broker, grant })
    }

    /// A store for a new TPM whose engine made `state`.
    pub(crate) fn create<'m>(&mut self, grant: Grant, memory: &'m mut Memory, state: &[u8]) -> NvStore<'m> {
        let key = CreateKey::unsealed(&Unsealed::for_testing().key(grant.epoch), &IDENTITY);
        let image = NvImage::new(&mut memory.durable, &mut memory.current);
        let mut store = NvStore::create(image, key, stamp(grant), &mut memory.work);
        store.image_mut().store_engine_state(state).expect("it fits");
        store
    }

    /// A store for the TPM at the broker's head.
    pub(crate) fn open<'m>(&mut self, grant: Grant, memory: &'m mut Memory) -> Result<NvStore<'m>, Fault> {
        let keys = keys(&self.broker, &IDENTITY);
        let image = NvImage::new(&mut memory.durable, &mut memory.current);
        let work = &mut memory.work;
        self.with(grant, |platform, _| NvStore::open(platform, image, keys, stamp(grant), work))
    }

    /// Does what is due, once, as `vtpm` does it; leases are not this world's.
    pub(crate) fn carry(&mut self, grant: Grant, store: &mut NvStore<'_>) -> Result<Committed, Fault> {
        let change = store.change();
        let mut due = order::first(change);
        loop {
            self.with(grant, |platform, instance| match due {
                Due::Renew | Due::Hold | Due::Permit | Due::Answer | Due::Over => Ok(()),
                Due::Write => store.write(platform),
                Due::Flush => store.flush(platform),
                Due::Anchor => store.anchor(platform, instance),
                Due::Defer => store.defer(),
                Due::Keep => store.keep(),
            })?;
            if due == Due::Answer {
                return Ok(store.settled()?);
            }
            due = order::next(change, due, Outcome::Done);
        }
    }

    pub(crate) fn commit(&mut self, grant: Grant, store: &mut NvStore<'_>) -> Result<(), Fault> {
        let version = store.image().version();
        assert_eq!(self.carry(grant, store)?.version(), version);
        Ok(())
    }

    /// Makes `state` the engine's and durable.
    pub(crate) fn put(&mut self, grant: Grant, store: &mut NvStore<'_>, state: &[u8]) -> Result<(), Fault> {
        store.image_mut().store_engine_state(state)?;
        self.commit(grant, store)
    }

    /// Launches, creating the TPM with `first` if there is none; the launch's own commit included. Returns what the
    /// TPM remembers.
    pub(crate) fn launch<'m>(
        &mut self,
        memory: &'m mut Memory,
        first: &[u8],
    ) -> Result<(Grant, NvStore<'m>), Fault> {
        let grant = self.grant();
        let mut store = match self.broker.head {
            Head::NONE => self.create(grant, memory, first),
            _ => self.open(grant, memory)?,
        };
        self.commit(grant, &mut store)?;
        Ok((grant, store))
    }
}

pub(crate) fn stamp(grant: Grant) -> Stamp {
    Stamp { token: grant.token, fingerprint: FINGERPRINT }
}

pub(crate) fn keys(broker: &Broker, identity: &Identity) -> Keys {
    let key = |epoch| VolumeKey::unsealed(&Unsealed::for_testing().key(epoch), identity);
    Keys { wanted: Wanted::exactly(broker.head), current: key(broker.epoch), next: key(broker.epoch + 1) }
}

struct Nowhere;
impl Channel for Nowhere {
    fn exchange(&mut self, _: &[u8], _: &mut [u8]) -> Result<usize, ChannelError> {
        Err(ChannelError::Unreachable)
    }
}

struct Mute;
impl Reporter for Mute {
    fn report(
        &mut self,
        _: &[u8; REPORT_DATA_BYTES],
        _: &mut [u8; REPORT_BYTES],
    ) -> Result<(), ReporterError> {
        Err(ReporterError::Unsupported)
    }

    fn certificate(&mut self, _: &mut [u8]) -> usize {
        0
    }
}

struct Dark;
impl Console for Dark {
    fn line(&mut self, _: &'static str, _: u32) {}
}
