//! The machine on a page of a guest's RAM.
//!
//! **What.** A thread polls the CRB registers in a file that is the guest's RAM (QEMU: `memory-backend-file,share=on`)
//! and serves what the guest asks for. A second one watches TPM_CRB_CTRL_CANCEL while a command runs, since the first
//! is busy then.
//! **Trust.** None in the page: see [`husk::frontend::crb`].
//! **Laws.** The poller spins while a guest is talking and sleeps ever longer, to a bound, while it is not.
//! **Not here.** Hiding the page from the guest's allocator: its kernel gets `memmap=`, or a reserved range from its
//! firmware.

use crate::serving::Serving;
use crate::sys::Mapping;
use husk::engine::Locality;
use husk::fault::Fault;
use husk::frontend::Tpm;
use husk::frontend::crb::registers::CTRL_CANCEL;
use husk::frontend::crb::{Buffer, Identity, Layout, Localities, Shared, Work};
use husk::seams::GuestPage;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Polls without a rest after the last thing a guest did: some 100 µs, the pace of a driver in the middle of a command.
const SPINS: u32 = 2_000;
/// The first sleep after those, in microseconds; each next one is twice as long.
const SLEEP_US_MIN: u64 = 10;
/// The longest sleep, in microseconds: what the first register write after a pause may wait.
const SLEEP_US_MAX: u64 = 1_000;
/// How often a running command is checked for a cancel, in microseconds.
const WATCH_US: u64 = 500;

/// How this CRB names itself: no vendor has an identifier for it, so QEMU's vendor of virtual devices and 'HK'.
const IDENTITY: Identity = Identity { vendor: 0x1AF4, device: 0x4B48, revision: 0 };

/// Why a page cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// The address cannot hold a CRB.
    #[error("no CRB can lie at 0x{at:x}; use a page-aligned address below 4 GiB")]
    Address {
        /// Guest-physical address.
        at: u64,
    },
    /// The memory file does not open or map.
    #[error("cannot use the guest's memory file {path}: {error}")]
    Memory {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The page is not inside the file.
    #[error(
        "the memory file {path} has {file_bytes} bytes and the CRB would end at 0x{end:x}; make the file as large as \
         the guest's RAM before, and keep the page below the RAM's end"
    )]
    Outside {
        /// Which file.
        path: PathBuf,
        /// How large it is.
        file_bytes: u64,
        /// Where the page would end.
        end: u64,
    },
}

/// Where a guest with little RAM finds its CRB: locality 0, the buffer in its register page, which every driver can use.
///
/// # Errors
/// [`SharedError::Address`].
pub fn layout(at: u64) -> Result<Layout, SharedError> {
    Layout::new(at, Localities::Zero, Buffer::InPage, IDENTITY).map_err(|_| SharedError::Address { at })
}

/// The shared pages. Guest-physical addresses are offsets into the memory file: so it is below 2 GiB on every PC that
/// QEMU makes.
#[expect(missing_debug_implementations, reason = "a mapping of a guest's memory")]
#[derive(Clone)]
pub struct Window(Arc<Mapping>);

impl Window {
    /// Maps the pages of `layout` in the memory file at `path`.
    ///
    /// # Errors
    /// [`SharedError`].
    pub fn open(path: &Path, layout: &Layout) -> Result<Self, SharedError> {
        let failed = |error| SharedError::Memory { path: path.to_path_buf(), error };
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        let file_bytes = file.metadata().map_err(failed)?.len();
        let end = u64::from(layout.base()) + layout.window_bytes() as u64;
        if end > file_bytes {
            return Err(SharedError::Outside { path: path.to_path_buf(), file_bytes, end });
        }
        Self::map(&file, u64::from(layout.base()), layout).map_err(failed)
    }

    /// Maps the pages of `layout` at `offset` bytes into `file`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn map(file: &File, offset: u64, layout: &Layout) -> io::Result<Self> {
        Mapping::new(file, offset, layout.window_bytes()).map(|mapping| Self(Arc::new(mapping)))
    }
}

impl GuestPage for Window {
    fn size_bytes(&self) -> usize {
        self.0.bytes()
    }

    fn load(&self, offset: usize) -> u32 {
        self.0.load(offset)
    }

    fn store(&mut self, offset: usize, value: u32) {
        self.0.store(offset, value);
    }

    fn copy_in(&self, offset: usize, into: &mut [u8]) {
        self.0.copy_in(offset, into);
    }

    fn copy_out(&mut self, offset: usize, from: &[u8]) {
        self.0.copy_out(offset, from);
    }
}

/// The threads that serve one window, until [`Serving::end`].
#[derive(Debug)]
pub struct Poller {
    threads: Vec<JoinHandle<()>>,
}

impl Poller {
    /// Writes the registers and serves them from now on.
    #[must_use]
    pub fn start(serving: &Arc<Serving>, layout: Layout, window: Window) -> Self {
        let running = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        if serving.can_cancel() {
            let (serving, window, running) = (Arc::clone(serving), window.clone(), Arc::clone(&running));
            threads.push(thread::spawn(move || watch(&serving, &window, &running)));
        }
        let serving = Arc::clone(serving);
        threads.push(thread::spawn(move || poll(&serving, layout, window, &running)));
        Self { threads }
    }

    /// After [`Serving::end`]: returns when the page is left alone.
    pub fn stop(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                eprintln!("vtpmd: a thread of the shared page had failed");
            }
        }
    }
}

fn poll(serving: &Serving, layout: Layout, mut window: Window, running: &AtomicBool) {
    let mut work = Box::new(Work::EMPTY);
    let mut crb = Shared::new(layout, &mut work);
    let mut tpm = Watched { serving, running };
    let mut power_cycles = serving.power_cycles();
    let mut idle = Idle::default();
    crb.reset(&mut window, &mut tpm);
    while !serving.is_over() {
        if serving.power_cycles() != power_cycles {
            power_cycles = serving.power_cycles();
            crb.reset(&mut window, &mut tpm);
        }
        if crb.poll(&mut window, &mut tpm) {
            idle = Idle::default();
        } else {
            idle.rest();
        }
    }
}

/// How long nobody has asked for anything.
#[derive(Default)]
struct Idle {
    polls: u32,
    sleep_us: u64,
}

impl Idle {
    fn rest(&mut self) {
        if self.polls < SPINS {
            self.polls += 1;
            std::hint::spin_loop();
            return;
        }
        self.sleep_us = (self.sleep_us * 2).clamp(SLEEP_US_MIN, SLEEP_US_MAX);
        thread::sleep(Duration::from_micros(self.sleep_us));
    }
}

/// The machine, saying when a command runs.
struct Watched<'a> {
    serving: &'a Serving,
    running: &'a AtomicBool,
}

impl Tpm for Watched<'_> {
    fn execute(&mut self, locality: Locality, command: &[u8], response: &mut [u8]) -> usize {
        self.running.store(true, Ordering::Release);
        let bytes = self.serving.execute(locality, command, response);
        self.running.store(false, Ordering::Release);
        bytes
    }

    fn established(&mut self) -> bool {
        self.serving.established()
    }

    fn reset_established(&mut self, locality: Locality) -> Result<(), Fault> {
        self.serving.reset_established(locality)
    }

    fn hash_start(&mut self) -> Result<(), Fault> {
        self.serving.hash_start()
    }

    fn hash_data(&mut self, data: &[u8]) -> Result<(), Fault> {
        self.serving.hash_data(data)
    }

    fn hash_end(&mut self) -> Result<(), Fault> {
        self.serving.hash_end()
    }
}

/// Passes a cancel on, once for each time that it is set during a command. One that is meant for a command just over
/// may reach the next, as on any TPM: a driver clears the register before it starts another.
fn watch(serving: &Serving, window: &Window, running: &AtomicBool) {
    let mut passed_on = false;
    while !serving.is_over() {
        let wanted = running.load(Ordering::Acquire) && window.load(CTRL_CANCEL) & 1 != 0;
        if wanted && !passed_on {
            serving.cancel();
        }
        passed_on = wanted;
        thread::sleep(Duration::from_micros(WATCH_US));
    }
}
