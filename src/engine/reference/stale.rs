//! Whether a change is of nothing but the data of indices that a tenant named.

use super::permall::Permall;
use super::user_nvram::each_ordinary;
use core::ops::{Range, RangeInclusive};

/// Whether `old` became `new` by writes to ordinary NV indices among `named` alone. A state that is not understood to its last byte
/// is no reason to say yes.
///
/// The walk is of `new`; where it finds no data of such an index, `old` has the same bytes, so that a walk of it would find the same.
pub(super) fn is_data_of(old: &[u8], new: &[u8], named: &RangeInclusive<u32>) -> bool {
    let Some(found) = Permall::find(new) else { return false };
    if old.len() != new.len() || found.holds_saved_state(new) {
        return false;
    }
    let (mut is_same, mut from) = (true, 0);
    let walked = each_ordinary(new, found.orderly_data, &mut |handle, data: Range<usize>| {
        if named.contains(&handle) {
            is_same &= old.get(from..data.start) == new.get(from..data.start);
            from = data.end;
        }
    });
    walked.is_ok() && is_same && old.get(from..) == new.get(from..)
}
