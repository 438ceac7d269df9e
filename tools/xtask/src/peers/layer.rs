//! The kernel below the image: two processors of which one goes and comes, a reset by the guest, an orderly end; then the same VM
//! with its CRB in the guest's own memory.

use super::group;
use crate::below::Below;
use crate::failure::Failure;
use crate::steps::{Step, Steps};
use crate::{house, setup};

/// Runs the boots as steps.
pub(super) fn into(steps: &mut Steps) {
    group(steps, "kernel guest below the image", boots());
}

/// Two machines, one after the other, whose guests boot twice: each script finds the second time what it left the first.
fn boots() -> Result<Vec<Step>, Failure> {
    let mut below = Below::set(&house::fresh_workshop("peers/layer")?, setup::fetched_kernel()?)?;
    let trapped = below.boot("processors", &[], 2)?;
    let private = below.boot_with(&["--crb", "private"], "private-crb", &[], 1)?;
    Ok([trapped.judged(), private.judged()].concat())
}
