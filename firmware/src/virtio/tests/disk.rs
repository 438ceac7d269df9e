//! Laws of the disk: what the device says is believed only if it says exactly that.

use super::{
    BLOCK_SIZE, FLUSH, Lost, READ_ONLY, REQUEST_BYTES_MAX, Requests, Said, TOPOLOGY, VERSION_1, VolumeDisk,
};
use crate::virtio::DeviceFault;
use husk::seams::{Disk, DiskError, Geometry};
use std::vec;
use std::vec::Vec;

/// A device of 1 MiB that can lie about one thing at a time.
struct Device {
    content: Vec<u8>,
    flushes: usize,
    requests: usize,
    status: u8,
    written_more: isize,
    lost: bool,
}

impl Requests for Device {
    fn request(&mut self, out: [&[u8]; 2], into: [&mut [u8]; 2], _: u64) -> Result<usize, Lost> {
        self.requests += 1;
        let [header, from] = out;
        let kind = u32::from_le_bytes(header[..4].try_into().unwrap());
        let at = usize::try_from(u64::from_le_bytes(header[8..].try_into().unwrap())).unwrap() * 512;
        let [data, status] = into;
        match kind {
            0 => data.copy_from_slice(&self.content[at..at + data.len()]),
            1 => self.content[at..at + from.len()].copy_from_slice(from),
            4 => self.flushes += 1,
            other => panic!("request {other}"),
        }
        status[0] = self.status;
        let written = (data.len() + 1).checked_add_signed(self.written_more).unwrap();
        if self.lost { Err(Lost) } else { Ok(written) }
    }
}

fn disk() -> VolumeDisk<Device> {
    let content = vec![0; 1 << 20];
    let device = Device { content, flushes: 0, requests: 0, status: 0, written_more: 0, lost: false };
    VolumeDisk::new(device, Geometry { size_bytes: 1 << 20, block_bytes: 4096 })
}

#[test]
fn what_is_written_is_read_and_a_flush_is_a_request_of_its_own() {
    let mut disk = disk();
    disk.write(8192, &[7; 4096]).unwrap();
    disk.flush().unwrap();
    let mut back = vec![0; 12288];
    disk.read(4096, &mut back).unwrap();
    assert!(back[..4096] == [0; 4096] && back[4096..8192] == [7; 4096]);
    assert_eq!((disk.requests.flushes, disk.requests.requests), (1, 3));
}

#[test]
fn a_write_is_one_request_or_none() {
    let mut disk = disk();
    disk.write(0, &vec![1; REQUEST_BYTES_MAX]).unwrap();
    assert_eq!(disk.requests.requests, 1);
    assert_eq!(disk.write(0, &vec![1; REQUEST_BYTES_MAX + 4096]), Err(DiskError));
    assert_eq!(disk.requests.requests, 1);
    disk.read(0, &mut vec![0; 2 * REQUEST_BYTES_MAX]).unwrap();
    assert_eq!(disk.requests.requests, 3);
}

#[test]
fn only_whole_blocks_inside_of_the_disk_are_asked_for() {
    let mut disk = disk();
    for (offset, bytes) in
        [(1, 4096), (0, 4095), (0, 0), (512, 4096), (1 << 20, 4096), (u64::MAX - 4095, 4096)]
    {
        assert_eq!(disk.write(offset, &vec![0; bytes]), Err(DiskError));
        assert_eq!(disk.read(offset, &mut vec![0; bytes]), Err(DiskError));
    }
    assert_eq!(disk.requests.requests, 0);
}

#[test]
fn an_error_a_short_answer_a_long_one_and_none_are_all_failures() {
    for lie in 0..5 {
        let mut disk = disk();
        match lie {
            0 => disk.requests.status = 1,
            1 => disk.requests.status = 0xFF,
            2 => disk.requests.written_more = -1,
            3 => disk.requests.written_more = 1,
            _ => disk.requests.lost = true,
        }
        assert_eq!(disk.write(0, &[0; 4096]), Err(DiskError), "{lie}");
        assert_eq!(disk.read(0, &mut [0; 4096]), Err(DiskError), "{lie}");
        assert_eq!(disk.flush(), Err(DiskError), "{lie}");
    }
}

#[test]
fn a_disk_without_flush_or_that_cannot_be_written_is_refused() {
    let with = |features| Said { features, ..Said::default() }.accepted();
    assert_eq!(with(FLUSH | VERSION_1), Ok(FLUSH | VERSION_1));
    assert_eq!(with(!READ_ONLY), Ok(FLUSH | VERSION_1 | BLOCK_SIZE | TOPOLOGY));
    for features in [0, FLUSH, VERSION_1, FLUSH | VERSION_1 | READ_ONLY] {
        assert_eq!(with(features), Err(DeviceFault::Unfit));
    }
}

#[test]
fn the_block_is_the_physical_one() {
    let said = |features, block_bytes, physical_exponent| {
        Said { features, sectors: 2048, block_bytes, physical_exponent }
            .geometry()
            .map(|shape| shape.block_bytes)
    };
    let both = BLOCK_SIZE | TOPOLOGY;
    assert_eq!(said(0, 0, 0), Ok(512));
    assert_eq!(said(both, 512, 3), Ok(4096));
    assert_eq!(said(BLOCK_SIZE, 4096, 9), Ok(4096));
    for (block_bytes, exponent) in
        [(0, 0), (511, 0), (512, 4), (8192, 0), (1 << 31, 1), (512, 255), (512, 32)]
    {
        assert_eq!(said(both, block_bytes, exponent), Err(DeviceFault::Geometry), "{block_bytes} {exponent}");
    }
    let huge = Said { sectors: u64::MAX, ..Said::default() };
    assert_eq!(huge.geometry(), Err(DeviceFault::Geometry));
}
