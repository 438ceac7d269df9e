//! What makes the image durable, and the proof that it is.

use super::order::Change;
use super::{NvFault, NvImage};
use crate::fault::Fault;
use crate::keys::{CreateKey, Identity, Mode, SuspendSecret, VolumeKey};
use crate::release::open::Oblivion;
use crate::release::{Anchor, Head, ReleaseFault};
use crate::seams::Platform;
use crate::volume::{Flushed, Opened, Stamp, Volume, Wanted, Workspace, Written};

/// Proof that an image version is durable: on disk and, unless it was deferred, at the anchor.
#[derive(Debug)]
#[must_use]
pub struct Committed {
    version: u64,
}

impl Committed {
    /// The image version that is durable.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }
}

/// How far the volume beneath is.
enum Phase<'m> {
    /// Nothing exists yet: the first commit makes the volume, under a grant.
    Absent { key: CreateKey, work: &'m mut Workspace },
    /// The state at the head was read: the first commit begins the next epoch.
    Opened { volume: Opened<'m>, next: VolumeKey },
    /// The head is anchored.
    Settled(Volume<'m>),
    /// Handed to the disk.
    Written { written: Written<'m>, version: u64 },
    /// On disk, and the anchor has not answered: nothing but its question may follow.
    Flushed { flushed: Flushed<'m>, version: u64 },
    /// There is no volume: the image is all that there is. Nothing was told until the launch is confirmed.
    Ephemeral { told: Option<Told> },
    /// Over: memory and disk may differ.
    Latched,
}

/// What the broker of an ephemeral TPM knows of it: what its resetCount is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    reset_base: u64,
}

/// The image and the volume beneath it. Each change goes right through: [`write`](NvStore::write), [`flush`](NvStore::flush),
/// [`anchor`](NvStore::anchor), proof, in the order of [`order`](super::order). A step that is not due latches the store.
///
/// The first commit of a launch creates the volume or begins its epoch, and has that anchored like any other;
/// until then there is no [`Committed`], so nothing that the TPM says can leave.
#[expect(missing_debug_implementations, reason = "it holds the TPM's secrets")]
pub struct NvStore<'m> {
    image: NvImage<'m>,
    stamp: Stamp,
    phase: Phase<'m>,
    /// How many commits may lie behind the anchored head.
    slack: u32,
}

impl<'m> NvStore<'m> {
    /// A store for a TPM that is to be made; `image` is one of nothing.
    pub const fn create(image: NvImage<'m>, key: CreateKey, stamp: Stamp, work: &'m mut Workspace) -> Self {
        Self { image, stamp, phase: Phase::Absent { key, work }, slack: 0 }
    }

    /// A store for the TPM whose state at `head` lies on the disk. Reads it; writes nothing.
    ///
    /// # Errors
    /// What [`Volume::open`] returns; [`NvFault::OtherEngine`] if another engine wrote the state;
    /// [`NvFault::EnvelopeRefused`].
    pub fn open(
        platform: &mut Platform<'_>,
        mut image: NvImage<'m>,
        keys: Keys,
        stamp: Stamp,
        work: &'m mut Workspace,
    ) -> Result<Self, Fault> {
        let mut opened = None;
        image.load(|state| {
            let volume = Volume::open(platform.disk, &keys.current, &keys.wanted, work, state)?;
            if *volume.fingerprint() != stamp.fingerprint {
                return Err(Fault::from(NvFault::OtherEngine));
            }
            let bytes = volume.state_bytes();
            opened = Some(volume);
            Ok(bytes)
        })?;
        let volume = opened.ok_or(NvFault::EnvelopeRefused)?;
        Ok(Self { image, stamp, phase: Phase::Opened { volume, next: keys.next }, slack: 0 })
    }

    /// A store for a TPM that ends with the launch; `image` is one of nothing. What is committed is in memory, and the anchor hears of
    /// the launch, and of what its resetCount is counted from, alone.
    pub const fn ephemeral(image: NvImage<'m>, stamp: Stamp, _permission: Oblivion) -> Self {
        Self { image, stamp, phase: Phase::Ephemeral { told: None }, slack: 0 }
    }

    /// A store that defers so many commits at most.
    #[must_use]
    pub const fn deferring(mut self, commits: u32) -> Self {
        self.slack = commits;
        self
    }

    /// The image, for the engine to read.
    #[must_use]
    pub const fn image(&self) -> &NvImage<'m> {
        &self.image
    }

    /// The image, for the engine to change.
    pub const fn image_mut(&mut self) -> &mut NvImage<'m> {
        &mut self.image
    }

    /// The anchored head, where there is one.
    #[must_use]
    pub const fn head(&self) -> Option<&Head> {
        match &self.phase {
            Phase::Settled(volume) => Some(volume.anchored()),
            Phase::Opened { volume, .. } => Some(volume.head()),
            Phase::Absent { .. }
            | Phase::Written { .. }
            | Phase::Flushed { .. }
            | Phase::Ephemeral { .. }
            | Phase::Latched => None,
        }
    }

    /// Whether this TPM ends with the launch.
    #[must_use]
    pub const fn is_ephemeral(&self) -> bool {
        matches!(self.phase, Phase::Ephemeral { .. })
    }

    /// The newest state that the anchor remembers; nothing while it is not known which that is, or where none is kept.
    #[must_use]
    pub const fn newest(&self) -> Option<Newest> {
        match &self.phase {
            Phase::Settled(volume) => Some(Newest {
                mode: volume.mode(),
                identity: *volume.identity(),
                epoch: volume.epoch(),
                head: *volume.anchored(),
            }),
            Phase::Absent { .. }
            | Phase::Opened { .. }
            | Phase::Written { .. }
            | Phase::Flushed { .. }
            | Phase::Ephemeral { .. }
            | Phase::Latched => None,
        }
    }

    /// Takes a newer fencing token.
    pub fn retoken(&mut self, token: u64) {
        self.stamp.token = self.stamp.token.max(token);
        if let Phase::Settled(volume) = &mut self.phase {
            volume.retoken(token);
        }
    }

    /// What there is to make durable now. A store that is latched has nothing, and no proof of that either.
    pub fn change(&mut self) -> Change {
        let dirty = self.image.is_dirty();
        match &mut self.phase {
            Phase::Settled(_) if !dirty => Change::Nothing,
            Phase::Settled(volume) => {
                let switches = volume.switches_area(self.image.durable(), self.image.current());
                if switches { Change::Checkpoint } else { Change::Record }
            }
            Phase::Absent { .. } | Phase::Opened { .. } => Change::First,
            Phase::Written { .. } | Phase::Flushed { .. } => Change::Undecided,
            Phase::Ephemeral { told } if *told != Some(Told::of(&self.image)) => Change::Told,
            Phase::Ephemeral { .. } if dirty => Change::Forgotten,
            Phase::Ephemeral { .. } | Phase::Latched => Change::Nothing,
        }
    }

    /// As [`change`](Self::change), where nothing is to stay deferred.
    pub fn owed(&mut self) -> Change {
        match self.change() {
            Change::Nothing if self.deferred() > 0 => Change::Window,
            change => change,
        }
    }

    /// How many commits lie behind the anchored head.
    #[must_use]
    pub const fn deferred(&self) -> u64 {
        match &self.phase {
            Phase::Settled(volume) => volume.head().sequence.saturating_sub(volume.anchored().sequence),
            Phase::Absent { .. }
            | Phase::Opened { .. }
            | Phase::Written { .. }
            | Phase::Flushed { .. }
            | Phase::Ephemeral { .. }
            | Phase::Latched => 0,
        }
    }

    /// Whether one more commit may be deferred.
    #[must_use]
    pub const fn has_slack(&self) -> bool {
        self.deferred() < self.slack as u64
    }

    /// Proof of what is durable already, whatever the image has become since.
    ///
    /// # Errors
    /// [`NvFault::NotCommitted`] if nothing is, or if that is not known.
    pub fn settled(&self) -> Result<Committed, NvFault> {
        match &self.phase {
            Phase::Settled(_) | Phase::Ephemeral { told: Some(_) } => {
                Ok(Committed { version: self.image.durable_version() })
            }
            Phase::Latched => Err(NvFault::Latched),
            Phase::Absent { .. }
            | Phase::Opened { .. }
            | Phase::Written { .. }
            | Phase::Flushed { .. }
            | Phase::Ephemeral { told: None } => Err(NvFault::NotCommitted),
        }
    }

    /// Seals a volatile state at the durable head, as [`Volume::seal_suspended`].
    ///
    /// # Errors
    /// [`NvFault::NotCommitted`] if what the image holds is not durable; what sealing returns.
    pub fn seal_suspended(
        &self,
        secret: &SuspendSecret,
        into: &mut [u8],
        state_bytes: usize,
    ) -> Result<usize, Fault> {
        Ok(self.standing_volume()?.seal_suspended(secret, into, state_bytes)?)
    }

    /// Opens a volatile state that was sealed at this very head, as [`Volume::open_suspended`].
    ///
    /// # Errors
    /// [`NvFault::NotCommitted`] if what the image holds is not durable; what opening returns. The secret is used up.
    pub fn open_suspended<'o>(
        &self,
        secret: SuspendSecret,
        object: &'o mut [u8],
    ) -> Result<&'o mut [u8], Fault> {
        Ok(self.standing_volume()?.open_suspended(secret, object)?)
    }

    /// The volume, while its head is all that there is.
    fn standing_volume(&self) -> Result<&Volume<'m>, NvFault> {
        match &self.phase {
            Phase::Settled(volume) if !self.image.is_dirty() => Ok(volume),
            Phase::Settled(_)
            | Phase::Absent { .. }
            | Phase::Opened { .. }
            | Phase::Written { .. }
            | Phase::Flushed { .. }
            | Phase::Latched => Err(NvFault::NotCommitted),
            Phase::Ephemeral { .. } => Err(NvFault::NothingKept),
        }
    }

    /// Ends this store for good and wipes what it holds: image and keys. What is durable stays on the disk.
    pub fn give_up(&mut self) {
        self.phase = Phase::Latched;
        self.image.wipe();
    }

    /// Hands the current image to the disk.
    ///
    /// # Errors
    /// What the volume returns. A fault latches the store: every further step gives [`NvFault::Latched`].
    pub fn write(&mut self, platform: &mut Platform<'_>) -> Result<(), Fault> {
        let (stamp, version) = (self.stamp, self.image.version());
        let written = match self.take() {
            Phase::Absent { key, work } => Volume::create(platform, key, stamp, work, self.image.current())?,
            Phase::Opened { volume, next } => {
                volume.begin_epoch(platform, next, stamp, self.image.current())?
            }
            Phase::Settled(volume) => volume.commit(platform, self.image.durable(), self.image.current())?,
            Phase::Written { .. } | Phase::Flushed { .. } | Phase::Ephemeral { .. } | Phase::Latched => {
                return Err(NvFault::Latched.into());
            }
        };
        self.phase = Phase::Written { written, version };
        Ok(())
    }

    /// Has the disk make it durable.
    ///
    /// # Errors
    /// [`VolumeFault::Flush`](crate::volume::VolumeFault::Flush), which latches the store, and [`NvFault::Latched`].
    pub fn flush(&mut self, platform: &mut Platform<'_>) -> Result<(), Fault> {
        let Phase::Written { written, version } = self.take() else { return Err(NvFault::Latched.into()) };
        self.phase = Phase::Flushed { flushed: written.flush(platform)?, version };
        Ok(())
    }

    /// Leaves it to a later anchor.
    ///
    /// # Errors
    /// [`NvFault::NoSlack`] if so many are not to be lost. It and [`NvFault::Latched`] latch the store.
    pub fn defer(&mut self) -> Result<(), Fault> {
        let Phase::Flushed { flushed, .. } = self.take() else { return Err(NvFault::Latched.into()) };
        let volume = flushed.defer(self.slack).ok_or(NvFault::NoSlack)?;
        self.image.settle();
        self.phase = Phase::Settled(volume);
        Ok(())
    }

    /// Takes a change of an ephemeral TPM for durable, as long as that TPM is.
    ///
    /// # Errors
    /// [`NvFault::Latched`], which latches the store, if there is something durable that it would have to be written to, or if nobody
    /// knows of this TPM yet.
    pub fn keep(&mut self) -> Result<(), Fault> {
        let Phase::Ephemeral { told: told @ Some(_) } = self.take() else {
            return Err(NvFault::Latched.into());
        };
        self.image.settle();
        self.phase = Phase::Ephemeral { told };
        Ok(())
    }

    /// Has the anchor remember what was written as the newest, and with it whatever was deferred.
    ///
    /// # Errors
    /// [`ReleaseFault::Undecided`]: nothing may follow but this call again, though what needs nothing may go on where nothing was
    /// written since the last deferral. Any other fault latches the store; [`NvFault::RanAhead`] if the image changed since it was
    /// written.
    pub fn anchor(&mut self, platform: &mut Platform<'_>, anchor: &mut dyn Anchor) -> Result<(), Fault> {
        match self.take() {
            Phase::Flushed { flushed, version } => {
                if version != self.image.version() {
                    return Err(NvFault::RanAhead.into());
                }
                match remember(platform, anchor, flushed)? {
                    Ok(volume) => self.phase = Phase::Settled(volume),
                    Err(flushed) => {
                        self.phase = Phase::Flushed { flushed, version };
                        return Err(ReleaseFault::Undecided.into());
                    }
                }
                self.image.settle();
                Ok(())
            }
            Phase::Settled(volume) => match remember(platform, anchor, volume.window())? {
                Ok(volume) => {
                    self.phase = Phase::Settled(volume);
                    Ok(())
                }
                Err(flushed) => {
                    let volume = flushed.defer(self.slack).ok_or(NvFault::NoSlack)?;
                    self.phase = Phase::Settled(volume);
                    Err(ReleaseFault::Undecided.into())
                }
            },
            Phase::Ephemeral { told } => {
                let telling = Told::of(&self.image);
                match anchor.anchor(platform, &Head::NONE, &Head::NONE) {
                    Ok(_anchored) => {
                        self.image.settle();
                        self.phase = Phase::Ephemeral { told: Some(telling) };
                        Ok(())
                    }
                    Err(ReleaseFault::Undecided) => {
                        self.phase = Phase::Ephemeral { told };
                        Err(ReleaseFault::Undecided.into())
                    }
                    Err(definite) => Err(definite.into()),
                }
            }
            Phase::Absent { .. } | Phase::Opened { .. } | Phase::Written { .. } | Phase::Latched => {
                Err(NvFault::Latched.into())
            }
        }
    }

    /// Leaves the store latched: the caller has what comes next.
    const fn take(&mut self) -> Phase<'m> {
        core::mem::replace(&mut self.phase, Phase::Latched)
    }
}

impl Told {
    /// What the image has to tell.
    fn of(image: &NvImage<'_>) -> Self {
        Self { reset_base: image.envelope().reset_base.get() }
    }
}

/// Asks the anchor; the commit comes back while the answer is not known.
fn remember<'m>(
    platform: &mut Platform<'_>,
    anchor: &mut dyn Anchor,
    flushed: Flushed<'m>,
) -> Result<Result<Volume<'m>, Flushed<'m>>, Fault> {
    match anchor.anchor(platform, flushed.previous(), flushed.next()) {
        Ok(anchored) => Ok(Ok(flushed.settle(&anchored)?)),
        Err(ReleaseFault::Undecided) => Ok(Err(flushed)),
        Err(definite) => Err(definite.into()),
    }
}

/// Which state is the newest durable one, whose it is and what seals it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    /// What protects it.
    pub mode: Mode,
    /// Tenant, VM and generation.
    pub identity: Identity,
    /// The epoch that it is sealed under.
    pub epoch: u64,
    /// Its place in the chain of commits.
    pub head: Head,
}

/// What opens the volume, and what seals its next epoch.
#[derive(Debug)]
pub struct Keys {
    /// The anchored head, and how much behind it is taken.
    pub wanted: Wanted,
    /// The key of the head's epoch.
    pub current: VolumeKey,
    /// The key of the next epoch.
    pub next: VolumeKey,
}
