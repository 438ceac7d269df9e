//! One life of the TPM, as its clients share it: where it is, when it ends, who owns it.

use super::client::Client;
use super::dice::Dice;
use super::link::Link;
use super::memory::{Memory, WARM_UP};
use super::model::{INDICES, KEYS};
use crate::failure::Failure;
use crate::process::Daemon;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::sleep;
use std::time::Duration;

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// SIGKILL while commands run.
    Kill,
    /// TPM2_Shutdown, SIGTERM.
    Order,
}

/// What outlives a life.
#[derive(Debug)]
pub(super) struct Lasting {
    owner: RwLock<Vec<u8>>,
    /// What the owner's password also may be, if the command that changes it was lost.
    or_owner: Mutex<Option<Vec<u8>>>,
    failures: AtomicU32,
}

impl Lasting {
    pub(super) const fn new() -> Self {
        Self { owner: RwLock::new(Vec::new()), or_owner: Mutex::new(None), failures: AtomicU32::new(0) }
    }

    /// The passwords that the owner may have, the surest first.
    pub(super) fn owners(&self) -> Vec<Vec<u8>> {
        let owner = read(&self.owner).clone();
        [Some(owner), lock(&self.or_owner).clone()].into_iter().flatten().collect()
    }

    /// One of them is it.
    pub(super) fn settle_owner(&self, owner: Vec<u8>) {
        *write(&self.owner) = owner;
        *lock(&self.or_owner) = None;
    }
}

/// One life.
#[derive(Debug)]
pub(super) struct World<'l> {
    socket: PathBuf,
    process: Mutex<Option<Daemon>>,
    end: End,
    /// How many commands are sent in this life, and how many were.
    commands: u64,
    sent: AtomicU64,
    killed: AtomicBool,
    memory: Mutex<Memory>,
    lasting: &'l Lasting,
    /// What there is to name.
    pub(super) indices: Vec<u32>,
    pub(super) keys: Vec<u32>,
}

/// The number of a command in its life, from 1.
pub(super) type Turn = u64;

impl<'l> World<'l> {
    pub(super) fn new(
        socket: PathBuf,
        process: Daemon,
        (end, commands): (End, u64),
        clients: usize,
        lasting: &'l Lasting,
    ) -> Self {
        let indices = (0..clients).flat_map(|of| (0..INDICES).map(move |at| Client::index(of, at))).collect();
        let keys = (0..clients).flat_map(|of| (0..KEYS).map(move |at| Client::key(of, at))).collect();
        Self {
            socket,
            process: Mutex::new(Some(process)),
            end,
            commands,
            sent: AtomicU64::new(0),
            killed: AtomicBool::new(false),
            memory: Mutex::new(Memory::default()),
            lasting,
            indices,
            keys,
        }
    }

    pub(super) fn link(&self) -> Result<Link<'_>, Failure> {
        Link::connect(&self.socket, &self.killed)
    }

    /// A further connection; none if the TPM was killed meanwhile.
    pub(super) fn link_if_alive(&self) -> Result<Option<Link<'_>>, Failure> {
        match self.link() {
            Err(_) if self.killed.load(Ordering::SeqCst) => Ok(None),
            link => link.map(Some),
        }
    }

    /// The right to send one more command in this life.
    pub(super) fn turn(&self) -> Option<Turn> {
        let turn = self.sent.fetch_add(1, Ordering::SeqCst) + 1;
        (turn <= self.commands && !self.killed.load(Ordering::SeqCst)).then_some(turn)
    }

    /// Called when a command was sent: looks at the memory, and ends the life where its time has come.
    pub(super) fn after_sending(&self, turn: Turn, dice: &mut Dice) {
        if turn == WARM_UP.min(self.commands) {
            self.weigh();
        }
        if turn == self.commands && self.end == End::Kill {
            self.weigh();
            sleep(Duration::from_micros(dice.next() % 4000));
            self.killed.store(true, Ordering::SeqCst);
            drop(lock(&self.process).take());
        }
    }

    /// Takes a reading of the process' memory.
    pub(super) fn weigh(&self) {
        if let Some(process) = lock(&self.process).as_ref() {
            lock(&self.memory).weigh(process.id());
        }
    }

    /// The process, if it was not killed, and how its memory went.
    pub(super) fn over(self) -> (Option<Daemon>, Memory) {
        let process = self.process.into_inner().unwrap_or_else(PoisonError::into_inner);
        (process, self.memory.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many commands were sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst).min(self.commands)
    }

    /// The owner's password. While it is held nobody changes it.
    pub(super) fn owner(&self) -> RwLockReadGuard<'l, Vec<u8>> {
        read(&self.lasting.owner)
    }

    /// The owner's password. While it is held nobody else uses it.
    pub(super) fn owner_alone(&self) -> RwLockWriteGuard<'l, Vec<u8>> {
        write(&self.lasting.owner)
    }

    pub(super) fn owner_may_become(&self, owner: Option<Vec<u8>>) {
        *lock(&self.lasting.or_owner) = owner;
    }

    /// The most failed authorizations that the TPM has admitted to.
    pub(super) fn failures_at_least(&self) -> u32 {
        self.lasting.failures.load(Ordering::SeqCst)
    }

    pub(super) fn saw_failures(&self, count: u32) {
        self.lasting.failures.fetch_max(count, Ordering::SeqCst);
    }
}

/// A thread that failed has said so; what it held is as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
