//! The kernel below the image: two processors of which one goes and comes, a reset by the guest, an orderly end; then the same VM
//! with its CRB in the guest's own memory.
//!
//! The newest kernel has one processor: with two, QEMU 7.2 lets it run into a half-written instruction while the kernel patches itself
//! (`Oops: int3` in one of some fourteen boots), with and without the layer.

use super::group;
use crate::below::Below;
use crate::failure::Failure;
use crate::guest::image;
use crate::setup::Kernel;
use crate::steps::{Step, Steps};
use crate::{house, setup};

/// Runs the boots as steps: on this release's kernel, and if `all` on the newest that Debian has.
pub(super) fn into(steps: &mut Steps, all: bool) {
    group(steps, "kernel guest below the image", boots("layer", setup::fetched_kernel(), ("processors", 2)));
    if all {
        let newest = boots("layer-newest", setup::newest_kernel(), ("one-processor", 1));
        group(steps, "newest kernel guest below the image", newest);
    }
}

/// Two machines, one after the other, whose guests boot twice: each script finds the second time what it left the first. The first
/// machine's script and processors are given.
fn boots(
    name: &str,
    kernel: Result<Kernel, Failure>,
    (script, guest_cpus): (&str, u8),
) -> Result<Vec<Step>, Failure> {
    let kernel = kernel?;
    println!("layer: the guest's kernel is {}", kernel.version);
    let mut below = Below::set(&house::fresh_workshop(&format!("peers/{name}"))?, kernel, image()?)?;
    let trapped = below.boot(script, &[], guest_cpus)?;
    let private = below.boot_with(&["--crb", "private"], "private-crb", &[], 1)?;
    Ok([trapped.judged(), private.judged()].concat())
}
