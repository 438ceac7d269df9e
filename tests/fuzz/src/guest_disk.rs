//! What a guest does to its disk.

use crate::input::Input;
use fake::{BUFFER, Fake, LAYER, NEXT, QUEUE, RAM, Ram, WRITE};
use husk_firmware::guest_disk::{About, Descriptor, Device, Disk, Memory, Rings, SLOTS};

#[expect(dead_code, reason = "a part of what the disk's laws use")]
#[path = "../../../firmware/src/guest_disk/fake.rs"]
mod fake;

/// Bytes of a step: what it does, and with what.
const STEP_BYTES: usize = 8;
const STATUS: u16 = 0x12;
const NEEDS_RESET: u32 = 0x40;

/// A guest's accesses to ports, to its queue and to PCI's registers. The device asserts that it is given the guest's memory alone, and that what it may read of its table stays; it runs for no guest
/// whose queue was none.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let about = About { features: u32::MAX, configuration: [7; 0x40], interrupt: 0x010A };
    let (mut disk, mut ram) = (Disk::new(Fake::default(), about), Ram::new());
    while !input.is_over() {
        let mut step = Input::new(input.chunk(STEP_BYTES));
        match step.byte() % 8 {
            0 => {
                let (slot, flags, next) = (step.byte(), step.byte(), step.byte());
                let address = [BUFFER, LAYER.start, LAYER.end, RAM, 0xFEE0_0000, u64::MAX, 0, QUEUE]
                    [usize::from(step.byte() % 8)];
                let descriptor = (
                    address.wrapping_add_signed(step.byte().cast_signed().into()),
                    step.short().into(),
                    flags.into(),
                    next.into(),
                );
                ram.describe(slot.into(), descriptor);
            }
            1 => ram.queue(step.short()),
            2 => {
                let at = QUEUE + u64::from(step.short() % 0x2FF0);
                ram.put(at, &step.short().to_le_bytes());
            }
            3 => {
                let (port, bytes) = (u16::from(step.byte() & 0x7F), 1 << (step.byte() % 3));
                disk.write(port, (bytes, step.word()), &mut ram, &mut || false);
            }
            4 => {
                disk.read(u16::from(step.byte() & 0x7F), 1 << (step.byte() % 3), &mut ram);
            }
            5 => started(&mut disk, &mut ram),
            6 => disk.reset(),
            _ => {
                disk.configure(step.byte() & !3, step.word(), u32::MAX);
                assert!(disk.function.ports().is_none_or(|ports| ports.count() == 0x80));
            }
        }
        let status = disk.read(STATUS, 1, &mut ram).expect("a register");
        assert!(status & NEEDS_RESET == 0 || disk.device().0.borrow().features.is_none());
    }
}

/// As a driver starts it.
fn started(disk: &mut Disk<Fake>, ram: &mut Ram) {
    let page = u32::try_from(QUEUE >> 12).unwrap();
    for (port, bytes, value) in
        [(STATUS, 1, 0), (STATUS, 1, 3), (4, 4, u32::MAX), (8, 4, page), (STATUS, 1, 7)]
    {
        assert!(disk.write(port, (bytes, value), ram, &mut || false));
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let start = [5, 0, 0, 0, 0, 0, 0, 0];
    let [next, write] = [NEXT, WRITE].map(|flag| flag.to_le_bytes()[0]);
    let piece = |slot: u8, flags: u8, address: u8| [0, slot, flags, slot + 1, address, 0, 0, 2];
    let queued = [1, 0, 0, 0, 0, 0, 0, 0];
    let notify = [3, 0x10, 1, 0, 0, 0, 0, 0];
    let interrupt = [4, 0x13, 0, 0, 0, 0, 0, 0];
    let request = |address: u8| {
        [piece(0, next, 0), piece(1, next | write, address), piece(2, write, 0), queued, notify, interrupt]
            .concat()
    };
    vec![
        [start.to_vec(), request(0), request(0)].concat(),
        [start.to_vec(), request(1), start.to_vec(), request(4)].concat(),
        [start.to_vec(), request(0), vec![3, 0x12, 0, 3, 0, 0, 0, 0, 3, 0x12, 0, 7, 0, 0, 0, 0], request(0)]
            .concat(),
        [start.to_vec(), [7, 0x10, 0, 0x60, 0, 0, 0, 0].to_vec(), request(0), vec![6]].concat(),
    ]
}
