//! The controller of the guest's disk, as far as the layer stands between: what its drives say of themselves.
//!
//! The guest moves its data by instructions (programmed I/O). The controller could write memory as a bus master, and never is one: `pci` keeps that bit off
//! and the ports of its transfers from the guest, which is what everything rests on. Here drives are made to say so, lest a driver wait for transfers that never end:
//! what a drive answers to IDENTIFY is read through the layer, which takes the transfer modes out of it (ATA8-ACS, INCITS 452-2009, section 7.16).

use core::ops::RangeInclusive;

/// The two channels of a controller in compatibility mode (PCI IDE Controller Specification 1.0, section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Ports 0x1F0 to 0x1F7.
    First,
    /// Ports 0x170 to 0x177.
    Second,
}

impl Channel {
    /// Both.
    pub const ALL: [Self; 2] = [Self::First, Self::Second];

    const fn base(self) -> u16 {
        match self {
            Self::First => 0x1F0,
            Self::Second => 0x170,
        }
    }

    /// The port to which commands are written, and which tells the status.
    #[must_use]
    pub const fn command(self) -> u16 {
        self.base() + 7
    }

    /// The port of the data, for accesses of up to four bytes.
    #[must_use]
    pub const fn data(self) -> RangeInclusive<u16> {
        self.base()..=self.base()
    }

    /// The channel whose command port that is.
    #[must_use]
    pub fn commanded_at(port: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.command() == port)
    }

    /// The channel whose data port that is.
    #[must_use]
    pub fn data_at(port: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.base() == port)
    }
}

/// IDENTIFY DEVICE and IDENTIFY PACKET DEVICE.
const IDENTIFY: [u32; 2] = [0xEC, 0xA1];
/// Words that a drive says of itself.
const WORDS: u16 = 256;
/// The word of capabilities, and its bit for DMA.
const CAPABILITIES: u16 = 49;
const CAN_DMA: u16 = 1 << 8;
/// The word that says which words mean something, and its bit for the one of Ultra DMA.
const VALID: u16 = 53;
const ULTRA_IS_VALID: u16 = 1 << 2;
/// The words of single-word, multiword and Ultra DMA modes, and that of TRIM, which is a transfer by the controller too (ATA8-ACS-2, INCITS 482-2012, sections 7.5 and 7.12).
const MODES: [u16; 4] = [62, 63, 88, 169];
/// A checksum over the others, if the drive has one: it has none here.
const INTEGRITY: u16 = 255;

/// What drives are telling of themselves: which word is next, by channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drives([Option<u16>; 2]);

impl Drives {
    /// A command was written: whether what the drive answers is to be read through the layer.
    pub fn command(&mut self, channel: Channel, command: u32) -> bool {
        let identifies = IDENTIFY.contains(&command);
        self.0[channel as usize] = identifies.then_some(0);
        identifies
    }

    /// The next word of what a drive says of itself, in place of `said`; and whether more follow.
    pub fn word(&mut self, channel: Channel, said: u16) -> (u16, bool) {
        let next = &mut self.0[channel as usize];
        let Some(at) = *next else { return (said, false) };
        *next = (at + 1 < WORDS).then_some(at + 1);
        let shown = match at {
            CAPABILITIES => said & !CAN_DMA,
            VALID => said & !ULTRA_IS_VALID,
            INTEGRITY => 0,
            _ if MODES.contains(&at) => 0,
            _ => said,
        };
        (shown, next.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::{Channel, Drives};
    use std::vec::Vec;

    #[test]
    fn a_drive_knows_no_transfer_by_itself() {
        for (channel, identify) in [(Channel::First, 0xEC), (Channel::Second, 0xA1)] {
            let mut drives = Drives::default();
            assert!(drives.command(channel, identify));
            let told: Vec<(u16, bool)> = (0..256).map(|_| drives.word(channel, 0xFFFF)).collect();
            for (at, (word, more)) in told.iter().enumerate() {
                let kept = match at {
                    49 => 0xFEFF,
                    53 => 0xFFFB,
                    62 | 63 | 88 | 169 | 255 => 0,
                    _ => 0xFFFF,
                };
                assert_eq!((*word, *more), (kept, at < 255), "word {at}");
            }
            assert_eq!(drives.word(channel, 0xFFFF), (0xFFFF, false), "data of a sector");
        }
    }

    #[test]
    fn another_command_ends_it_and_the_other_channel_is_another_drive() {
        let mut drives = Drives::default();
        assert!(drives.command(Channel::First, 0xEC));
        assert!(!drives.command(Channel::Second, 0x20), "READ SECTORS");
        assert!(drives.word(Channel::First, 1).1);
        assert!(!drives.command(Channel::First, 0x20));
        assert_eq!(drives.word(Channel::First, 1), (1, false));
    }

    #[test]
    fn channels_are_known_by_their_ports() {
        for channel in Channel::ALL {
            assert_eq!(Channel::commanded_at(channel.command()), Some(channel));
            assert_eq!(Channel::data_at(*channel.data().start()), Some(channel));
        }
        assert_eq!((Channel::First.command(), Channel::Second.command()), (0x1F7, 0x177));
        assert_eq!((Channel::commanded_at(0x1F0), Channel::data_at(0x1F7)), (None, None));
    }
}
