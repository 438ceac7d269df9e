//! Spends, in a stored state, every guess that an attacker may have made since it was stored.
//!
//! A state from a backup does not know what was tried after it. So it is taken for the worst: as many failed authorizations as its owner
//! allows (TPM 2.0 part 1, section "Dictionary Attack Protection"), lockoutAuth tried too, and every PIN used up (part 1, section "PIN index").

use super::permall::Permall;
use super::user_nvram::{Index, each_index};
use core::ops::Range;

/// TPM_NT in TPMA_NV (TPM 2.0 part 2, "TPM_NT"), and the two that count uses of a PIN.
const INDEX_TYPE: u32 = 0xF0;
const PIN_FAIL: u32 = 0x80;
const PIN_PASS: u32 = 0x90;
/// TPMA_NV_WRITTEN.
const WRITTEN: u32 = 1 << 29;
/// TPMS_NV_PIN_COUNTER_PARAMETERS: pinCount, pinLimit.
const COUNT_BYTES: usize = 4;
/// More than a state has indices.
const PINS_MAX: usize = 256;

/// Spends them; whether `state` was understood to its last byte. If not, it is of no use.
pub(super) fn spend(state: &mut [u8]) -> bool {
    let Some(found) = Permall::find(state).filter(|found| !found.holds_saved_state(state)) else {
        return false;
    };
    let mut pins: heapless::Vec<Range<usize>, PINS_MAX> = heapless::Vec::new();
    let mut fits = true;
    let walked = each_index(state, found.orderly_data, &mut |index: Index| {
        let counts_uses = matches!(index.attributes & INDEX_TYPE, PIN_FAIL | PIN_PASS);
        // The data of an orderly index are elsewhere, and come as an index of their own.
        if counts_uses && index.attributes & WRITTEN != 0 && !index.data.is_empty() {
            fits &= index.data.len() == 2 * COUNT_BYTES && pins.push(index.data).is_ok();
        }
    });
    if walked.is_err() || !fits {
        return false;
    }
    found.spend_attempts(state);
    pins.into_iter().all(|pin| use_up(state, pin))
}

/// pinCount becomes pinLimit.
fn use_up(state: &mut [u8], pin: Range<usize>) -> bool {
    let Some((count, limit)) = state.get_mut(pin).and_then(|pin| pin.split_at_mut_checked(COUNT_BYTES))
    else {
        return false;
    };
    if count.iter().lt(limit.iter()) {
        count.copy_from_slice(limit);
    }
    true
}
