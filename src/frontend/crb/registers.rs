//! Which bytes show a state, and which writes are events (PTP, table "Allocation of Register Space for the CRB").
//!
//! Accesses of one to eight bytes at any offset mean this, to the bit:
//! a *read* gathers each byte from the register that covers it, and has no effect; a *write* is cut at four-byte
//! boundaries and its pieces act in ascending order, each knowing which byte lanes it covers. All that a guest may
//! say lies in lane 0 of its register, or lane 2 for TPM_INTF_ID, so a piece that does not cover that lane says nothing.
//! Where a register has several trigger bits, a write with exactly one of them set is an event; none or several are
//! nothing. Read-only and reserved registers ignore writes; reserved ones read zero. Past the window all reads are ones.

use super::state::{Event, Phase, State};
use crate::engine::{COMMAND_BYTES_MAX, Locality};
use crate::frontend::FrontendFault;

/// Distance between the pages of two localities in bytes (PTP, section "Locality-Controlled Functions").
pub const LOCALITY_STRIDE_BYTES: usize = 0x1000;

/// TPM_LOC_STATE: read-only, the same in all localities.
pub const LOC_STATE: usize = 0x00;
/// TPM_LOC_CTRL: write-only.
pub const LOC_CTRL: usize = 0x08;
/// TPM_LOC_STS: read-only.
pub const LOC_STS: usize = 0x0C;
/// TPM_CRB_INTF_ID, its lower half.
pub const INTF_ID: usize = 0x30;
/// TPM_CRB_INTF_ID, its upper half: read-only.
const INTF_ID_HIGH: usize = INTF_ID + 4;
/// TPM_CRB_CTRL_EXT, eight bytes: not offered, reads zero.
pub const CTRL_EXT: usize = 0x38;
/// TPM_CRB_CTRL_REQ: where the control area begins.
pub const CTRL_REQ: usize = 0x40;
/// TPM_CRB_CTRL_STS: read-only.
pub const CTRL_STS: usize = 0x44;
/// TPM_CRB_CTRL_CANCEL.
pub const CTRL_CANCEL: usize = 0x48;
/// TPM_CRB_CTRL_START.
pub const CTRL_START: usize = 0x4C;
/// TPM_CRB_INT_ENABLE: no interrupts, reads zero.
pub const INT_ENABLE: usize = 0x50;
/// TPM_CRB_INT_STS: no interrupts, reads zero.
pub const INT_STS: usize = 0x54;
/// TPM_CRB_CTRL_CMD_SIZE: read-only, size of the command buffer in bytes.
pub const CMD_SIZE: usize = 0x58;
/// TPM_CRB_CTRL_CMD_LADDR: read-only.
pub const CMD_LADDR: usize = 0x5C;
/// TPM_CRB_CTRL_CMD_HADDR: read-only.
pub const CMD_HADDR: usize = 0x60;
/// TPM_CRB_CTRL_RSP_SIZE: read-only, size of the response buffer in bytes.
pub const RSP_SIZE: usize = 0x64;
/// TPM_CRB_CTRL_RSP_ADDR, eight bytes, read-only; its lower half.
pub const RSP_ADDR: usize = 0x68;
/// TPM_CRB_CTRL_RSP_ADDR, its upper half.
const RSP_ADDR_HIGH: usize = RSP_ADDR + 4;
/// TPM_CRB_DATA_BUFFER.
pub const DATA_BUFFER: usize = 0x80;
/// Size of TPM_CRB_DATA_BUFFER in bytes.
pub const DATA_BUFFER_BYTES: usize = LOCALITY_STRIDE_BYTES - DATA_BUFFER;

/// The registers that say something and that no guest writes; TPM_LOC_STATE, which vouches for TPM_LOC_STS, comes last.
pub(super) const SHOWN: [usize; 9] =
    [LOC_STS, INTF_ID_HIGH, CTRL_STS, CMD_SIZE, CMD_LADDR, CMD_HADDR, RSP_SIZE, RSP_ADDR, LOC_STATE];
/// The registers that are zero whatever is written.
pub(super) const ALWAYS_ZERO: [usize; 5] = [CTRL_EXT, CTRL_EXT + 4, INT_ENABLE, INT_STS, RSP_ADDR_HIGH];
/// The registers through which a guest speaks.
pub(super) const SPOKEN: [usize; 5] = [LOC_CTRL, INTF_ID, CTRL_REQ, CTRL_CANCEL, CTRL_START];

/// How many localities have a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Localities {
    /// Locality 0 alone: all that an operating system uses (TPM_INTF_ID.CapLocality 0).
    Zero,
    /// All five (CapLocality 1).
    All,
}

/// Where commands and responses lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffer {
    /// In TPM_CRB_DATA_BUFFER of each register page, 3968 bytes: what every driver can use.
    InPage,
    /// In a page behind the register pages, 4096 bytes: it need not trap. TPM_CRB_DATA_BUFFER is a second way to it,
    /// for drivers that do not read the address registers.
    OwnPage,
}

/// Who made this TPM, as TPM_CRB_INTF_ID says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// VID: PCI vendor.
    pub vendor: u16,
    /// DID.
    pub device: u16,
    /// RID.
    pub revision: u8,
}

/// Where the interface lies in the guest's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    base: u32,
    localities: Localities,
    buffer: Buffer,
    identity: Identity,
}

/// What lies at an offset of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A register (a multiple of four) of a locality's page.
    Register(Locality, usize),
    /// Four bytes of the data buffer, counted from its start, by way of a locality's page.
    Data(Locality, usize),
    /// Nothing that this interface answers for.
    Beyond,
}

impl Layout {
    /// Places the interface at guest-physical `base`.
    ///
    /// # Errors
    /// [`FrontendFault::LayoutRefused`] if `base` is not page-aligned or the window passes 4 GiB (`_CRS` has 32 bits).
    pub fn new(
        base: u64,
        localities: Localities,
        buffer: Buffer,
        identity: Identity,
    ) -> Result<Self, FrontendFault> {
        let low = u32::try_from(base).map_err(|_| FrontendFault::LayoutRefused)?;
        let layout = Self { base: low, localities, buffer, identity };
        let end = base + layout.window_bytes() as u64;
        if !base.is_multiple_of(LOCALITY_STRIDE_BYTES as u64) || end > 1 << 32 {
            return Err(FrontendFault::LayoutRefused);
        }
        Ok(layout)
    }

    /// Guest-physical address of locality 0's page.
    #[must_use]
    pub const fn base(&self) -> u32 {
        self.base
    }

    /// Where commands and responses lie.
    #[must_use]
    pub const fn buffer(&self) -> Buffer {
        self.buffer
    }

    /// Guest-physical address of the control area, for the TPM2 table (TCG ACPI Specification, table TPM2).
    #[must_use]
    pub const fn control_area(&self) -> u64 {
        self.base as u64 + CTRL_REQ as u64
    }

    /// Size of all the pages in bytes.
    #[must_use]
    pub const fn window_bytes(&self) -> usize {
        match self.buffer {
            Buffer::InPage => self.register_bytes(),
            Buffer::OwnPage => self.register_bytes() + LOCALITY_STRIDE_BYTES,
        }
    }

    /// Size of the register pages in bytes.
    #[must_use]
    pub const fn register_bytes(&self) -> usize {
        match self.localities {
            Localities::Zero => LOCALITY_STRIDE_BYTES,
            Localities::All => 5 * LOCALITY_STRIDE_BYTES,
        }
    }

    /// Size of the buffer for commands and responses in bytes.
    #[must_use]
    pub const fn buffer_bytes(&self) -> usize {
        match self.buffer {
            Buffer::InPage => DATA_BUFFER_BYTES,
            Buffer::OwnPage => COMMAND_BYTES_MAX,
        }
    }

    /// Where `locality` finds the buffer, in bytes from [`base`](Self::base).
    #[must_use]
    pub const fn buffer_offset(&self, locality: Locality) -> usize {
        match self.buffer {
            Buffer::InPage => page_offset(locality) + DATA_BUFFER,
            Buffer::OwnPage => self.register_bytes(),
        }
    }

    /// The localities that have a page, from the lowest.
    pub(super) fn localities(&self) -> impl Iterator<Item = Locality> + use<> {
        let pages = self.register_bytes() / LOCALITY_STRIDE_BYTES;
        [Locality::Zero, Locality::One, Locality::Two, Locality::Three, Locality::Four]
            .into_iter()
            .take(pages)
    }

    /// What lies at `offset` bytes from the base, a multiple of four.
    pub(super) fn place(&self, offset: usize) -> Place {
        let page = offset / LOCALITY_STRIDE_BYTES;
        let within = offset % LOCALITY_STRIDE_BYTES;
        match self.localities().nth(page) {
            Some(locality) if within < DATA_BUFFER => Place::Register(locality, within),
            Some(locality) => Place::Data(locality, within - DATA_BUFFER),
            None => Place::Beyond,
        }
    }

    /// What the register at `register` of `locality`'s page shows in `state`.
    #[must_use]
    pub fn shows(&self, state: &State, locality: Locality, register: usize) -> u32 {
        match register {
            LOC_STATE => loc_state(state),
            LOC_STS => loc_sts(state, locality),
            INTF_ID => self.intf_id(state),
            INTF_ID_HIGH => u32::from(self.identity.vendor) | u32::from(self.identity.device) << 16,
            CTRL_REQ => u32::from(state.phase == Phase::Draining { ready_next: true }),
            CTRL_STS => u32::from(is_idle(state.phase)) << 1,
            CTRL_CANCEL => u32::from(state.cancel),
            CTRL_START => u32::from(state.phase == Phase::Execution),
            #[expect(clippy::cast_possible_truncation, reason = "4096 at most")]
            CMD_SIZE | RSP_SIZE => self.buffer_bytes() as u32,
            #[expect(clippy::cast_possible_truncation, reason = "the window ends below 4 GiB")]
            CMD_LADDR | RSP_ADDR => self.base + self.buffer_offset(locality) as u32,
            _ => 0,
        }
    }

    /// TPM_CRB_INTF_ID, lower half (PTP, table "CRB Interface Identifier Register").
    fn intf_id(&self, state: &State) -> u32 {
        let interface_type_crb = 1;
        let interface_version_crb = 1 << 4;
        let cap_locality = match self.localities {
            Localities::Zero => 0,
            Localities::All => 1 << 8,
        };
        let cap_idle_bypass = 1 << 9;
        let cap_data_transfer_64_bytes = 0b11 << 11;
        let cap_crb = 1 << 14;
        let selector_crb = 1 << 17;
        let locked = u32::from(state.selector_locked) << 19;
        interface_type_crb
            | interface_version_crb
            | cap_locality
            | cap_idle_bypass
            | cap_data_transfer_64_bytes
            | cap_crb
            | selector_crb
            | locked
            | u32::from(self.identity.revision) << 24
    }
}

/// Where a locality's page begins, in bytes from the base.
pub(super) const fn page_offset(locality: Locality) -> usize {
    locality.number() as usize * LOCALITY_STRIDE_BYTES
}

const fn is_idle(phase: Phase) -> bool {
    match phase {
        Phase::Idle | Phase::Draining { .. } => true,
        Phase::Ready | Phase::Reception | Phase::Execution | Phase::Completion => false,
    }
}

fn loc_state(state: &State) -> u32 {
    let valid = 1 << 7;
    let not_established = u32::from(!state.established);
    match state.active {
        Some(active) => valid | u32::from(active.number()) << 2 | 1 << 1 | not_established,
        None => valid | not_established,
    }
}

fn loc_sts(state: &State, locality: Locality) -> u32 {
    u32::from(state.active == Some(locality)) | u32::from(state.seized.has(locality)) << 1
}

/// The event that a write of `value` to a register is, where bit `n` of `lanes` says that byte `n` was written.
#[must_use]
pub fn event(locality: Locality, register: usize, value: u32, lanes: u8) -> Option<Event> {
    let lane_0 = lanes & 1 != 0;
    match register {
        LOC_CTRL if lane_0 => loc_ctrl(locality, value),
        INTF_ID if lanes & 0b100 != 0 => (value & 1 << 19 != 0).then_some(Event::LockSelector),
        CTRL_REQ if lane_0 => match value & 0b11 {
            0b01 => Some(Event::CommandReady(locality)),
            0b10 => Some(Event::GoIdle(locality)),
            _ => None,
        },
        CTRL_CANCEL if lane_0 && value & 1 != 0 => Some(Event::Cancel(locality)),
        CTRL_CANCEL if lane_0 => Some(Event::CancelClear(locality)),
        CTRL_START if lane_0 && value & 1 != 0 => Some(Event::Start(locality)),
        _ => None,
    }
}

/// Locality 4's bits 2:0 are the hash interface, which no guest has (see the box's documentation).
fn loc_ctrl(locality: Locality, value: u32) -> Option<Event> {
    match (value & 0b1111, locality) {
        (0b1000, _) => Some(Event::ResetEstablished(locality)),
        (_, Locality::Four) => None,
        (0b0001, _) => Some(Event::Request(locality)),
        (0b0010, _) => Some(Event::Relinquish(locality)),
        (0b0100, _) => Some(Event::Seize(locality)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Buffer, Identity, Layout, Localities};
    use crate::frontend::FrontendFault;

    #[test]
    fn a_window_that_a_32_bit_resource_cannot_describe_is_refused() {
        let identity = Identity { vendor: 0, device: 0, revision: 0 };
        let at = |base| Layout::new(base, Localities::All, Buffer::OwnPage, identity).map(|_| ());
        assert_eq!(at(0xFED4_0000), Ok(()));
        assert_eq!(at(0xFFFF_A000), Ok(()));
        for base in [1, 0xFED4_0800, 0xFFFF_B000, 1 << 32, u64::MAX] {
            assert_eq!(at(base), Err(FrontendFault::LayoutRefused));
        }
    }
}
