//! Machines of the kinds that are met, and guests that try to move them.

use super::{ConfigSpace, Inventory, Refusal, Role};
use proptest::prelude::{any, prop_assert_eq, proptest};
use std::collections::BTreeMap;
use std::vec::Vec;

/// Where the volume is.
const OWN: u8 = 0x80;
/// Where the guest's disk is.
const DISK: u8 = 0x90;

/// A bus: registers by function, and which bits of them can be written.
#[derive(Clone, Default)]
struct Bus {
    held: BTreeMap<(u8, u8), u32>,
    writable: BTreeMap<(u8, u8), u32>,
}

impl Bus {
    fn with(mut self, function: u8, identity: u32, registers: &[(u8, u32, u32)]) -> Self {
        self.held.insert((function, 0), identity);
        for (offset, value, writable) in [(4, 0x7, 0x0407), (0x0C, 0x80_0000, 0)].iter().chain(registers) {
            self.held.insert((function, *offset), *value);
            self.writable.insert((function, *offset), *writable);
        }
        self
    }

    fn q35() -> Self {
        Self::default()
            .with(0, 0x29C0_8086, &[(0x60, 0xB000_0001, u32::MAX)])
            .with(
                0xF8,
                0x2918_8086,
                &[(0x40, 0x601, u32::MAX), (0x60, 0x0B0B_0A0A, u32::MAX), (0xF0, 0, u32::MAX)],
            )
            .with(0xFB, 0x2930_8086, &[(0x20, 0x701, 0xFFC0)])
    }

    /// A modern virtio block device with 16 KiB above 4 GiB and a page below.
    fn with_own(self) -> Self {
        let bars =
            [(0x14, 0xFEBD_1000, 0xFFFF_F000), (0x20, 0x0000_000C, 0xFFFF_C000), (0x24, 0x8, u32::MAX)];
        self.with(OWN, 0x1042_1AF4, &bars)
    }
}

impl ConfigSpace for Bus {
    fn read(&mut self, function: u8, offset: u8) -> u32 {
        let missing = if self.held.contains_key(&(function, 0)) { 0 } else { u32::MAX };
        self.held.get(&(function, offset)).copied().unwrap_or(missing)
    }

    fn write(&mut self, function: u8, offset: u8, value: u32) {
        let mask = self.writable.get(&(function, offset)).copied().unwrap_or(0);
        if let Some(held) = self.held.get_mut(&(function, offset)) {
            *held = *held & !mask | value & mask;
        }
    }
}

#[test]
fn a_machine_of_known_functions_is_taken_and_its_own_devices_are_hidden() {
    let mut bus = Bus::q35().with_own();
    let before = bus.held.clone();
    let inventory = Inventory::take(&mut bus, &mut |_| panic!("complaint")).expect("sound");
    let windows = inventory.windows();
    assert_eq!(
        windows.memory,
        [0xFEBD_1000..0xFEBD_2000, 0x8_0000_0000..0x8_0000_4000, 0xB000_0000..0xC000_0000]
    );
    assert_eq!(inventory.read(&mut bus, OWN, 0), u32::MAX);
    assert_eq!(inventory.read(&mut bus, 0xF8, 0), 0x2918_8086);
    for (function, command) in [(OWN, 0x7), (0xFB, 0x7)] {
        assert_ne!(bus.held.insert((function, 4), command), Some(command), "no interrupt line");
    }
    assert_eq!(bus.held, before, "looking changes nothing else");
}

#[test]
fn a_device_that_can_write_memory_is_refused_by_name() {
    for identity in [0x100E_8086, 0x1000_1AF4, 0x1234_1111, 0x1041_1AF4, 0x1042_1AF4] {
        let mut bus = Bus::q35().with(0x18, identity, &[]);
        let mut complaints = Vec::new();
        let refused =
            Inventory::take(&mut bus, &mut |function| complaints.push((function.at, function.identity)));
        assert_eq!(refused.err(), Some(Refusal::Unguarded(0x18, identity)));
        assert_eq!(complaints, [(0x18, identity)]);
    }
    let mut bus = Bus::q35().with(OWN, 0x1042_1AF4, &[(0x0C, 0x1_0000, 0)]);
    assert!(Inventory::take(&mut bus, &mut |_| ()).is_err(), "a bridge, whatever it calls itself");
}

#[test]
fn the_disk_controller_that_comes_with_the_machine_is_switched_off() {
    let mut bus =
        Bus::q35().with(0xFA, 0x2922_8086, &[(0x20, 0xC081, 0xFFE0), (0x24, 0xFEBD_2000, 0xFFFF_F000)]);
    let inventory = Inventory::take(&mut bus, &mut |_| ()).expect("sound");
    assert_eq!(bus.read(0xFA, 4) & 7, 0);
    assert_eq!(inventory.windows().ports, [0xC080..=0xC09F, 0x700..=0x73F]);
    assert!(inventory.functions().iter().any(|function| function.role == Role::Quarantined));
    assert_eq!(inventory.read(&mut bus, 0xFA, 0), u32::MAX);
    let mut stuck = Bus::q35().with(0xFA, 0x2922_8086, &[(4, 0x7, 0)]);
    assert_eq!(Inventory::take(&mut stuck, &mut |_| ()).err(), Some(Refusal::Unquenchable(0xFA)));
}

/// The device below a guest's disk as QEMU has it.
fn with_disk(bus: Bus) -> Bus {
    let bars = [(0x20, 0x0001_000C, 0xFFFF_C000), (0x24, 0x8, u32::MAX), (0x3C, 0x010B, 0xFF)];
    bus.with(DISK, 0x1042_1AF4, &bars)
}

#[test]
fn the_device_below_a_guests_disk_is_the_layers() {
    let mut bus = with_disk(Bus::q35().with_own());
    let before = bus.held.clone();
    let inventory = Inventory::take(&mut bus, &mut |_| panic!("complaint")).expect("sound");
    assert!(inventory.has_disk());
    assert!(inventory.windows().memory.contains(&(0x8_0001_0000..0x8_0001_4000)), "its registers are hidden");
    for (offset, value) in [(4, 7), (0x20, u32::MAX), (0x24, 0), (0x3C, 0)] {
        assert_eq!(inventory.read(&mut bus, DISK, offset), u32::MAX);
        assert!(!inventory.write(&mut bus, (DISK, offset), value, u32::MAX));
    }
    assert_eq!(bus.held.insert((DISK, 4), 0x7), Some(0x407), "no interrupts before it is driven");
    bus.held.insert((OWN, 4), 0x7);
    bus.held.insert((0xFB, 4), before[&(0xFB, 4)]);
    assert_eq!(bus.held, before);
}

#[test]
fn a_disk_of_another_kind_or_elsewhere_is_refused() {
    for (at, identity) in
        [(0x18, 0x1042_1AF4), (DISK, 0x1001_1AF4), (DISK, 0x7010_8086), (DISK + 1, 0x1042_1AF4)]
    {
        let mut bus = Bus::q35().with(DISK & !7, 0x1042_1AF4, &[]).with(at, identity, &[]);
        assert_eq!(Inventory::take(&mut bus, &mut |_| ()).err(), Some(Refusal::Unguarded(at, identity)));
    }
    assert!(!Inventory::take(&mut Bus::q35(), &mut |_| ()).expect("sound").has_disk());
}

#[test]
fn interrupts_may_be_routed_and_that_is_all() {
    let mut bus = Bus::q35();
    let inventory = Inventory::take(&mut bus, &mut |_| ()).expect("sound");
    assert!(inventory.write(&mut bus, (0xF8, 0x60), 0x8080_8080, u32::MAX));
    assert_eq!(bus.read(0xF8, 0x60), 0x8080_8080);
    assert!(!inventory.write(&mut bus, (0, 0x60), 0x1000_0001, u32::MAX), "PCIEXBAR");
    assert!(!inventory.write(&mut bus, (0xF8, 0xF0), 0x1000_0001, u32::MAX), "RCBA");
    assert!(!inventory.write(&mut bus, (0xFB, 0x04), 0x4, 0xFF), "bus master");
    assert_eq!(bus.read(0xF8, 0xF0), 0);
}

proptest! {
    #[test]
    fn whatever_is_written_no_window_moves_and_nobody_masters(
        writes in proptest::collection::vec((any::<u8>(), any::<u8>(), any::<u32>(), any::<u32>()), 1..64),
    ) {
        let mut bus = with_disk(Bus::q35().with_own());
        let inventory = Inventory::take(&mut bus, &mut |_| ()).expect("sound");
        let before = bus.held.clone();
        for (function, offset, value, mask) in writes {
            let function = [0, 0xF8, 0xFB, OWN, DISK, function][usize::from(function % 6)];
            inventory.write(&mut bus, (function, offset), value, mask);
        }
        for (key, value) in &before {
            let pirq = *key == (0xF8, 0x60);
            let mask = if key.1 == 4 { 0x7 } else if pirq { 0 } else { u32::MAX };
            prop_assert_eq!(bus.held[key] & mask, value & mask);
        }
    }
}
