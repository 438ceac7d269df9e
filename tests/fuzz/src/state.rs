//! The walk through the reference engine's permanent state.

use crate::permall::Permall;

/// A permanent state. What the walk finds can be changed, and is found again in the same places.
pub(crate) fn permall(data: &[u8]) {
    let Some(found) = Permall::find(data) else { return };
    let before = (found.holds_saved_state(data), found.audits(data));
    let mut state = data.to_vec();
    found.set_reset_count(&mut state, 0x1234_5678);
    found.raise_clock(&mut state, u64::MAX);
    found.spend_attempts(&mut state);
    assert_eq!(Permall::find(&state).as_ref(), Some(&found), "a number is not where the walk ends");
    assert_eq!((found.holds_saved_state(&state), found.audits(&state)), before);
    let changed = state.iter().zip(data).filter(|(new, old)| new != old).count();
    assert!(changed <= 12 + 4 + 1 && state.len() == data.len());
}

/// A recorded state: its beginning, which is all that is walked, and the same as libtpms 0.10 would head it.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let whole = include_bytes!("../../data/engine/libtpms-0.09.state");
    let start = whole.windows(4).position(|magic| magic == [0xAB, 0x36, 0x47, 0x23]).unwrap() - 2;
    let state = &whole[start..];
    let walked = (1..=state.len()).find(|length| Permall::find(&state[..*length]).is_some()).unwrap();
    let mut newer = state[..walked].to_vec();
    newer[1] = 4;
    newer.splice(8..8, [0, 3, b'{', b'}', 0]);
    vec![state[..walked].to_vec(), state[..walked - 1].to_vec(), newer]
}
