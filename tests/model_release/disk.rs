//! What must hold at any moment of the keys that are out and of what lies on an honest disk.

use crate::relay::id_of;
use crate::world::{Harm, Rules, State, TICK_MS, instance_id};
use husk_broker::rules::{Grant, Life, Moment, Order, Reply, Request, Row, operate};

impl State {
    /// P4: the key of what is sealed now is with its own instance, and with who was granted later.
    pub(crate) fn check_keys(&mut self) {
        let (Some(current), (by, under)) = (self.row.current, self.confirmed_by) else { return };
        let newest_of = |instance| {
            self.knows.iter().filter(|(other, ..)| *other == instance).map(|(_, token, _)| *token).max()
        };
        let older = |&(instance, _, made_for): &(u8, u64, u64)| {
            made_for == current.token && instance != by && newest_of(instance) < Some(under)
        };
        if self.knows.iter().any(older) {
            self.hurt(Harm::KeyOfANewerInstance);
        }
    }
}

impl Rules {
    /// P3: whoever asks once the lease is over is granted what opens the head, and the head is on the disk.
    pub(crate) fn check_disk(self, state: &mut State) {
        if !matches!(state.row.life, Life::Virgin | Life::Active) {
            return;
        }
        // An order to restore can be taken back, and then the head is opened as ever.
        let stays = state.row.restoring.is_none() || {
            let halted = operate(&state.row, Order::Halt).and_then(|row| operate(&row, Order::Resume));
            halted.is_ok_and(|row| self.boots(state, &row))
        };
        let boots = stays && self.boots(state, &state.row);
        if !boots {
            state.hurt(Harm::HonestDiskDoesNotBoot);
        } else if !state.contains(id_of(&state.row.head), state.outside.state) {
            state.hurt(Harm::LostAcknowledged);
        }
    }

    /// Whether whoever asks next can go on from what it is granted.
    fn boots(self, state: &State, row: &Row) -> bool {
        let later = Moment { now_ms: row.lease_until_ms.saturating_add(1), lease_ms: TICK_MS };
        let asked = Request::Grant { report_id: [9; 32], guest_svn: 0 };
        match (self.broker.step)(row, later, instance_id(99), &asked).1 {
            Reply::Granted(Grant { restores: true, .. }) => state.backup != 0,
            Reply::Granted(Grant { current, head, generation, .. }) if head.sequence > 0 => {
                let object = state.object(id_of(&head));
                !object.lost && current == Some(object.secret) && generation == object.generation
            }
            Reply::Granted(_) => state.outside.state == 0,
            _ => false,
        }
    }
}
