//! What a component finds around it: a disk that forgets what was not flushed, a relay, a processor, a clock. What becomes
//! of each step is the driver's to say.

#[path = "../support/layout.rs"]
mod layout;

use crate::pipe::{self, fate, number, step, told};
use crate::post::post;
use husk::seams::{
    Channel, ChannelError, Clock, Console, Disk, DiskError, Entropy, EntropyError, Geometry, Platform,
    REPORT_BYTES, REPORT_DATA_BYTES, Reporter, ReporterError,
};
use layout::layout;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Stdin, Stdout};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use zerocopy::IntoBytes;

/// What the disk writes at once.
const BLOCK_BYTES: usize = 512;
/// MEASUREMENT of every launch.
pub(crate) const MEASUREMENT: [u8; 48] = [7; 48];

static DRAWS: AtomicU64 = AtomicU64::new(0);

/// SplitMix64 over a counter: every byte of a launch comes from its seed.
pub(crate) fn draw(into: &mut [u8]) -> Result<(), EntropyError> {
    for chunk in into.chunks_mut(8) {
        let mut z = DRAWS.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
    }
    Ok(())
}

/// The pipe to the driver, and the time that it said last.
pub(crate) struct Link {
    ends: RefCell<(Stdin, Stdout)>,
    now_ms: Cell<u64>,
}

impl Link {
    pub(crate) fn open() -> Self {
        Self { ends: RefCell::new((io::stdin(), io::stdout())), now_ms: Cell::new(0) }
    }

    /// The driver's next message, without the time; the process ends where the driver does.
    pub(crate) fn receive(&self) -> (u8, Vec<u8>) {
        let Ok(mut message) = pipe::receive(&mut self.ends.borrow_mut().0) else { std::process::exit(0) };
        self.now_ms.set(number(&message, 1));
        let rest = message.split_off(9);
        (message[0], rest)
    }

    pub(crate) fn send(&self, parts: &[&[u8]]) {
        if pipe::send(&mut self.ends.borrow_mut().1, parts).is_err() {
            std::process::exit(0);
        }
    }

    fn step(&self, kind: u8, frame: &[u8]) -> (u8, u64) {
        self.send(&[&[told::STEP, kind], frame]);
        let (fate, choice) = self.receive();
        (fate, number(&choice, 0))
    }
}

impl Clock for Link {
    fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }
}

/// How the driver sets up a launch.
pub(crate) struct Launch {
    pub(crate) port: u16,
    pub(crate) has_clock: bool,
    /// The disk says that it flushed, and did not: the mutant.
    pub(crate) disk_lies: bool,
    pub(crate) report_id: [u8; 32],
    pub(crate) host_data: [u8; 32],
}

/// A disk whose cache is lost with the process, but for the blocks that the driver chooses.
pub(crate) struct CachedDisk {
    file: File,
    seen: Vec<u8>,
    cached: Vec<(usize, usize)>,
}

impl CachedDisk {
    fn perish(&self, choice: u64) -> ! {
        let blocks = self.cached.iter().flat_map(|(at, bytes)| (*at..at + bytes).step_by(BLOCK_BYTES));
        for (number, at) in blocks.enumerate() {
            if choice >> (number % 64) & 1 == 1 {
                let end = self.seen.len().min(at + BLOCK_BYTES);
                self.file.write_all_at(&self.seen[at..end], at as u64).expect("the disk's file takes it");
            }
        }
        std::process::exit(9)
    }
}

/// Everything around one launch.
pub(crate) struct Hardware<'l> {
    link: &'l Link,
    launch: Launch,
    disk: RefCell<CachedDisk>,
}

impl<'l> Hardware<'l> {
    pub(crate) fn new(link: &'l Link, launch: Launch, seed: u64, disk: File) -> io::Result<Self> {
        DRAWS.store(seed, Ordering::SeqCst);
        let mut seen = vec![0; usize::try_from(disk.metadata()?.len()).map_err(io::Error::other)?];
        disk.read_exact_at(&mut seen, 0)?;
        Ok(Self { link, launch, disk: RefCell::new(CachedDisk { file: disk, seen, cached: Vec::new() }) })
    }

    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut Platform<'_>) -> R) -> R {
        act(&mut Platform {
            disk: &mut { self },
            channel: &mut { self },
            reporter: &mut { self },
            entropy: &mut { self },
            clock: self.launch.has_clock.then_some(self.link),
            console: &mut { self },
        })
    }

    /// Whether the step goes well; the process may end here.
    fn passes(&self, kind: u8, frame: &[u8]) -> bool {
        match self.link.step(kind, frame) {
            (fate::PASS, _) => true,
            (fate::DIE, choice) => self.disk.borrow().perish(choice),
            _ => false,
        }
    }
}

impl Disk for &Hardware<'_> {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: self.disk.borrow().seen.len() as u64, block_bytes: 512 }
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let (disk, at) = (self.disk.borrow(), usize::try_from(offset).map_err(|_| DiskError)?);
        into.copy_from_slice(disk.seen.get(at..at + into.len()).ok_or(DiskError)?);
        Ok(())
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        self.passes(step::WRITE, &[]);
        let at = usize::try_from(offset).map_err(|_| DiskError)?;
        let mut disk = self.disk.borrow_mut();
        disk.seen.get_mut(at..at + from.len()).ok_or(DiskError)?.copy_from_slice(from);
        disk.cached.push((at, from.len()));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.passes(step::FLUSH, &[]);
        if !self.launch.disk_lies {
            let mut disk = self.disk.borrow_mut();
            for (at, bytes) in std::mem::take(&mut disk.cached) {
                disk.file.write_all_at(&disk.seen[at..at + bytes], at as u64).map_err(|_| DiskError)?;
            }
        }
        self.passes(step::FLUSHED, &[]);
        Ok(())
    }
}

impl Channel for &Hardware<'_> {
    fn exchange(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, ChannelError> {
        if !self.passes(step::REQUEST, request) {
            return Err(ChannelError::Unreachable);
        }
        let answer = post(self.launch.port, request);
        if !self.passes(step::REPLY, &[]) {
            return Err(ChannelError::Unreachable);
        }
        let answer = answer.map_err(|_| ChannelError::Unreachable)?;
        reply.get_mut(..answer.len()).ok_or(ChannelError::Unreachable)?.copy_from_slice(&answer);
        Ok(answer.len())
    }
}

impl Reporter for &Hardware<'_> {
    fn report(
        &mut self,
        data: &[u8; REPORT_DATA_BYTES],
        report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), ReporterError> {
        let mut layout = layout(data);
        layout.measurement = MEASUREMENT;
        layout.host_data = self.launch.host_data;
        layout.report_id = self.launch.report_id;
        report.copy_from_slice(layout.as_bytes());
        Ok(())
    }

    fn certificate(&mut self, _: &mut [u8]) -> usize {
        0
    }
}

impl Entropy for &Hardware<'_> {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError> {
        draw(into)
    }
}

impl Console for &Hardware<'_> {
    fn line(&mut self, _: &'static str, _: u32) {}
}
