//! A disk that an enemy owns, in memory.
//!
//! What it does to writes that no flush has covered, one at a time and all of them over a test:
//! - keeps the first n bytes, for every n; or the bytes from n on; or none; or all
//! - keeps the first n bytes and leaves rubbish in the whole physical block where it stopped
//! - keeps any subset of the physical blocks (every second, the other second, in any order)
//! - with several writes pending, drops any of them and keeps the others
//!
//! What it does to everything: fails any one request; takes snapshots and puts them back; lets a test alter any byte.
//! It counts requests and bytes.

use husk::seams::{Disk, DiskError, Geometry};
use std::ops::Range;

/// What a test replays to make every crash.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    /// Bytes at an offset.
    Write(usize, Vec<u8>),
    /// Everything before is durable.
    Flush,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) reads: usize,
    pub(crate) bytes_read: usize,
    pub(crate) writes: usize,
    pub(crate) bytes_written: usize,
    pub(crate) flushes: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct SimDisk {
    pub(crate) image: Vec<u8>,
    pub(crate) block: usize,
    /// Since the last call of [`SimDisk::take_trace`].
    pub(crate) trace: Vec<Request>,
    pub(crate) counts: Counts,
    /// The request (reads, writes and flushes counted together from now) that fails.
    pub(crate) fails_at: Option<usize>,
}

impl SimDisk {
    pub(crate) fn new(size: usize, block: usize) -> Self {
        Self { image: vec![0; size], block, trace: Vec::new(), counts: Counts::default(), fails_at: None }
    }

    pub(crate) fn take_trace(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.trace)
    }

    pub(crate) fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    fn request(&mut self, offset: u64, len: usize) -> Result<Range<usize>, DiskError> {
        match &mut self.fails_at {
            Some(0) => return Err(DiskError),
            Some(left) => *left -= 1,
            None => {}
        }
        let start = usize::try_from(offset).map_err(|_| DiskError)?;
        assert!(
            start.is_multiple_of(self.block) && len.is_multiple_of(self.block),
            "unaligned: {start} + {len}"
        );
        if start + len <= self.image.len() { Ok(start..start + len) } else { Err(DiskError) }
    }
}

impl Disk for SimDisk {
    fn geometry(&self) -> Geometry {
        let block_bytes = u32::try_from(self.block).expect("a block is small");
        Geometry { size_bytes: self.image.len() as u64, block_bytes }
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let range = self.request(offset, into.len())?;
        self.counts.reads += 1;
        self.counts.bytes_read += into.len();
        into.copy_from_slice(&self.image[range]);
        Ok(())
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        let range = self.request(offset, from.len())?;
        self.counts.writes += 1;
        self.counts.bytes_written += from.len();
        self.trace.push(Request::Write(range.start, from.to_vec()));
        self.image[range].copy_from_slice(from);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.request(0, 0)?;
        self.counts.flushes += 1;
        self.trace.push(Request::Flush);
        Ok(())
    }
}

/// Where tears happen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tears {
    /// The device's physical block in bytes.
    pub(crate) block: usize,
    /// A tear at every multiple of so many bytes.
    pub(crate) step: usize,
}

/// Calls `check` with every image that a power cut during `trace` may leave of a disk that held `before`, and with the
/// number of flushes that had returned by then.
pub(crate) fn every_crash(
    before: &[u8],
    trace: &[Request],
    tears: Tears,
    mut check: impl FnMut(Vec<u8>, usize),
) {
    let (mut durable, mut pending, mut flushes) = (before.to_vec(), Vec::new(), 0);
    for request in trace {
        match request {
            Request::Write(at, data) => {
                for kept in 0..1_u32 << pending.len() {
                    let mut base = durable.clone();
                    keep(&mut base, &pending, kept);
                    torn(&base, (*at, data), tears, |image| check(image, flushes));
                }
                pending.push((*at, data.as_slice()));
            }
            Request::Flush => {
                keep(&mut durable, &pending, u32::MAX);
                pending.clear();
                flushes += 1;
                check(durable.clone(), flushes);
            }
        }
    }
}

fn keep(image: &mut [u8], pending: &[(usize, &[u8])], which: u32) {
    for (bit, (at, data)) in pending.iter().enumerate() {
        if which >> bit & 1 == 1 {
            image[*at..at + data.len()].copy_from_slice(data);
        }
    }
}

/// Every way in which one write may be caught half done.
fn torn(base: &[u8], (at, data): (usize, &[u8]), tears: Tears, mut yields: impl FnMut(Vec<u8>)) {
    for n in (0..=data.len()).step_by(tears.step) {
        let mut prefix = base.to_vec();
        prefix[at..at + n].copy_from_slice(&data[..n]);
        let mut suffix = base.to_vec();
        suffix[at + n..at + data.len()].copy_from_slice(&data[n..]);
        let mut rubbish = prefix.clone();
        if n < data.len() {
            let block = (at + n) / tears.block * tears.block;
            rubbish[block..block + tears.block].fill(0xDB);
        }
        [prefix, suffix, rubbish].into_iter().for_each(&mut yields);
    }
    for parity in 0..2 {
        let mut scattered = base.to_vec();
        for (block, bytes) in data.chunks(tears.block).enumerate().filter(|(block, _)| block % 2 == parity) {
            scattered[at + block * tears.block..][..bytes.len()].copy_from_slice(bytes);
        }
        yields(scattered);
    }
}
