//! A whole component on a disk, whose machine or channel fails in the middle of certification.

use super::{Host, World};
use crate::nothing::Nothing;
use crate::tpm_memory::memory;
use husk::engine::reference::ReferenceEngine;
use husk::engine::{COMMAND_BYTES_MAX, Locality, ResponseCode};
use husk::fault::Fault;
use husk::seams::{Channel, ChannelError, Disk, DiskError, Geometry, Platform};
use husk::vtpm::{Certification, Cold};
use husk_broker::ids::VmName;
use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;

/// What fails, counted from where certification begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fails {
    Nothing,
    /// An exchange's request does not arrive.
    Request(usize),
    /// An exchange's reply does not arrive.
    Reply(usize),
    /// The machine dies at a write.
    Write(usize),
}

/// What there is, and what is to fail.
struct Mortal<'h> {
    host: &'h Host<'h>,
    disk: &'h RefCell<Vec<u8>>,
    fails: Cell<Fails>,
    exchanges: Cell<usize>,
    writes: Cell<usize>,
    dead: Cell<bool>,
}

fn count(counter: &Cell<usize>) -> usize {
    let number = counter.get();
    counter.set(number + 1);
    number
}

impl Channel for &Mortal<'_> {
    fn exchange(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, ChannelError> {
        let number = count(&self.exchanges);
        if self.dead.get() || self.fails.get() == Fails::Request(number) {
            return Err(ChannelError::Unreachable);
        }
        let length = (&mut &*self.host).exchange(request, reply)?;
        if self.fails.get() == Fails::Reply(number) { Err(ChannelError::Unreachable) } else { Ok(length) }
    }
}

impl Disk for &Mortal<'_> {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: u64::try_from(self.disk.borrow().len()).unwrap(), block_bytes: 512 }
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let at = usize::try_from(offset).unwrap();
        into.copy_from_slice(&self.disk.borrow()[at..at + into.len()]);
        Ok(())
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        let number = count(&self.writes);
        self.dead.set(self.dead.get() || self.fails.get() == Fails::Write(number));
        if self.dead.get() {
            return Err(DiskError);
        }
        let at = usize::try_from(offset).unwrap();
        self.disk.borrow_mut()[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        if self.dead.get() { Err(DiskError) } else { Ok(()) }
    }
}

impl World {
    /// Launches `vm` on `disk`, has it certified while something fails, starts its TPM, and asks it for the NV index; the outcome, and the code.
    /// Nothing is shut down in order.
    pub(crate) fn boot(
        &self,
        vm: &VmName,
        (engine, disk): (ReferenceEngine, &RefCell<Vec<u8>>),
        fails: Fails,
        index: u32,
    ) -> Result<(Certification, u32), Fault> {
        let host = self.host(vm);
        let mut config = String::new();
        self.config(vm).write(&mut config).unwrap();
        let mortal = Mortal {
            host: &host,
            disk,
            fails: Cell::new(Fails::Nothing),
            exchanges: Cell::new(0),
            writes: Cell::new(0),
            dead: Cell::new(false),
        };
        let dice = &*self.dice;
        let (mut channel, mut volume, mut reporter, mut entropy) = (&mortal, &mortal, &host, dice);
        let mut platform = Platform {
            disk: &mut volume,
            channel: &mut channel,
            reporter: &mut reporter,
            entropy: &mut entropy,
            clock: Some(dice),
            console: &mut Nothing,
        };
        let platform = &mut platform;
        let identified = Cold::new(memory(), engine).identify(platform, config.as_bytes())?;
        let mut vtpm = identified.earn(platform, &mut |_| false)?;
        mortal.fails.set(fails);
        mortal.exchanges.set(0);
        mortal.writes.set(0);
        let outcome = vtpm.certify(platform)?;
        mortal.fails.set(Fails::Nothing);
        let mut buffer = [0; COMMAND_BYTES_MAX];
        let started = vtpm.execute(platform, Locality::Zero, &crate::tpm::startup_clear(), &mut buffer)?;
        assert_eq!(ResponseCode::of(started), ResponseCode::SUCCESS);
        let again = vtpm.certify(platform);
        assert!(again.is_err(), "never below a guest");
        let asked =
            vtpm.execute(platform, Locality::Zero, &crate::tpm::nv_read_public(index), &mut buffer)?;
        Ok((outcome, ResponseCode::of(asked).0))
    }

    /// What surrounds the next launch of `vm`; every lease before it is over.
    pub(super) fn host(&self, vm: &VmName) -> Host<'_> {
        self.dice.now_ms.fetch_add(10 * u64::from(super::LEASE_MS), Ordering::SeqCst);
        let launch = self.launches.get() + 1;
        self.launches.set(launch);
        Host {
            world: self,
            host_data: self.config(vm).host_data(),
            report_id: [launch; 32],
            report_digest: Cell::new([0; 48]),
        }
    }
}
