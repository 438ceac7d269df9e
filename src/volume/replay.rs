//! Walking one area's chain: checkpoint, then record after record (`format.md` §7).

use super::layout::{Area, CheckpointHeader, Layout, RecordHeader, STATE_BYTES_MAX, STATE_LENGTH_BYTES};
use super::window::{Wanted, within};
use super::workspace::Workspace;
use super::{VolumeFault, delta, seal};
use crate::keys::{ObjectSort, VolumeKey};
use crate::release::Head;
use crate::seams::Disk;
use zeroize::Zeroize;

/// Where a walk may end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until<'h> {
    /// At this head or so far behind it, or with a fault.
    Head(&'h Wanted),
    /// Where the authentic chain ends, wherever that is: of unsealed volumes only.
    Last,
}

impl Until<'_> {
    /// Whether `reached` is another commit than the head, with its number.
    fn is_forked(self, reached: &Head) -> bool {
        matches!(self, Self::Head(wanted) if wanted.head.sequence == reached.sequence && wanted.head != *reached)
    }

    /// Whether nothing behind `reached` is wanted.
    const fn is_full(self, reached: &Head) -> bool {
        match self {
            Self::Head(Wanted { head, beyond }) => {
                reached.sequence >= head.sequence
                    && !within(head.sequence, reached.sequence.saturating_add(1), *beyond)
            }
            Self::Last => false,
        }
    }

    /// Whether a walk may end at `reached` because nothing authentic follows.
    const fn may_end(self, reached: &Head) -> bool {
        match self {
            Self::Head(wanted) => reached.sequence >= wanted.head.sequence,
            Self::Last => true,
        }
    }
}

/// What a walk reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    pub(super) header: CheckpointHeader,
    pub(super) head: Head,
    /// The token under which the head was written.
    pub(super) token: u64,
    pub(super) state_bytes: usize,
}

/// One area, open for reading.
pub(super) struct Log<'d, 'w> {
    disk: &'d mut dyn Disk,
    layout: Layout,
    area: Area,
    key: &'d VolumeKey,
    work: &'w mut Workspace,
    /// The part of the area that `work.log` holds, in bytes from the area's start.
    held: core::ops::Range<usize>,
}

impl<'d, 'w> Log<'d, 'w> {
    pub(super) fn new(
        disk: &'d mut dyn Disk,
        layout: Layout,
        area: Area,
        key: &'d VolumeKey,
        work: &'w mut Workspace,
    ) -> Self {
        Self { disk, layout, area, key, work, held: 0..0 }
    }

    /// Walks from `header`, which is believed only as far as the tag supports it, and leaves the state in `state`.
    pub(super) fn replay(
        mut self,
        header: &CheckpointHeader,
        until: Until<'_>,
        state: &mut [u8; STATE_BYTES_MAX],
    ) -> Result<Reached, VolumeFault> {
        let mut reached = self.checkpoint(header, state)?;
        let mut at = header.total_bytes.get() as usize;
        loop {
            if until.is_forked(&reached.head) {
                return Err(VolumeFault::Forked);
            }
            if until.is_full(&reached.head) {
                return Ok(reached);
            }
            match self.record(at, &mut reached, state) {
                Ok(record) => at += record.total_bytes.get() as usize,
                Err(VolumeFault::Damaged | VolumeFault::RolledBack) if until.may_end(&reached.head) => {
                    return Ok(reached);
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Reads and opens the checkpoint; it must still bear `header`.
    fn checkpoint(
        &mut self,
        header: &CheckpointHeader,
        state: &mut [u8; STATE_BYTES_MAX],
    ) -> Result<Reached, VolumeFault> {
        let total = header.total_bytes.get() as usize;
        let padded = self.layout.whole_units(total + self.layout.unit_bytes - 1);
        let read = self.work.state.get_mut(..padded).ok_or(VolumeFault::Damaged)?;
        self.disk.read(self.layout.start(self.area), read).map_err(|_| VolumeFault::Read)?;
        let object = read.get_mut(..total).ok_or(VolumeFault::Damaged)?;
        if CheckpointHeader::parse(object).as_ref() != Some(header) {
            return Err(VolumeFault::Damaged);
        }
        let digest = seal::chain(ObjectSort::Checkpoint, &header.previous, object);
        let body = seal::open(object, CheckpointHeader::BYTES, &header.name(), self.key)
            .map_err(|_| VolumeFault::Damaged)?;
        let state_bytes = unpack(body, state).ok_or(VolumeFault::Damaged)?;
        body.zeroize();
        self.held = self.layout.whole_units(total)..self.layout.whole_units(total);
        let head = Head { sequence: header.sequence.get(), digest };
        Ok(Reached { header: *header, head, token: header.token.get(), state_bytes })
    }

    /// Opens the record at `at` and applies it.
    fn record(
        &mut self,
        at: usize,
        reached: &mut Reached,
        state: &mut [u8; STATE_BYTES_MAX],
    ) -> Result<RecordHeader, VolumeFault> {
        let unit = reached.header.unit_bytes.get() as usize;
        let room = self.layout.area_bytes - at;
        let first = unit.min(room);
        let start = self.hold(at, first)?;
        let beginning = self.work.log.get(start..start + first).ok_or(VolumeFault::Bounds)?;
        let header = RecordHeader::read(beginning).ok_or(VolumeFault::RolledBack)?;
        let next = reached.head.sequence.checked_add(1).ok_or(VolumeFault::Damaged)?;
        let (numbered, linked) = (header.sequence.get() == next, header.previous == reached.head.digest);
        if !header.is_well_formed(unit, room) || !numbered || !linked || header.token.get() < reached.token {
            return Err(if numbered || linked { VolumeFault::Damaged } else { VolumeFault::RolledBack });
        }
        let total = header.total_bytes.get() as usize;
        let start = self.hold(at, total)?;
        let object = self.work.log.get_mut(start..start + total).ok_or(VolumeFault::Bounds)?;
        let digest = seal::chain(ObjectSort::Record, &reached.head.digest, object);
        let body = seal::open(object, RecordHeader::BYTES, &header.name(), self.key)
            .map_err(|_| VolumeFault::Damaged)?;
        let made = &mut self.work.state[..STATE_BYTES_MAX];
        let old = state.get(..reached.state_bytes).ok_or(VolumeFault::Bounds)?;
        let len = delta::apply(body, old, made).map_err(|_| VolumeFault::Damaged)?;
        let made = made.get(..len).ok_or(VolumeFault::Bounds)?;
        state.get_mut(..len).ok_or(VolumeFault::Bounds)?.copy_from_slice(made);
        reached.state_bytes = len;
        reached.head = Head { sequence: next, digest };
        reached.token = header.token.get();
        Ok(header)
    }

    /// Makes `work.log` hold the `len` bytes at `at`, which never moves backwards, and returns where in it they begin.
    /// What is held already is not read again: whole blocks before `at` are dropped, the rest moves to the front.
    fn hold(&mut self, at: usize, len: usize) -> Result<usize, VolumeFault> {
        if at + len > self.held.end {
            let dropped = self.layout.whole_units(at - self.held.start);
            let held = self.work.log.get_mut(..self.held.len()).ok_or(VolumeFault::Bounds)?;
            if dropped > held.len() {
                return Err(VolumeFault::Bounds);
            }
            held.copy_within(dropped.., 0);
            self.held.start += dropped;
            let filled = self.held.len();
            let room = (self.work.log.len() - filled).min(self.layout.area_bytes - self.held.end);
            let end = filled + self.layout.whole_units(room);
            let into = self.work.log.get_mut(filled..end).ok_or(VolumeFault::Bounds)?;
            let from = self.layout.start(self.area) + self.held.end as u64;
            self.disk.read(from, into).map_err(|_| VolumeFault::Read)?;
            self.held.end += into.len();
        }
        if at + len > self.held.end { Err(VolumeFault::Bounds) } else { Ok(at - self.held.start) }
    }
}

/// Copies the state out of a checkpoint's plaintext; `None` if it is not one.
fn unpack(body: &[u8], state: &mut [u8; STATE_BYTES_MAX]) -> Option<usize> {
    let (len, rest) = body.split_first_chunk::<STATE_LENGTH_BYTES>()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    let (found, padding) = rest.split_at_checked(len)?;
    state.get_mut(..len)?.copy_from_slice(found);
    padding.iter().all(|byte| *byte == 0).then_some(len)
}
