//! A backup that an operator brings to the broker, whole or spoilt, and what the instance that is granted it asks for.

use super::{Script, framed, patch};
#[cfg(test)]
use crate::bench::{Bench, VM};
use crate::brought::Brought;
use husk::release::frame;
use husk::release::statement::{Outcome, Statement};
use husk::release::ticket::TicketOrder;
use husk::release::wire::{FrameKind, Operation, RestorePartRequest, RestoreRequest};
use zerocopy::IntoBytes;

/// A backup with its order.
pub(super) struct Bringing {
    brought: Brought,
    /// How many pieces of it came unspoilt, one after the other, from the first on.
    came: usize,
}

impl Script<'_> {
    /// A piece of a backup, which the script spoils: then nothing is ordered.
    pub(super) fn bring(&mut self) {
        let order = [TicketOrder::Restore, TicketOrder::Clone][self.input.below(2)];
        let number = self.input.below(3);
        let mut bringing = self
            .bringing
            .take()
            .unwrap_or_else(|| Bringing { brought: Brought::new(&self.bench, order), came: 0 });
        let honest = bringing.brought.piece(number).as_bytes().to_vec();
        let mut bytes = honest.clone();
        patch(&mut bytes, &mut self.input);
        let (kind, body) = self.handle(&framed(FrameKind::BackupBrought, &bytes));
        let outcome = (kind == FrameKind::Statement).then(|| {
            let said: Statement = frame::exactly(&body).unwrap();
            Outcome::from_number(said.outcome).unwrap()
        });
        let fits = bytes == honest && (number == 0 || number == bringing.came);
        match outcome {
            Some(Outcome::Brought) => bringing.came = if fits { number + 1 } else { usize::MAX },
            Some(Outcome::Open | Outcome::Done) => {
                assert!(fits && number == bringing.brought.last(), "a spoilt backup is ordered");
                bringing.came = usize::MAX;
            }
            _ => {}
        }
        self.bringing = Some(bringing);
    }

    /// The instance asks what is to be restored, or for a part of it.
    pub(super) fn restore(&mut self) {
        let Some(session) = &self.session else { return };
        let (token, generation) = (session.token.into(), session.generation.into());
        let number = self.input.byte();
        if number == 0 {
            self.ask(Operation::Restore, RestoreRequest { token, generation }.as_bytes(), false);
        } else {
            let asked = RestorePartRequest { token, generation, number: u32::from(number).into() };
            self.ask(Operation::RestorePart, asked.as_bytes(), false);
        }
    }
}

/// A restore and a clone that are carried out; `granted` is a script to a grant.
pub(super) fn seeds(granted: &[u8]) -> Vec<Vec<u8>> {
    let honest = [0; 4];
    let mut seeds = Vec::new();
    for order in [0, 1] {
        let piece = |number: u8| [&[11, order, number][..], &honest].concat();
        let brought = [piece(0), piece(1)].concat();
        seeds.push([&brought[..], granted, &[12, 0, 12, 1, 12, 2, 12, 9, 9, 12, 1]].concat());
        seeds.push([piece(1), piece(0), piece(0), piece(2)].concat());
        seeds.push([&brought[..], &brought].concat());
        // Another byte of the ticket, of its key, of the file.
        for at in [100_u16, 700, 1500] {
            let spoilt = [&[11, order, 0][..], &at.to_le_bytes(), &[1, 0, 0xFF]].concat();
            seeds.push([&spoilt[..], &piece(1)].concat());
        }
    }
    seeds
}

/// The seeds get as far as the last part, and no further.
#[test]
fn the_seeds_reach_the_confirmation_of_what_was_brought() {
    for seed in super::frame_seeds().iter().filter(|seed| seed.ends_with(&[9, 9, 12, 1])) {
        let mut script = Script::new(Bench::new(), seed);
        while !script.input.is_over() {
            script.step();
        }
        assert_eq!(script.bench.asked(&VM, [5; 32]).generation.get(), 1, "it is carried out");
    }
}
