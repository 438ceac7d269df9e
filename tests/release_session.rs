//! Laws of the VM's side of the protocol, against an honest broker end behind a relay that is not.

#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

#[path = "support/broker_end.rs"]
mod broker_end;
#[path = "release_session/ephemeral.rs"]
mod ephemeral;
#[path = "support/nothing.rs"]
mod nothing;
#[path = "support/relay_world.rs"]
mod relay_world;
#[path = "release_session/tenure.rs"]
mod tenure;

use husk::release::open::Verdict;
use husk::release::session::SessionMemory;
use husk::release::transcript::SigningKey;
use husk::release::wire::{
    DeniedReason, FRAME_HEADER_BYTES, FrameKind, GrantIntent, GrantReply, RefusalReason, ServerHello,
};
use husk::release::{Head, ReleaseFault, frame};
use relay_world::{Act, Keys, World, after};
use std::mem::offset_of;
use std::sync::OnceLock;
use zerocopy::byteorder::little_endian::{U16, U64};

/// Exchanges of a whole life: hello, attest, grant, confirm, anchor, renew, bump, release.
const EXCHANGES: usize = 8;
/// The first exchange that a tenure makes, and so the first that is sent again.
const TENURE: usize = 3;

fn life(world: &mut World) -> Result<Head, ReleaseFault> {
    world.life(&mut SessionMemory::new())
}

/// A life in which the relay acts once.
fn life_with(number: usize, act: Act) -> (Result<Head, ReleaseFault>, World) {
    let mut world = World::new(1);
    world.relay.acts.push((number, act));
    (life(&mut world), world)
}

/// The frames of an undisturbed life of seed 1.
fn honest() -> Vec<(Vec<u8>, Vec<u8>)> {
    static FRAMES: OnceLock<Vec<(Vec<u8>, Vec<u8>)>> = OnceLock::new();
    let lived = || {
        let mut world = World::new(1);
        life(&mut world).unwrap();
        assert_eq!(world.relay.log.len(), EXCHANGES);
        world.relay.log
    };
    FRAMES.get_or_init(lived).clone()
}

/// The act changed nothing: broker and VM agree about the end.
fn assert_harmless(outcome: Result<Head, ReleaseFault>, world: &World, what: &str) {
    assert_eq!(outcome, Ok(world.relay.broker.row.head), "{what}");
    assert_eq!(world.relay.broker.row.head.sequence, 2, "{what}");
    assert!(world.relay.broker.row.released, "{what}");
}

// Honest hands.

#[test]
fn a_vm_is_created_once_and_then_opened_with_the_key_that_sealed_it() {
    let mut world = World::new(7);
    let mut memory = SessionMemory::new();
    let (first, mut tenure) = world.granted(&mut memory).unwrap();
    assert_eq!((first.current, first.epoch, first.head), (None, 0, Head::NONE));
    let head = after(&first.head);
    let anchored = tenure.confirm(&mut world.platform(), &head).unwrap();
    assert_eq!(*anchored.head(), head);
    assert_eq!((tenure.standing().epoch(), tenure.standing().head()), (1, &head));
    tenure.release(&mut world.platform()).unwrap();
    assert_eq!(world.relay.broker.certificate_seen, 1400);

    let mut world = world.relaunch(8);
    let mut memory = SessionMemory::new();
    let (second, _) = world.granted(&mut memory).unwrap();
    assert_eq!(second, Keys { current: Some(first.next), next: second.next, epoch: 1, head });
    assert_ne!(second.next, first.next);
}

#[test]
fn busy_changes_nothing_and_the_same_session_asks_again() {
    let mut world = World::new(1);
    world.relay.broker.busy = true;
    let mut memory = SessionMemory::new();
    let mut client = world.client(&mut memory).unwrap();
    let attested = world.attested(&mut client).unwrap();
    let verdict = attested.grant(&mut world.platform(), &mut client).unwrap();
    let Verdict::Busy { again, retry_ms } = verdict else { panic!("granted") };
    assert_eq!((retry_ms, world.relay.broker.row.token), (1234, 0));
    world.relay.broker.busy = false;
    let verdict = again.grant(&mut world.platform(), &mut client).unwrap();
    assert!(matches!(verdict, Verdict::Granted(_)));
}

#[test]
fn the_alarm_about_missing_state_is_raised_and_ends_the_grant() {
    let mut world = World::new(1);
    let mut memory = SessionMemory::new();
    let (_, tenure) = world.granted(&mut memory).unwrap();
    tenure.state_missing(&mut world.platform(), 0x0404_0007).unwrap();
    assert_eq!(world.relay.broker.row.alarm, Some(0x0404_0007));
}

// The relay changes what comes to the VM.

/// Which fault a changed byte of a server hello's frame gives.
fn fault_of_server_hello(at: usize) -> ReleaseFault {
    let Some(at) = at.checked_sub(FRAME_HEADER_BYTES) else { return ReleaseFault::ReplyRefused };
    let trusted = offset_of!(ServerHello, tenant_root)..offset_of!(ServerHello, signature);
    if trusted.contains(&at) { ReleaseFault::BrokerUntrusted } else { ReleaseFault::ReplyRefused }
}

/// Bits of two kinds take turns, so that no pattern of bits is left out.
fn flip(at: usize) -> u8 {
    if at.is_multiple_of(2) { 0x01 } else { 0x80 }
}

#[test]
fn every_changed_byte_of_a_server_hello_has_its_fault() {
    let (_, reply) = honest().swap_remove(0);
    for at in 0..reply.len() {
        let mut forged = reply.clone();
        forged[at] ^= flip(at);
        let (outcome, _) = life_with(0, Act::Forge(forged));
        assert_eq!(outcome, Err(fault_of_server_hello(at)), "byte {at}");
    }
}

#[test]
fn every_changed_byte_of_a_reply_before_the_grant_is_refused() {
    for (number, (_, reply)) in honest().iter().enumerate().take(TENURE).skip(1) {
        for at in 0..reply.len() {
            let (outcome, _) = life_with(number, Act::Flip { at, with: flip(at) });
            assert_eq!(outcome, Err(ReleaseFault::ReplyRefused), "exchange {number}, byte {at}");
        }
    }
}

/// A life in which the relay acts on the reply to the first sending of each request of the tenure.
fn life_with_all(act: impl Fn(&[u8]) -> Act) -> (Result<Head, ReleaseFault>, World) {
    let mut world = World::new(1);
    for (count, (_, reply)) in honest().iter().skip(TENURE).enumerate() {
        world.relay.acts.push((TENURE + 2 * count, act(reply)));
    }
    let outcome = life(&mut world);
    assert_eq!(world.relay.log.len(), TENURE + 2 * (EXCHANGES - TENURE), "each is sent twice");
    (outcome, world)
}

#[test]
fn every_changed_byte_of_a_reply_after_the_grant_is_harmless() {
    let longest = honest().iter().skip(TENURE).map(|(_, reply)| reply.len()).max().unwrap();
    for at in 0..longest {
        let act = |reply: &[u8]| Act::Flip { at: at.min(reply.len() - 1), with: flip(at) };
        let (outcome, world) = life_with_all(act);
        assert_harmless(outcome, &world, &format!("byte {at}"));
        let (outcome, world) = life_with_all(|reply| Act::Truncate(at.min(reply.len() - 1)));
        assert_harmless(outcome, &world, &format!("{at} bytes"));
    }
}

#[test]
fn a_reply_in_a_frame_of_another_kind_is_refused_before_the_grant_and_harmless_after_it() {
    for (number, (_, reply)) in honest().iter().enumerate() {
        let right = reply[FRAME_HEADER_BYTES - 1];
        for kind in FrameKind::ALL.iter().map(|kind| *kind as u8).filter(|kind| *kind != right) {
            let flip = Act::Flip { at: FRAME_HEADER_BYTES - 1, with: right ^ kind };
            let (outcome, world) = life_with(number, flip);
            match number {
                0..TENURE => assert_eq!(outcome, Err(ReleaseFault::ReplyRefused), "{number} as {kind}"),
                _ => assert_harmless(outcome, &world, &format!("{number} as {kind}")),
            }
        }
    }
}

#[test]
fn a_truncation_before_the_grant_is_refused() {
    for (number, (_, reply)) in honest().iter().enumerate().take(TENURE) {
        for length in (0..FRAME_HEADER_BYTES + 40).chain((0..reply.len()).step_by(9)) {
            let (outcome, _) = life_with(number, Act::Forge(reply[..length].to_vec()));
            assert_eq!(outcome, Err(ReleaseFault::ReplyRefused), "exchange {number}, {length} bytes");
        }
    }
}

#[test]
fn a_dropped_message_is_unreachable_before_the_grant_and_harmless_after_it() {
    for number in 0..EXCHANGES {
        for act in [Act::DropRequest, Act::DropReply] {
            let (outcome, world) = life_with(number, act.clone());
            match number {
                0..TENURE => assert_eq!(outcome, Err(ReleaseFault::Unreachable), "{number} {act:?}"),
                _ => assert_harmless(outcome, &world, &format!("{number} {act:?}")),
            }
        }
        let (outcome, world) = life_with(number, Act::TooLong);
        match number {
            0..TENURE => assert_eq!(outcome, Err(ReleaseFault::ReplyRefused), "{number}"),
            _ => assert_harmless(outcome, &world, &format!("{number}")),
        }
    }
}

#[test]
fn a_changed_request_is_refused_by_the_broker_and_changes_nothing() {
    for (number, (request, _)) in honest().iter().enumerate() {
        for at in (0..request.len()).step_by(if number == 1 { 97 } else { 11 }) {
            let (outcome, world) = life_with(number, Act::FlipRequest { at, with: 0x10 });
            let what = format!("exchange {number}, byte {at}");
            match number {
                0..TENURE => assert!(outcome.is_err(), "{what}"),
                _ => assert_harmless(outcome, &world, &what),
            }
        }
    }
}

/// Every frame that this session or another ever saw, in place of every reply.
#[test]
fn replayed_and_swapped_replies_are_refused_before_the_grant_and_harmless_after_it() {
    let own = honest();
    let mut elsewhere = World::new(2);
    life(&mut elsewhere).unwrap();
    let frames = |log: Vec<(Vec<u8>, Vec<u8>)>| log.into_iter().flat_map(|(request, reply)| [request, reply]);
    let others = frames(own.clone()).chain(frames(elsewhere.relay.log)).collect::<Vec<_>>();
    // Another broker's server hello shows another tenant root key.
    let anothers_hello = 2 * EXCHANGES + 1;
    for (number, (_, right)) in own.iter().enumerate() {
        for (at, frame) in others.iter().enumerate().filter(|(_, frame)| *frame != right) {
            let (outcome, world) = life_with(number, Act::Replace(frame.clone()));
            let what = format!("frame {at} for exchange {number}");
            match number {
                0 if at == anothers_hello => {
                    assert_eq!(outcome, Err(ReleaseFault::BrokerUntrusted), "{what}")
                }
                0..TENURE => assert_eq!(outcome, Err(ReleaseFault::ReplyRefused), "{what}"),
                _ => assert_harmless(outcome, &world, &what),
            }
        }
    }
}

/// The same broker's earlier server hello answers another hello.
#[test]
fn an_old_server_hello_of_the_right_broker_is_refused() {
    let mut world = World::new(1);
    let mut memory = SessionMemory::new();
    let mut client = world.client(&mut memory).unwrap();
    let _greeted = client.hello(&mut world.platform()).unwrap();
    let old = world.relay.log[0].1.clone();
    world.relay.acts.push((1, Act::Replace(old)));
    assert_eq!(client.hello(&mut world.platform()).map(|_| ()), Err(ReleaseFault::ReplyRefused));
}

/// Refusals that nobody authenticated: they say what to try next and nothing else.
#[test]
fn forged_refusals_end_nothing_that_is_granted() {
    let mut reasons: Vec<(u16, ReleaseFault)> =
        vec![(0, ReleaseFault::ReplyRefused), (7, ReleaseFault::ReplyRefused)];
    for &reason in RefusalReason::ALL {
        let fault = match reason {
            RefusalReason::Malformed | RefusalReason::Version => ReleaseFault::DeniedOther,
            RefusalReason::UnknownSession => ReleaseFault::SessionLost,
            RefusalReason::UnknownVm => ReleaseFault::DeniedVm,
            RefusalReason::Unavailable => ReleaseFault::Unreachable,
            RefusalReason::NoKbs => ReleaseFault::KbsAbsent,
        };
        reasons.push((reason as u16, fault));
    }
    for (reason, fault) in reasons {
        let mut refusal = [0; 16];
        let length = frame::refusal(RefusalReason::Malformed, &mut refusal).unwrap();
        refusal[FRAME_HEADER_BYTES..][..2].copy_from_slice(&reason.to_le_bytes());
        for number in 0..EXCHANGES {
            let (outcome, world) = life_with(number, Act::Replace(refusal[..length].to_vec()));
            let what = format!("reason {reason} for exchange {number}");
            match number {
                0..TENURE => assert_eq!(outcome, Err(fault), "{what}"),
                _ => assert_harmless(outcome, &world, &what),
            }
        }
    }
}

// Somebody else answers.

#[test]
fn a_broker_that_the_tenant_did_not_certify_is_not_believed() {
    let bends: [fn(&mut World); 5] = [
        |world| {
            // Another root, shown openly.
            let config = world.config();
            world.relay.broker = broker_end::BrokerEnd::new(99);
            assert_ne!(world.config().root, config.root);
        },
        |world| {
            world.relay.broker.bend.certifier =
                Some(SigningKey::generate(&mut broker_end::Seeded::new(3)).unwrap());
        },
        |world| world.relay.broker.bend.certificate = Some(|certificate| certificate.tenant[0] ^= 1),
        |world| world.relay.broker.bend.certificate = Some(|certificate| certificate.usage = U16::new(1)),
        |world| world.relay.broker.key_generation = 2,
    ];
    for (number, bend) in bends.into_iter().enumerate() {
        let mut world = World::new(1);
        let mut memory = SessionMemory::new();
        let mut client = world.client(&mut memory).unwrap();
        bend(&mut world);
        let outcome = client.hello(&mut world.platform()).map(|_| ());
        assert_eq!(outcome, Err(ReleaseFault::BrokerUntrusted), "bend {number}");
    }
}

#[test]
fn a_certified_broker_with_another_key_or_a_bad_point_is_refused() {
    let mut world = World::new(1);
    world.relay.broker.bend.certificate = Some(|certificate| {
        certificate.key = *SigningKey::generate(&mut broker_end::Seeded::new(4)).unwrap().point();
    });
    assert_eq!(life(&mut world), Err(ReleaseFault::ReplyRefused));
    // What a dishonest broker signs itself is still a point that must lie on the curve: this end panics on nothing.
    let mut world = World::new(1);
    let mut memory = SessionMemory::new();
    let mut client = world.client(&mut memory).unwrap();
    world.relay.broker.bend.server_hello = Some(|server| server.ephemeral[40] ^= 1);
    assert_eq!(client.hello(&mut world.platform()).map(|_| ()), Err(ReleaseFault::ReplyRefused));
}

// The grant.

#[test]
fn a_grant_for_another_session_or_report_is_refused() {
    // Yesterday's grant, sealed again in today's session by somebody who has its keys.
    let mut world = World::new(1);
    world.relay.broker.bend.grant_transcript = Some([9; 48]);
    assert_eq!(life(&mut world), Err(ReleaseFault::GrantRefused));
    let mut world = World::new(1);
    world.relay.broker.bend.grant_report = Some([9; 48]);
    assert_eq!(life(&mut world), Err(ReleaseFault::GrantRefused));
}

#[test]
fn a_grant_that_does_not_fit_together_is_refused() {
    type Bend = fn(&mut GrantReply);
    let of_create: [Bend; 12] = [
        |grant| grant.intent = 0,
        |grant| grant.intent = 5,
        |grant| grant.intent = GrantIntent::Ephemeral as u8,
        |grant| (grant.intent, grant.next_secret) = (GrantIntent::Ephemeral as u8, [0; 32]),
        |grant| grant.intent = GrantIntent::Open as u8,
        |grant| grant.reserved[1] = 1,
        |grant| grant.token = U64::new(0),
        |grant| grant.epoch = U64::new(1),
        |grant| grant.head.sequence = U64::new(1),
        |grant| grant.head.digest[3] = 1,
        |grant| grant.epoch_secret[0] = 1,
        |grant| grant.next_secret = [0; 32],
    ];
    for (number, bend) in of_create.into_iter().enumerate() {
        let mut world = World::new(1);
        world.relay.broker.bend.grant = Some(bend);
        assert_eq!(life(&mut world), Err(ReleaseFault::GrantRefused), "create, bend {number}");
    }
    let of_open: [Bend; 9] = [
        |grant| ephemeral::forget(grant),
        |grant| grant.intent = GrantIntent::Create as u8,
        |grant| grant.epoch = U64::new(0),
        |grant| grant.epoch = U64::new(u64::MAX - 1),
        |grant| grant.head.sequence = U64::new(0),
        |grant| grant.head.digest = [0; 48],
        |grant| grant.epoch_secret = [0; 32],
        |grant| grant.next_secret = [0; 32],
        |grant| grant.next_secret = grant.epoch_secret,
    ];
    for (number, bend) in of_open.into_iter().enumerate() {
        let mut world = World::new(1);
        life(&mut world).unwrap();
        let mut world = world.relaunch(2);
        world.relay.broker.bend.grant = Some(bend);
        assert_eq!(life(&mut world), Err(ReleaseFault::GrantRefused), "open, bend {number}");
    }
}

#[test]
fn a_grant_with_the_right_shape_is_taken() {
    let mut world = World::new(1);
    world.relay.broker.row.generation = 5;
    let mut memory = SessionMemory::new();
    let (_, tenure) = world.granted(&mut memory).unwrap();
    assert_eq!((tenure.standing().token(), tenure.standing().generation()), (1, 5));
}

#[test]
fn replies_of_another_size_are_refused() {
    let mut world = World::new(1);
    world.relay.broker.bend.longer_replies = true;
    assert_eq!(life(&mut world), Err(ReleaseFault::ReplyRefused));
}

#[test]
fn every_denial_has_its_fault() {
    for &reason in DeniedReason::ALL {
        let mut world = World::new(1);
        world.relay.broker.deny = Some(reason);
        let fault = match reason {
            DeniedReason::Evidence => ReleaseFault::DeniedEvidence,
            DeniedReason::SimulatedSilicon => ReleaseFault::DeniedSimulated,
            DeniedReason::Measurement => ReleaseFault::DeniedMeasurement,
            DeniedReason::LaunchConfig => ReleaseFault::DeniedLaunchConfig,
            DeniedReason::GuestPolicy | DeniedReason::Tcb | DeniedReason::Chip => ReleaseFault::DeniedPolicy,
            DeniedReason::Lifecycle => ReleaseFault::DeniedVm,
            DeniedReason::Binding | DeniedReason::Order | DeniedReason::InstanceReused => {
                ReleaseFault::DeniedOther
            }
        };
        assert_eq!(life(&mut world), Err(fault), "{reason:?}");
    }
}

#[test]
fn without_report_clock_or_entropy_there_is_no_session() {
    let mut world = World::new(1);
    world.reporter.works = false;
    assert_eq!(life(&mut world), Err(ReleaseFault::NoReport));
    let mut world = World::new(1);
    world.clock = None;
    assert_eq!(life(&mut world), Err(ReleaseFault::NoClock));
    assert!(world.relay.log.is_empty(), "said before anything was sent");
}

// Frozen bytes.

fn dump(log: &[(Vec<u8>, Vec<u8>)]) -> String {
    let lines = log.iter().flat_map(|(request, reply)| {
        [format!("> {}\n", hex::encode(request)), format!("< {}\n", hex::encode(reply))]
    });
    lines.collect()
}

/// Both ends from fixed seeds: a launch that creates, and the next one that opens. After a change of the format that
/// `protocol.md` tells first, `HUSK_FREEZE=1` writes the files anew.
#[test]
fn old_messages_still_have_the_same_bytes() {
    let mut world = World::new(0x601D);
    life(&mut world).unwrap();
    let create = dump(&world.relay.log);
    let mut world = world.relaunch(0x601E);
    life(&mut world).unwrap();
    let open = dump(&world.relay.log);
    for (name, now) in [("wire_create", create), ("wire_open", open)] {
        let path = format!("{}/tests/data/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("HUSK_FREEZE").is_some() {
            std::fs::write(&path, &now).unwrap();
        }
        let frozen = std::fs::read_to_string(&path).unwrap();
        for (number, (now, frozen)) in now.lines().zip(frozen.lines()).enumerate() {
            assert_eq!(now, frozen, "{name}, line {}", number + 1);
        }
        assert_eq!(now.len(), frozen.len());
    }
}

#[test]
fn frames_of_the_wire_have_their_kinds() {
    for (number, (mut request, mut reply)) in honest().into_iter().enumerate() {
        let kinds = [frame::open(&mut request).unwrap().0, frame::open(&mut reply).unwrap().0];
        let expected = match number {
            0 => [FrameKind::Hello, FrameKind::ServerHello],
            _ => [FrameKind::Request, FrameKind::Reply],
        };
        assert_eq!(kinds, expected);
    }
}
