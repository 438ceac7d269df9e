//! A guest's own page tables, read as an allegation (AMD64 APM volume 2, chapter 5).
//!
//! What the guest's tables say may change while it is read; whatever comes out is an address that is looked up in the
//! guest's memory, which refuses the layer's. Every walk ends after as many steps as there are levels.

use super::vmcb::{EFER_LMA, Event, Save};

/// The guest's physical memory, without what is hidden.
pub trait GuestMemory {
    /// Copies guest bytes at `address`; false if they are not all the guest's memory.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;

    /// Copies bytes to the guest at `address`; false if that is not all the guest's memory.
    fn write(&mut self, address: u64, from: &[u8]) -> bool;

    /// Sets bits of one byte as one atomic step; false if it is not the guest's memory.
    fn set_bits(&mut self, address: u64, bits: u8) -> bool;
}

/// Bits of an entry.
const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u8 = 1 << 5;
const DIRTY: u8 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// CR0.WP, CR0.PG; CR4.PSE, PAE, LA57, SMEP, SMAP; EFER.NXE; RFLAGS.AC.
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const EFER_NXE: u64 = 1 << 11;
const RFLAGS_AC: u64 = 1 << 18;

/// What an access wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// To read data.
    Read,
    /// To write data.
    Write,
    /// To read an instruction.
    Execute,
}

/// Why an address means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkFault {
    /// The guest's own tables forbid it: a page fault with this error code.
    Refused(u32),
    /// The guest's tables lie where it has no memory.
    Astray,
}

impl WalkFault {
    /// The event that the guest gets for it.
    #[must_use]
    pub const fn event(self) -> Event {
        match self {
            Self::Refused(code) => Event::PageFault(code),
            // A table in a hole reads all ones: present, with reserved bits set.
            Self::Astray => Event::PageFault(0b1001),
        }
    }
}

/// How a guest translates, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a bit of a control register")]
pub struct Paging {
    form: Form,
    root: u64,
    user: bool,
    write_protect: bool,
    guard_user_data: bool,
    guard_user_code: bool,
    no_execute: bool,
}

/// The forms of tables (volume 2, sections 5.2 and 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// No paging.
    Flat,
    /// Two levels of four-byte entries; with 4-MiB pages or without.
    Legacy { large: bool },
    /// Three levels of eight-byte entries.
    Pae,
    /// Four or five levels.
    Long { levels: u32 },
}

impl Paging {
    /// What `save` says.
    #[must_use]
    pub const fn of(save: &Save) -> Self {
        let form = if save.cr0 & CR0_PG == 0 {
            Form::Flat
        } else if save.efer & EFER_LMA != 0 {
            Form::Long { levels: if save.cr4 & CR4_LA57 != 0 { 5 } else { 4 } }
        } else if save.cr4 & CR4_PAE != 0 {
            Form::Pae
        } else {
            Form::Legacy { large: save.cr4 & CR4_PSE != 0 }
        };
        Self {
            form,
            root: save.cr3,
            user: save.cpl == 3,
            write_protect: save.cr0 & CR0_WP != 0,
            guard_user_data: save.cr4 & CR4_SMAP != 0 && save.rflags & RFLAGS_AC == 0,
            guard_user_code: save.cr4 & CR4_SMEP != 0,
            no_execute: save.efer & EFER_NXE != 0,
        }
    }

    /// The guest-physical address behind `linear`. Marks what it used as accessed, and as dirty for a write, as the processor
    /// does.
    ///
    /// # Errors
    /// [`WalkFault`].
    pub fn translate(
        &self,
        memory: &mut dyn GuestMemory,
        linear: u64,
        wants: Wants,
    ) -> Result<u64, WalkFault> {
        match self.form {
            Form::Flat => Ok(linear & 0xFFFF_FFFF),
            Form::Long { levels } => self.wide(memory, linear, wants, (self.root & ADDRESS, levels)),
            Form::Pae => {
                let linear = linear & 0xFFFF_FFFF;
                let at = (self.root & 0xFFFF_FFE0) + (linear >> 30) * 8;
                let pointer = entry(memory, at, 8)?;
                if pointer & PRESENT == 0 {
                    return Err(self.refused(wants, 0));
                }
                self.wide(memory, linear, wants, (pointer & ADDRESS, 2))
            }
            Form::Legacy { large } => self.legacy(memory, linear & 0xFFFF_FFFF, wants, large),
        }
    }

    /// Tables of eight-byte entries from `levels` down.
    fn wide(
        &self,
        memory: &mut dyn GuestMemory,
        linear: u64,
        wants: Wants,
        (mut table, levels): (u64, u32),
    ) -> Result<u64, WalkFault> {
        let mut rights = WRITE | USER;
        let mut forbidden = 0;
        for level in (0..levels).rev() {
            let shift = 12 + 9 * level;
            let at = table + (linear >> shift & 0x1FF) * 8;
            let found = entry(memory, at, 8)?;
            if found & PRESENT == 0 {
                return Err(self.refused(wants, 0));
            }
            rights &= found;
            forbidden |= found & NO_EXECUTE;
            let is_page = level == 0 || (level < 3 && found & LARGE != 0);
            if is_page {
                self.permit(wants, rights, forbidden)?;
                mark(memory, at, wants)?;
                let within = (1u64 << shift) - 1;
                return Ok((found & ADDRESS & !within) | (linear & within));
            }
            mark(memory, at, Wants::Read)?;
            table = found & ADDRESS;
        }
        Err(WalkFault::Astray)
    }

    fn legacy(
        &self,
        memory: &mut dyn GuestMemory,
        linear: u64,
        wants: Wants,
        large: bool,
    ) -> Result<u64, WalkFault> {
        let directory_at = (self.root & 0xFFFF_F000) + (linear >> 22) * 4;
        let directory = entry(memory, directory_at, 4)?;
        if directory & PRESENT == 0 {
            return Err(self.refused(wants, 0));
        }
        if large && directory & LARGE != 0 {
            self.permit(wants, directory, 0)?;
            mark(memory, directory_at, wants)?;
            let high = (directory >> 13 & 0xFF) << 32;
            return Ok(high | (directory & 0xFFC0_0000) | (linear & 0x3F_FFFF));
        }
        let page_at = (directory & 0xFFFF_F000) + (linear >> 12 & 0x3FF) * 4;
        let page = entry(memory, page_at, 4)?;
        if page & PRESENT == 0 {
            return Err(self.refused(wants, 0));
        }
        self.permit(wants, directory & page, 0)?;
        mark(memory, directory_at, Wants::Read)?;
        mark(memory, page_at, wants)?;
        Ok((page & 0xFFFF_F000) | (linear & 0xFFF))
    }

    /// Volume 2, section 5.6: page-protection checks.
    fn permit(&self, wants: Wants, rights: u64, forbidden: u64) -> Result<(), WalkFault> {
        let user_page = rights & USER != 0;
        let writable = rights & WRITE != 0;
        let refused = match wants {
            Wants::Execute => {
                (self.no_execute && forbidden != 0) || (!self.user && user_page && self.guard_user_code)
            }
            Wants::Read => !self.user && user_page && self.guard_user_data,
            Wants::Write => {
                (!writable && (self.user || self.write_protect))
                    || (!self.user && user_page && self.guard_user_data)
            }
        };
        if refused || (self.user && !user_page) { Err(self.refused(wants, 1)) } else { Ok(()) }
    }

    const fn refused(&self, wants: Wants, present: u32) -> WalkFault {
        let write = if matches!(wants, Wants::Write) { 1 << 1 } else { 0 };
        let user = if self.user { 1 << 2 } else { 0 };
        let fetch = if matches!(wants, Wants::Execute) && (self.no_execute || self.guard_user_code) {
            1 << 4
        } else {
            0
        };
        WalkFault::Refused(present | write | user | fetch)
    }
}

fn entry(memory: &dyn GuestMemory, at: u64, bytes: usize) -> Result<u64, WalkFault> {
    let mut raw = [0; 8];
    if memory.read(at, &mut raw[..bytes]) { Ok(u64::from_le_bytes(raw)) } else { Err(WalkFault::Astray) }
}

fn mark(memory: &mut dyn GuestMemory, at: u64, wants: Wants) -> Result<(), WalkFault> {
    let bits = if wants == Wants::Write { ACCESSED | DIRTY } else { ACCESSED };
    let mut now = [0];
    if !memory.read(at, &mut now) {
        return Err(WalkFault::Astray);
    }
    if now[0] & bits == bits || memory.set_bits(at, bits) { Ok(()) } else { Err(WalkFault::Astray) }
}

#[cfg(test)]
mod tests {
    use super::{GuestMemory, Paging, WalkFault, Wants};
    use crate::svm::vmcb::{Save, Vmcb};
    use proptest::prelude::{any, prop_assert, proptest};
    use std::vec::Vec;

    /// A guest of 1 MiB.
    struct Ram(Vec<u8>);

    impl Ram {
        fn put(&mut self, at: u64, bytes: &[u8]) {
            assert!(self.write(at, bytes));
        }
    }

    impl GuestMemory for Ram {
        fn read(&self, address: u64, into: &mut [u8]) -> bool {
            let found =
                usize::try_from(address).ok().and_then(|at| self.0.get(at..at.checked_add(into.len())?));
            found.map(|found| into.copy_from_slice(found)).is_some()
        }

        fn write(&mut self, address: u64, from: &[u8]) -> bool {
            let found =
                usize::try_from(address).ok().and_then(|at| self.0.get_mut(at..at.checked_add(from.len())?));
            found.map(|found| found.copy_from_slice(from)).is_some()
        }

        fn set_bits(&mut self, address: u64, bits: u8) -> bool {
            let mut now = [0];
            self.read(address, &mut now) && self.write(address, &[now[0] | bits])
        }
    }

    fn ram() -> Ram {
        Ram(std::vec![0; 1 << 20])
    }

    fn state(cr0: u64, cr4: u64, efer: u64) -> Save {
        let mut save = Vmcb::EMPTY.save;
        (save.cr0, save.cr3, save.cr4, save.efer) = (cr0, 0x1000, cr4, efer);
        save
    }

    const PAGED: u64 = 1 << 31 | 1 << 16 | 1;
    const LONG: u64 = 1 << 10 | 1 << 8 | 1 << 11;

    #[test]
    fn without_paging_addresses_are_themselves() {
        let flat = Paging::of(&state(1, 0, 0));
        assert_eq!(flat.translate(&mut ram(), 0x1_2345_6789, Wants::Write), Ok(0x2345_6789));
    }

    #[test]
    fn four_and_five_levels_lead_to_the_page() {
        for (cr4, roots) in [(1 << 5, 4u64), (1 << 5 | 1 << 12, 5)] {
            let mut ram = ram();
            for level in 0..roots - 1 {
                ram.put(0x1000 + level * 0x1000, &((0x2000 + level * 0x1000) | 7).to_le_bytes());
            }
            let last = 0x1000 + (roots - 1) * 0x1000;
            ram.put(last + 8, &(0xFED4_0000u64 | 3 | 1 << 63).to_le_bytes());
            let paging = Paging::of(&state(PAGED, cr4, LONG));
            assert_eq!(paging.translate(&mut ram, 0x1040, Wants::Write), Ok(0xFED4_0040));
            let mut leaf = [0; 1];
            assert!(ram.read(last + 8, &mut leaf));
            assert_eq!(leaf[0] & 0x60, 0x60, "accessed and dirty");
            assert_eq!(
                paging.translate(&mut ram, 0x1040, Wants::Execute),
                Err(WalkFault::Refused(1 | 1 << 4))
            );
            assert_eq!(paging.translate(&mut ram, 0x2040, Wants::Read), Err(WalkFault::Refused(0)));
        }
    }

    #[test]
    fn old_forms_of_tables_are_understood() {
        let mut ram = ram();
        ram.put(0x1000, &0x2001u64.to_le_bytes());
        ram.put(0x2000, &(0x3000u64 | 7).to_le_bytes());
        ram.put(0x3000 + 8 * 5, &(0x4_5000u64 | 7).to_le_bytes());
        assert_eq!(
            Paging::of(&state(PAGED, 1 << 5, 0)).translate(&mut ram, 0x5123, Wants::Read),
            Ok(0x4_5123)
        );
        let mut ram = self::ram();
        ram.put(0x1000, &(0x2000u32 | 7).to_le_bytes());
        ram.put(0x2000 + 4 * 5, &(0x4_5000u32 | 7).to_le_bytes());
        ram.put(0x1004, &(0x0040_0000u32 | 0x87).to_le_bytes());
        let paging = Paging::of(&state(PAGED, 1 << 4, 0));
        assert_eq!(paging.translate(&mut ram, 0x5123, Wants::Read), Ok(0x4_5123));
        assert_eq!(paging.translate(&mut ram, 0x41_2345, Wants::Read), Ok(0x41_2345));
    }

    #[test]
    fn a_user_reaches_only_what_users_may() {
        let mut ram = ram();
        for level in 0..3u64 {
            ram.put(0x1000 + level * 0x1000, &((0x2000 + level * 0x1000) | 7).to_le_bytes());
        }
        ram.put(0x4000, &(0x8000u64 | 3).to_le_bytes());
        ram.put(0x4008, &(0x9000u64 | 5).to_le_bytes());
        let mut save = state(PAGED, 1 << 5 | 1 << 21, LONG);
        save.cpl = 3;
        let user = Paging::of(&save);
        assert_eq!(user.translate(&mut ram, 0, Wants::Read), Err(WalkFault::Refused(0b101)));
        assert_eq!(user.translate(&mut ram, 0x1000, Wants::Read), Ok(0x9000));
        assert_eq!(user.translate(&mut ram, 0x1000, Wants::Write), Err(WalkFault::Refused(0b111)));
        save.cpl = 0;
        let guarded = Paging::of(&save);
        assert_eq!(guarded.translate(&mut ram, 0x1000, Wants::Read), Err(WalkFault::Refused(1)), "SMAP");
        save.rflags |= 1 << 18;
        assert_eq!(Paging::of(&save).translate(&mut ram, 0x1000, Wants::Read), Ok(0x9000));
    }

    #[test]
    fn tables_outside_the_guests_memory_lead_astray() {
        let mut save = state(PAGED, 1 << 5, LONG);
        save.cr3 = 0x1000_0000;
        assert_eq!(Paging::of(&save).translate(&mut ram(), 0, Wants::Read), Err(WalkFault::Astray));
    }

    proptest! {
        #[test]
        fn no_tables_and_no_registers_make_a_walk_fail_to_end(
            noise in proptest::collection::vec(any::<u8>(), 4096),
            (cr0, cr3, cr4, efer) in (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()),
            linear in any::<u64>(),
            small in any::<bool>(),
        ) {
            let mut ram = Ram(noise.iter().cycle().take(1 << 16).map(|byte| byte | 1).collect());
            let mut save = state(cr0, cr4, efer);
            save.cr3 = if small { cr3 & 0xF000 } else { cr3 };
            for wants in [Wants::Read, Wants::Write, Wants::Execute] {
                let found = Paging::of(&save).translate(&mut ram, linear, wants);
                prop_assert!(found.is_err() || found.is_ok_and(|at| at < 1 << 52));
            }
        }
    }
}
