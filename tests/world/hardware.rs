//! What a machine of the stage stands on: a disk, a relay, a processor, dice, and that it may die at each step.

#[path = "../support/layout.rs"]
mod layout;

use super::{MEASUREMENT, Mishap, RamDisk, Stage};
use husk::seams::{
    Channel, ChannelError, Console, DerivedKeyRequest, Disk, DiskError, Entropy, EntropyError, Geometry,
    REPORT_BYTES, REPORT_DATA_BYTES, Reporter, ReporterError,
};
use husk::secret::Secret;
use layout::layout;
use std::cell::{Cell, RefCell};
use zerocopy::IntoBytes as _;

/// The hardware of one launch.
pub(super) struct Hardware<'s> {
    pub(super) stage: &'s Stage,
    pub(super) dead: &'s Cell<bool>,
    pub(super) report_id: [u8; 32],
}

impl Hardware<'_> {
    pub(super) fn dies(&self) {
        self.dead.set(true);
    }
}

pub(super) struct MortalDisk<'s, 'd> {
    pub(super) hardware: &'d Hardware<'s>,
    pub(super) disk: &'d RefCell<RamDisk>,
}

impl MortalDisk<'_, '_> {
    fn step(&self, act: impl FnOnce(&mut RamDisk) -> Result<(), DiskError>) -> Result<(), DiskError> {
        if self.hardware.dead.get() {
            return Err(DiskError);
        }
        let mishap = self.hardware.stage.step();
        if mishap == Some(Mishap::DiesBefore) {
            self.hardware.dies();
            return Err(DiskError);
        }
        act(&mut self.disk.borrow_mut())?;
        if mishap == Some(Mishap::DiesAfter) {
            self.hardware.dies();
            return Err(DiskError);
        }
        Ok(())
    }
}

impl Disk for MortalDisk<'_, '_> {
    fn geometry(&self) -> Geometry {
        self.disk.borrow().geometry()
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.disk.borrow_mut().read(offset, into)
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        self.step(|disk| disk.write(offset, from))
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.step(Disk::flush)
    }
}

pub(super) struct Relay<'s, 'd>(pub(super) &'d Hardware<'s>);

impl Channel for Relay<'_, '_> {
    fn exchange(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, ChannelError> {
        let Hardware { stage, dead, .. } = self.0;
        if dead.get() || stage.cut_off.get() {
            return Err(ChannelError::Unreachable);
        }
        let mishap = stage.step();
        match mishap {
            Some(Mishap::DiesBefore) => self.0.dies(),
            Some(Mishap::BrokerCrashesBefore) => stage.restart_broker(),
            _ => {}
        }
        if matches!(mishap, Some(Mishap::DiesBefore | Mishap::RequestLost | Mishap::BrokerCrashesBefore)) {
            return Err(ChannelError::Unreachable);
        }
        let answer = stage.beyond(request);
        match mishap {
            Some(Mishap::DiesAfter) => self.0.dies(),
            Some(Mishap::BrokerCrashesAfter) => stage.restart_broker(),
            Some(Mishap::ReplyLost) => {}
            _ => {
                reply[..answer.len()].copy_from_slice(&answer);
                return Ok(answer.len());
            }
        }
        Err(ChannelError::Unreachable)
    }
}

pub(super) struct Processor<'s, 'd>(pub(super) &'d Hardware<'s>);

impl Reporter for Processor<'_, '_> {
    fn report(
        &mut self,
        data: &[u8; REPORT_DATA_BYTES],
        report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), ReporterError> {
        let mut layout = layout(data);
        layout.measurement = MEASUREMENT;
        layout.host_data = self.0.stage.host_data;
        layout.report_id = self.0.report_id;
        report.copy_from_slice(layout.as_bytes());
        Ok(())
    }

    fn certificate(&mut self, _: &mut [u8]) -> usize {
        0
    }

    fn derived_key(&mut self, _: &DerivedKeyRequest) -> Result<Secret<32>, ReporterError> {
        Ok(Secret::take(&mut [0xC0 | self.0.stage.chip.get(); 32]))
    }
}

pub(super) struct Dice<'s, 'd>(pub(super) &'d Hardware<'s>);

impl Entropy for Dice<'_, '_> {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError> {
        self.0.stage.nature.draw(into);
        Ok(())
    }
}

pub(super) struct Silent;

impl Console for Silent {
    fn line(&mut self, _: &'static str, _: u32) {}
}
