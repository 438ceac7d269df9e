//! What tells a guest's kernel where the CRB is: the TPM2 table and an SSDT with the MSFT0101 device.
//!
//! **What.** [`tpm2_table`] and [`ssdt`] write whole tables into a caller's buffer.
//! **Trust.** Nothing comes in but our own layout; who carries the bytes to the guest can of course alter them.
//! **Laws.** Every table states its own length and sums to zero.
//! **Not here.** Linking the tables into the guest's RSDT: the firmware or the hypervisor does that.

use super::FrontendFault;
use super::crb::Layout;

/// No table is longer than this, in bytes.
pub const TABLE_BYTES_MAX: usize = 256;

/// Where a header states the table's length and its checksum (ACPI 6.5, table "DESCRIPTION_HEADER").
const LENGTH_AT: usize = 4;
const CHECKSUM_AT: usize = 9;
/// TPM2 table, field "Start Method" (TCG ACPI Specification 1.3): the Command Response Buffer interface.
const START_METHOD_CRB: u32 = 7;
/// Size of TPM2's start method parameters in bytes: none are used with the CRB.
const START_PARAMETERS_BYTES: usize = 12;

/// Where firmware left the guest's event log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventLog {
    /// Guest-physical address.
    pub address: u64,
    /// Size of the area in bytes.
    pub area_bytes: u32,
}

/// Writes the TPM2 table into `into` and returns its length in bytes.
///
/// # Errors
/// [`FrontendFault::TableTooLarge`] if `into` is shorter than the table.
pub fn tpm2_table(layout: &Layout, log: Option<EventLog>, into: &mut [u8]) -> Result<usize, FrontendFault> {
    let mut table = Table::open(b"TPM2", 4, into);
    let platform_class_client = [0, 0];
    let reserved = [0, 0];
    table.put(&platform_class_client);
    table.put(&reserved);
    table.put(&layout.control_area().to_le_bytes());
    table.put(&START_METHOD_CRB.to_le_bytes());
    table.put(&[0; START_PARAMETERS_BYTES]);
    if let Some(log) = log {
        table.put(&log.area_bytes.to_le_bytes());
        table.put(&log.address.to_le_bytes());
    }
    table.close()
}

/// Writes an SSDT with the TPM device into `into` and returns its length in bytes.
///
/// # Errors
/// [`FrontendFault::TableTooLarge`] if `into` is shorter than the table.
pub fn ssdt(layout: &Layout, into: &mut [u8]) -> Result<usize, FrontendFault> {
    let mut table = Table::open(b"SSDT", 2, into);
    let scope = table.begin(&[aml::SCOPE]);
    table.put(b"\\_SB_");
    let device = table.begin(&[aml::EXTENDED, aml::DEVICE]);
    table.put(b"TPM0");
    table.name(b"_HID", &[aml::STRING]);
    table.put(b"MSFT0101\0");
    table.name(b"_STR", &[]);
    table.unicode("TPM 2.0");
    table.name(b"_UID", &[aml::ONE]);
    table.name(b"_CRS", &[]);
    table.buffer(&resources(layout));
    table.name(b"_STA", &[aml::BYTE, 0x0F]);
    table.end(device);
    table.end(scope);
    table.close()
}

/// A resource template: Memory32Fixed, read-write, then the end tag with the checksum that means 'none' (ACPI 6.5,
/// sections "32-Bit Fixed Memory Range Descriptor" and "End Tag").
fn resources(layout: &Layout) -> [u8; 14] {
    let mut bytes = [0x86, 9, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x79, 0];
    #[expect(clippy::cast_possible_truncation, reason = "six pages at most")]
    let window_bytes = layout.window_bytes() as u32;
    bytes[4..8].copy_from_slice(&layout.base().to_le_bytes());
    bytes[8..12].copy_from_slice(&window_bytes.to_le_bytes());
    bytes
}

/// Opcodes (ACPI 6.5, section "AML Encoding").
mod aml {
    pub(super) const ONE: u8 = 0x01;
    pub(super) const NAME: u8 = 0x08;
    pub(super) const BYTE: u8 = 0x0A;
    pub(super) const STRING: u8 = 0x0D;
    pub(super) const SCOPE: u8 = 0x10;
    pub(super) const BUFFER: u8 = 0x11;
    pub(super) const EXTENDED: u8 = 0x5B;
    pub(super) const DEVICE: u8 = 0x82;
}

/// A table being written. What does not fit is counted, so that [`close`](Self::close) can tell.
struct Table<'b> {
    into: &'b mut [u8],
    length: usize,
}

impl<'b> Table<'b> {
    /// Writes the header; length and checksum follow at the end.
    fn open(signature: &[u8; 4], revision: u8, into: &'b mut [u8]) -> Self {
        let mut table = Self { into, length: 0 };
        table.put(signature);
        table.put(&[0; 4]);
        table.put(&[revision, 0]);
        table.put(b"HUSK  ");
        table.put(b"HUSKVTPM");
        table.put(&1u32.to_le_bytes());
        table.put(b"HUSK");
        table.put(&1u32.to_le_bytes());
        table
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(room) = self.into.get_mut(self.length..self.length + bytes.len()) {
            room.copy_from_slice(bytes);
        }
        self.length += bytes.len();
    }

    /// Writes `opcode` and leaves room for a package length of two bytes; [`end`](Self::end) fills it in.
    fn begin(&mut self, opcode: &[u8]) -> usize {
        self.put(opcode);
        let package = self.length;
        self.put(&[0, 0]);
        package
    }

    /// The two-byte form of PkgLength: 01 in bits 7:6, the low nibble, then eight higher bits; it counts itself.
    fn end(&mut self, package: usize) {
        let bytes = (self.length - package) & 0xFFF;
        if let Some(room) = self.into.get_mut(package..package + 2) {
            #[expect(clippy::cast_possible_truncation, reason = "masked to twelve bits")]
            room.copy_from_slice(&[0x40 | (bytes & 0xF) as u8, (bytes >> 4) as u8]);
        }
    }

    fn name(&mut self, name: &[u8; 4], value: &[u8]) {
        self.put(&[aml::NAME]);
        self.put(name);
        self.put(value);
    }

    fn buffer(&mut self, bytes: &[u8]) {
        let package = self.begin(&[aml::BUFFER]);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a resource template of 14 bytes, a string of 16"
        )]
        self.put(&[aml::BYTE, bytes.len() as u8]);
        self.put(bytes);
        self.end(package);
    }

    /// A buffer that holds ASCII `text` in UTF-16LE with its terminator.
    fn unicode(&mut self, text: &str) {
        let package = self.begin(&[aml::BUFFER]);
        #[expect(clippy::cast_possible_truncation, reason = "one short constant")]
        self.put(&[aml::BYTE, (2 * text.len() + 2) as u8]);
        for byte in text.bytes() {
            self.put(&[byte, 0]);
        }
        self.put(&[0, 0]);
        self.end(package);
    }

    fn close(self) -> Result<usize, FrontendFault> {
        let table = self.into.get_mut(..self.length).ok_or(FrontendFault::TableTooLarge)?;
        let length = u32::try_from(table.len()).map_err(|_| FrontendFault::TableTooLarge)?;
        table[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_le_bytes());
        let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        table[CHECKSUM_AT] = sum.wrapping_neg();
        Ok(table.len())
    }
}

#[cfg(test)]
mod tests {
    use super::{EventLog, TABLE_BYTES_MAX, ssdt, tpm2_table};
    use crate::frontend::FrontendFault;
    use crate::frontend::crb::{Buffer, Identity, Layout, Localities};

    fn layout() -> Layout {
        let identity = Identity { vendor: 0x1AF4, device: 0x4B48, revision: 0 };
        Layout::new(0xFED4_0000, Localities::All, Buffer::InPage, identity).unwrap()
    }

    fn sum(table: &[u8]) -> u8 {
        table.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_states_its_length_and_sums_to_zero() {
        let mut bytes = [0xEE; TABLE_BYTES_MAX];
        let log = Some(EventLog { address: 0x1234_5678_9000, area_bytes: 0x1_0000 });
        let lengths = [
            (tpm2_table(&layout(), None, &mut bytes.clone()), 64),
            (tpm2_table(&layout(), log, &mut bytes.clone()), 76),
        ];
        assert!(lengths.iter().all(|(is, ought)| *is == Ok(*ought)));
        let length = ssdt(&layout(), &mut bytes).unwrap();
        assert_eq!(u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize, length);
        assert_eq!(sum(&bytes[..length]), 0);
        assert!(bytes[length..].iter().all(|byte| *byte == 0xEE));
    }

    #[test]
    fn a_short_buffer_is_refused_at_every_length() {
        let mut bytes = [0; TABLE_BYTES_MAX];
        let whole = ssdt(&layout(), &mut bytes).unwrap();
        for length in 0..whole {
            assert_eq!(ssdt(&layout(), &mut bytes[..length]), Err(FrontendFault::TableTooLarge));
        }
    }
}
