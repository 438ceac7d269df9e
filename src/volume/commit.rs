//! Writing: one object, one flush, and then nothing until the anchor has answered (`format.md` §6).
//!
//! Each is a type of its own: [`Volume`], [`Written`], [`Flushed`], and a volume again.

use super::layout::{
    Area, CheckpointHeader, Commit, FORMAT, Layout, RECORD_BYTES_MAX, RecordHeader, STATE_BYTES_MAX,
    STATE_LENGTH_BYTES, TAG_BYTES, length,
};
use super::open::beginnings;
use super::probe::Beginning;
use super::window::within;
use super::workspace::Workspace;
use super::{VolumeFault, delta, seal};
use crate::keys::derive::SALT_BYTES;
use crate::keys::{CreateKey, Identity, Mode, ObjectSort, VolumeKey};
use crate::release::{Anchored, Head};
use crate::seams::Platform;
use zerocopy::IntoBytes;

/// Who writes: the fencing token, and the engine that the state is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The fencing token of this instance.
    pub token: u64,
    /// The engine's fingerprint.
    pub fingerprint: [u8; 32],
}

/// A volume whose head is anchored: the next commit may be written.
#[must_use]
#[expect(missing_debug_implementations, reason = "its workspace may hold secrets")]
pub struct Volume<'m> {
    work: &'m mut Workspace,
    layout: Layout,
    key: VolumeKey,
    stamp: Stamp,
    area: Area,
    /// Where the head's object ends in its area, in bytes.
    end: usize,
    head: Head,
    /// What the anchor remembers: the head, or what deferred commits lie behind.
    anchored: Head,
}

/// A commit that was handed to the disk, which may lose it yet.
#[must_use]
#[expect(missing_debug_implementations, reason = "its volume's workspace may hold secrets")]
pub struct Written<'m>(Flushed<'m>);

impl<'m> Written<'m> {
    /// Has the disk make it durable.
    ///
    /// # Errors
    /// [`VolumeFault::Flush`]. Everything acknowledged is on the disk; this volume is over.
    pub fn flush(self, platform: &mut Platform<'_>) -> Result<Flushed<'m>, VolumeFault> {
        platform.disk.flush().map_err(|_| VolumeFault::Flush)?;
        Ok(self.0)
    }
}

/// A commit that is on the disk and not yet anchored. Until it is, there is no volume to write to.
#[must_use]
#[expect(missing_debug_implementations, reason = "its volume's workspace may hold secrets")]
pub struct Flushed<'m> {
    volume: Volume<'m>,
}

impl<'m> Flushed<'m> {
    /// The head that the anchor remembers.
    #[must_use]
    pub const fn previous(&self) -> &Head {
        &self.volume.anchored
    }

    /// The head that this commit makes.
    #[must_use]
    pub const fn next(&self) -> &Head {
        &self.volume.head
    }

    /// Moves on, against the proof that this very head is remembered.
    ///
    /// # Errors
    /// [`VolumeFault::WrongProof`] if the proof is of another head.
    pub fn settle(mut self, anchored: &Anchored) -> Result<Volume<'m>, VolumeFault> {
        if *anchored.head() != self.volume.head {
            return Err(VolumeFault::WrongProof);
        }
        self.volume.anchored = self.volume.head;
        Ok(self.volume)
    }

    /// Moves on without a proof, if at most `commits` are then behind the anchored head; else this volume is over.
    #[must_use]
    pub fn defer(self, commits: u32) -> Option<Volume<'m>> {
        let Volume { anchored, head, .. } = &self.volume;
        within(anchored.sequence, head.sequence, commits).then_some(self.volume)
    }
}

impl<'m> Volume<'m> {
    /// A volume whose head lies in the given area and is not to be appended to.
    pub(super) const fn at(
        work: &'m mut Workspace,
        layout: Layout,
        key: VolumeKey,
        stamp: Stamp,
        (area, head, anchored): (Area, Head, Head),
    ) -> Self {
        Self { work, end: layout.area_bytes, layout, key, stamp, area, head, anchored }
    }

    /// Makes a new volume that holds `state`: its first checkpoint, not yet flushed. What the disk holds of the same VM is kept in the area
    /// that is newer, until the next switch of areas.
    ///
    /// # Errors
    /// [`VolumeFault::Occupied`] if the disk holds somebody else's volume; entropy and disk faults;
    /// [`VolumeFault::StateTooLarge`]. A volume of somebody else is as it was.
    pub fn create(
        platform: &mut Platform<'_>,
        key: CreateKey,
        stamp: Stamp,
        work: &'m mut Workspace,
        state: &[u8],
    ) -> Result<Written<'m>, VolumeFault> {
        let replaces = *key.replaces();
        let (key, previous) = key.into_key();
        let layout = Layout::of(&platform.disk.geometry())?;
        let mut destroys = [0; 2];
        for (place, (_, beginning)) in beginnings(platform.disk, &layout, work)?.iter().enumerate() {
            destroys[place] = destroyed(beginning, &key)?;
        }
        let area = if destroys[0] <= destroys[1] { Area::A } else { Area::B };
        Self::at(work, layout, key, stamp, (area.other(), previous, replaces)).checkpoint(platform, state)
    }

    /// The newest head.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// The anchored head: the newest, where nothing is deferred.
    #[must_use]
    pub const fn anchored(&self) -> &Head {
        &self.anchored
    }

    /// What is deferred, to be anchored now.
    pub const fn window(self) -> Flushed<'m> {
        Flushed { volume: self }
    }

    /// The key of the epoch, and who writes under it.
    pub(super) const fn sealed_by(&self) -> (&VolumeKey, &Stamp) {
        (&self.key, &self.stamp)
    }

    /// What protects this volume.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.key.mode()
    }

    /// Whose volume this is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        self.key.identity()
    }

    /// The epoch that the newest state is sealed under.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.key.epoch()
    }

    /// Takes a newer fencing token: what is written from now on bears it.
    pub fn retoken(&mut self, token: u64) {
        self.stamp.token = self.stamp.token.max(token);
    }

    /// Whether committing `new` over `old` will overwrite the other area. The caller renews its lease before that: an
    /// instance that was fenced must not overwrite what its successor uses.
    pub fn switches_area(&mut self, old: &[u8], new: &[u8]) -> bool {
        self.encode(old, new).is_none()
    }

    /// Writes the change from `old`, the state at the head, to `new`: a record after the head or, if it does not
    /// fit there, a checkpoint in the other area.
    ///
    /// # Errors
    /// Entropy and disk faults, [`VolumeFault::StateTooLarge`]. Everything acknowledged is on the disk; this volume is over.
    pub fn commit(
        mut self,
        platform: &mut Platform<'_>,
        old: &[u8],
        new: &[u8],
    ) -> Result<Written<'m>, VolumeFault> {
        match self.encode(old, new) {
            Some(total) => self.append(platform, total),
            None => self.checkpoint(platform, new),
        }
    }

    /// Leaves the padded delta in `work.log`, behind room for a header; returns the record's size in bytes if it fits.
    fn encode(&mut self, old: &[u8], new: &[u8]) -> Option<usize> {
        let room = (self.layout.area_bytes - self.end).min(RECORD_BYTES_MAX);
        let room = room.checked_sub(RecordHeader::BYTES + TAG_BYTES)?;
        if new.len() > STATE_BYTES_MAX {
            return None;
        }
        let body = &mut self.work.log[RecordHeader::BYTES..][..room];
        let len = delta::encode(old, new, &mut self.work.index, body)?;
        let total = self.layout.record_bytes(len);
        let padded = total - RecordHeader::BYTES - TAG_BYTES;
        body.get_mut(len..padded)?.fill(0);
        Some(total)
    }

    fn append(mut self, platform: &mut Platform<'_>, total: usize) -> Result<Written<'m>, VolumeFault> {
        let commit = self.prepare(platform)?;
        let header = RecordHeader::new(&commit, total);
        let object = self.work.log.get_mut(..total).ok_or(VolumeFault::Bounds)?;
        object.get_mut(..RecordHeader::BYTES).ok_or(VolumeFault::Bounds)?.copy_from_slice(header.as_bytes());
        seal::seal(object, RecordHeader::BYTES, &header.name(), &self.key)?;
        let digest = seal::chain(ObjectSort::Record, &self.head.digest, object);
        write(platform, self.layout.start(self.area) + self.end as u64, object)?;
        self.end += total;
        Ok(self.written(commit.sequence, digest))
    }

    /// Writes `state` whole into the area that the head is not in.
    pub(super) fn checkpoint(
        mut self,
        platform: &mut Platform<'_>,
        state: &[u8],
    ) -> Result<Written<'m>, VolumeFault> {
        let total = self.layout.checkpoint_bytes(state.len());
        if state.len() > STATE_BYTES_MAX || total > self.layout.area_bytes {
            return Err(VolumeFault::StateTooLarge);
        }
        let commit = self.prepare(platform)?;
        let header = CheckpointHeader::new(&self.layout, &self.key, &self.stamp.fingerprint, &commit, total);
        let object = self.work.state.get_mut(..total).ok_or(VolumeFault::Bounds)?;
        pack(&header, state, object).ok_or(VolumeFault::Bounds)?;
        seal::seal(object, CheckpointHeader::BYTES, &header.name(), &self.key)?;
        let digest = seal::chain(ObjectSort::Checkpoint, &header.previous, object);
        self.area = self.area.other();
        write(platform, self.layout.start(self.area), object)?;
        self.end = total;
        Ok(self.written(commit.sequence, digest))
    }

    fn prepare(&self, platform: &mut Platform<'_>) -> Result<Commit, VolumeFault> {
        let mut salt = [0; SALT_BYTES];
        platform.entropy.fill(&mut salt).map_err(|_| VolumeFault::Entropy)?;
        let sequence = self.head.sequence.checked_add(1).ok_or(VolumeFault::Bounds)?;
        Ok(Commit { sequence, token: self.stamp.token, salt, previous: self.head.digest })
    }

    const fn written(mut self, sequence: u64, digest: [u8; 48]) -> Written<'m> {
        self.head = Head { sequence, digest };
        Written(Flushed { volume: self })
    }
}

/// What creation would destroy in an area: 0 for nothing of ours, else the sequence of an unconfirmed attempt. A permit goes
/// last: without it nothing could be made again after a cut.
fn destroyed(beginning: &Beginning, key: &VolumeKey) -> Result<u64, VolumeFault> {
    let header = match beginning {
        Beginning::Blank | Beginning::Other => return Ok(0),
        Beginning::Permit(_) => return Ok(u64::MAX),
        Beginning::Checkpoint(header) => header,
    };
    let format = header.format.get();
    let torn = format == 0 || format == FORMAT && !header.is_well_formed();
    let (found, wanted) = (header.identity(), key.identity());
    let same = format == FORMAT
        && header.mode == key.mode() as u8
        && (found.tenant, found.vm) == (wanted.tenant, wanted.vm);
    match (same, torn) {
        // Of this very generation: an attempt that nobody has confirmed, or it would be opened and not made.
        (true, _) if found.generation == wanted.generation => Ok(1),
        (true, _) | (_, true) => Ok(header.sequence.get().max(2)),
        (false, false) => Err(VolumeFault::Occupied),
    }
}

/// Lays out a checkpoint's header and plaintext; `None` if `object` is not as long as the header says.
fn pack(header: &CheckpointHeader, state: &[u8], object: &mut [u8]) -> Option<()> {
    let (head, rest) = object.split_at_mut_checked(CheckpointHeader::BYTES)?;
    let (stated, rest) = rest.split_at_mut_checked(STATE_LENGTH_BYTES)?;
    let (body, padding) = rest.split_at_mut_checked(state.len())?;
    head.copy_from_slice(header.as_bytes());
    stated.copy_from_slice(length(state.len()).as_bytes());
    body.copy_from_slice(state);
    padding.fill(0);
    Some(())
}

fn write(platform: &mut Platform<'_>, offset: u64, object: &[u8]) -> Result<(), VolumeFault> {
    platform.disk.write(offset, object).map_err(|_| VolumeFault::Write)
}
