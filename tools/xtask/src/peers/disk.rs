//! A kernel below the image with a disk: its data go both ways, by its driver for virtio and by memory that is its own.

use super::group;
use crate::below::{Below, Start};
use crate::failure::Failure;
use crate::guest::{QUIET, Report, image_for_disk};
use crate::steps::{Step, Steps};
use crate::{house, setup};
use std::fs;
use std::path::Path;

/// The disk's size, and where the guest writes, in bytes.
const DISK_BYTES: usize = 8 << 20;
const WRITTEN_AT: usize = 6 << 20;
/// What the guest writes, again and again up to the end of its MiB.
const LINE: &[u8] = b"what the guest wrote\n";

/// Runs the boot as steps.
pub(super) fn into(steps: &mut Steps) {
    group(steps, "kernel guest with a disk", boots());
}

fn boots() -> Result<Vec<Step>, Failure> {
    let kernel = setup::fetched_kernel()?;
    let initramfs = image_for_disk(&kernel)?;
    let folder = house::fresh_workshop("peers/disk")?;
    let mut below = Below::set(&folder, kernel, initramfs)?;
    let image = folder.join("guest.disk");
    let content = content();
    fs::write(&image, &content).map_err(|error| Failure::io("write", &image, &error))?;
    let volume = below.vm.disk.clone();
    let path = image.to_string_lossy();
    let words = ["--disk", &path];
    let start = Start {
        script: "disk",
        settings: &[],
        disk: &volume,
        guest_cpus: 1,
        words: &words,
        kernel_words: QUIET,
    };
    let console = below.boot_console(start)?;
    let mut steps = Report::read(&console).judged();
    steps.push(kept(&image, &content));
    Ok(steps)
}

/// Sectors that differ from each other: each number of four bytes is its own place.
fn content() -> Vec<u8> {
    (0..DISK_BYTES / 4).flat_map(|at| u32::try_from(at).unwrap_or(u32::MAX).to_le_bytes()).collect()
}

/// What the host finds: the guest's writing where it wrote, and nothing else changed.
fn kept(image: &Path, before: &[u8]) -> Step {
    let mut wanted = before.to_vec();
    for (byte, written) in wanted[WRITTEN_AT..WRITTEN_AT + (1 << 20)].iter_mut().zip(LINE.iter().cycle()) {
        *byte = *written;
    }
    let found = fs::read(image).unwrap_or_default();
    let differs = found.iter().zip(&wanted).position(|(found, wanted)| found != wanted);
    let passed = found.len() == wanted.len() && differs.is_none();
    let seen = differs
        .map_or_else(|| "a MiB is written, and no other byte".to_owned(), |at| format!("byte {at} differs"));
    Step { name: "written-to-the-file".into(), passed, seen }
}
