//! Grants of a TPM that keeps nothing.

use crate::relay_world::World;
use husk::attest::launch::Mode;
use husk::release::session::SessionMemory;
use husk::release::wire::{GrantIntent, GrantReply, WireHead};
use husk::release::{Head, ReleaseFault};
use zerocopy::byteorder::little_endian::U64;

/// As for a TPM that keeps nothing.
pub(crate) fn forget(grant: &mut GrantReply) {
    (grant.intent, grant.epoch, grant.head) =
        (GrantIntent::Ephemeral as u8, U64::new(0), WireHead::from(&Head::NONE));
    (grant.epoch_secret, grant.next_secret) = ([0; 32], [0; 32]);
}

/// A broker that keeps a state, or hands a key out, for a TPM that is not kept is not the one that the configuration means.
#[test]
fn a_launch_that_keeps_nothing_takes_no_key() {
    type Bend = fn(&mut GrantReply);
    let bends: [Bend; 9] = [
        |_| {},
        |grant| grant.intent = GrantIntent::Ephemeral as u8,
        |grant| (grant.intent, grant.next_secret) = (GrantIntent::Create as u8, [0; 32]),
        |grant| {
            forget(grant);
            grant.epoch_secret[31] = 1;
        },
        |grant| {
            forget(grant);
            grant.epoch = U64::new(1);
        },
        |grant| {
            forget(grant);
            grant.head.sequence = U64::new(1);
        },
        |grant| {
            forget(grant);
            grant.head.digest[47] = 1;
        },
        |grant| {
            forget(grant);
            grant.token = U64::new(0);
        },
        |grant| {
            forget(grant);
            grant.reserved[2] = 1;
        },
    ];
    let granted = |bend: Bend| {
        let mut world = World::new(1);
        world.relay.broker.mode = Mode::Ephemeral;
        world.relay.broker.bend.grant = Some(bend);
        let mut memory = SessionMemory::new();
        let mut client = world.client(&mut memory).unwrap();
        let attested = world.attested(&mut client).unwrap();
        attested.grant(&mut world.platform(), &mut client).map(drop)
    };
    for (number, bend) in bends.into_iter().enumerate() {
        assert_eq!(granted(bend), Err(ReleaseFault::GrantRefused), "bend {number}");
    }
    assert_eq!(granted(forget), Ok(()));
}
