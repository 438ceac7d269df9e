//! Laws of a granted instance: what it may answer, what it may send, when it stops.

use super::broker_end::{Bend, LEASE_MS};
use super::relay_world::{Act, World, after};
use super::{EXCHANGES, TENURE, assert_harmless, life, life_with};
use husk::release::session::SessionMemory;
use husk::release::tenure::{SENDINGS_MAX, Tenure};
use husk::release::wire::Status;
use husk::release::{Anchor, Head, ReleaseFault};

/// Session keys, instance key and frames are gone.
fn assert_wiped(tenure: &Tenure<'_>) {
    let shown = format!("{tenure:?}");
    for gone in ["instance: None", "caller: None", "SessionMemory(wiped)"] {
        assert!(shown.contains(gone), "{shown}");
    }
}

#[test]
fn a_grant_leaves_no_secret_in_the_frames() {
    let mut world = World::new(1);
    let mut memory = SessionMemory::new();
    let (_, tenure) = world.granted(&mut memory).unwrap();
    assert!(format!("{tenure:?}").contains("SessionMemory(wiped)"));
}

#[test]
fn every_definite_no_ends_the_instance_for_good() {
    for (status, fault) in [
        (Status::Fenced, ReleaseFault::Fenced),
        (Status::Conflict, ReleaseFault::Conflict),
        (Status::Denied, ReleaseFault::DeniedOther),
    ] {
        for ask in 0..4 {
            let mut world = World::new(1);
            let mut memory = SessionMemory::new();
            let mut tenure = world.serving(&mut memory).unwrap();
            world.relay.broker.bend.status = Some(status);
            let head = *tenure.standing().head();
            let mut platform = world.platform();
            let outcome = match ask {
                0 => tenure.anchor(&mut platform, &head, &after(&head)).map(|_| ()),
                1 => tenure.renew(&mut platform),
                2 => tenure.bump(&mut platform).map(|_| ()),
                _ => tenure.release(&mut platform),
            };
            assert_eq!(outcome, Err(fault), "{ask}");
            assert_wiped(&tenure);
            let exchanges = world.relay.log.len();
            world.relay.broker.bend.status = None;
            assert_eq!(tenure.permit(&mut world.platform()).map(|_| ()), Err(fault));
            assert_eq!(tenure.renew(&mut world.platform()), Err(fault));
            assert_eq!(tenure.may_write(&mut world.platform()), Err(fault));
            assert_eq!(world.relay.log.len(), exchanges, "nothing is sent any more");
        }
    }
}

/// BUSY, and a reply that has another shape than its request wants, are no answers: the outcome stays unknown.
#[test]
fn a_reply_that_makes_no_sense_decides_nothing() {
    for (status, longer_replies) in [(Some(Status::Busy), false), (Some(Status::Ok), false), (None, true)] {
        let mut world = World::new(1);
        let mut memory = SessionMemory::new();
        let mut tenure = world.serving(&mut memory).unwrap();
        (world.relay.broker.bend.status, world.relay.broker.bend.longer_replies) = (status, longer_replies);
        let (old, new) = (*tenure.standing().head(), after(tenure.standing().head()));
        let outcome = tenure.anchor(&mut world.platform(), &old, &new);
        assert_eq!(outcome.map(|_| ()), Err(ReleaseFault::Undecided));
        world.relay.broker.bend = Bend::default();
        let anchored = tenure.anchor(&mut world.platform(), &old, &new).unwrap();
        assert_eq!(*anchored.head(), new);
    }
}

#[test]
fn a_fenced_instance_learns_it_at_its_next_word() {
    let mut world = World::new(1);
    let mut memory = SessionMemory::new();
    let mut tenure = world.serving(&mut memory).unwrap();
    world.relay.broker.fence();
    assert!(tenure.permit(&mut world.platform()).is_ok(), "its lease is what the other waits for");
    world.pass_ms(u64::from(LEASE_MS) * 9 / 10);
    assert_eq!(tenure.permit(&mut world.platform()).map(|_| ()), Err(ReleaseFault::Fenced));
}

#[test]
fn an_undecided_commit_is_all_that_can_be_sent_until_it_is_decided() {
    for act in [Act::DropRequest, Act::DropReply, Act::Flip { at: 40, with: 1 }, Act::Truncate(3)] {
        let mut world = World::new(1);
        let mut memory = SessionMemory::new();
        let mut tenure = world.serving(&mut memory).unwrap();
        let (old, new) = (*tenure.standing().head(), after(tenure.standing().head()));
        world.relay.from = Some((4, act));
        for _ in 0..2 {
            let before = world.relay.log.len();
            let outcome = tenure.anchor(&mut world.platform(), &old, &new);
            assert_eq!(outcome.map(|_| ()), Err(ReleaseFault::Undecided));
            assert_eq!(world.relay.log.len() - before, SENDINGS_MAX as usize, "bounded");
        }
        world.relay.from = None;
        let other = Head { digest: [1; 48], ..new };
        let mut platform = world.platform();
        assert_eq!(tenure.anchor(&mut platform, &old, &other).map(|_| ()), Err(ReleaseFault::Undecided));
        assert_eq!(tenure.permit(&mut platform).map(|_| ()), Err(ReleaseFault::Undecided));
        assert_eq!(tenure.may_write(&mut platform), Err(ReleaseFault::Undecided));
        assert_eq!(tenure.bump(&mut platform), Err(ReleaseFault::Undecided));
        assert_eq!(tenure.release(&mut platform), Err(ReleaseFault::Undecided));
        let anchored = tenure.anchor(&mut platform, &old, &new).unwrap();
        assert_eq!(*anchored.head(), new);
        assert!(tenure.permit(&mut platform).is_ok());
        assert_eq!(world.relay.broker.row.head, new);
    }
}

#[test]
fn every_request_survives_a_restart_of_the_broker_in_a_resumed_session() {
    for number in TENURE..EXCHANGES {
        let (outcome, world) = life_with(number, Act::Restart);
        // The refused sending, hello, resume, and the same request again.
        assert_eq!(world.relay.log.len(), EXCHANGES + 3);
        assert_harmless(outcome, &world, &format!("restart before exchange {number}"));
    }
    // The request took effect, its reply was lost, and then the broker restarted.
    for number in TENURE..EXCHANGES {
        let mut world = World::new(1);
        world.relay.acts.push((number, Act::DropReply));
        world.relay.acts.push((number + 1, Act::Restart));
        let outcome = life(&mut world);
        assert_harmless(outcome, &world, &format!("lost reply and restart at exchange {number}"));
    }
}

#[test]
fn an_instance_that_was_replaced_cannot_resume() {
    let mut world = World::new(1);
    let mut memory = SessionMemory::new();
    let mut tenure = world.serving(&mut memory).unwrap();
    world.relay.broker.fence();
    world.relay.broker.forget_sessions();
    assert_eq!(tenure.renew(&mut world.platform()), Err(ReleaseFault::Fenced));
    // The token is right, the instance key is not.
    let mut world = World::new(1);
    let mut memory = SessionMemory::new();
    let mut tenure = world.serving(&mut memory).unwrap();
    world.relay.broker.row.instance = Some([4; 97]);
    world.relay.broker.forget_sessions();
    assert_eq!(tenure.renew(&mut world.platform()), Err(ReleaseFault::DeniedOther));
}

#[test]
fn a_reply_after_its_own_window_does_not_permit_answering() {
    let mut world = World::new(1);
    let mut memory = SessionMemory::new();
    let mut tenure = world.serving(&mut memory).unwrap();
    let (old, new) = (*tenure.standing().head(), after(tenure.standing().head()));
    world.relay.acts.push((4, Act::Late(u64::from(LEASE_MS))));
    let _anchored = tenure.anchor(&mut world.platform(), &old, &new).unwrap();
    // The commit stands, but the answer waits for a renewal, which is late too, and for the one after it.
    world.relay.acts.push((5, Act::Late(u64::from(LEASE_MS))));
    assert_eq!(tenure.permit(&mut world.platform()).map(|_| ()), Err(ReleaseFault::LeaseOver));
    assert!(tenure.permit(&mut world.platform()).is_ok());
    assert_eq!(world.relay.log.len(), 7);
}

#[test]
fn a_lease_is_renewed_lazily_from_its_half_and_used_for_nine_tenths() {
    let mut world = World::new(1);
    let mut memory = SessionMemory::new();
    let mut tenure = world.serving(&mut memory).unwrap();
    let half_ms = u64::from(LEASE_MS) / 2;
    world.pass_ms(half_ms - 1);
    assert!(tenure.permit(&mut world.platform()).is_ok());
    assert_eq!(world.relay.log.len(), 4, "an idle VM costs nothing");
    world.pass_ms(1);
    assert!(tenure.permit(&mut world.platform()).is_ok());
    assert_eq!(world.relay.log.len(), 5);
    world.relay.from = Some((5, Act::DropRequest));
    world.pass_ms(half_ms);
    assert!(tenure.permit(&mut world.platform()).is_ok(), "what is left of the lease is used");
    let exchanges = world.relay.log.len();
    assert!(tenure.permit(&mut world.platform()).is_ok());
    assert_eq!(world.relay.log.len(), exchanges, "no attempt for every command");
    world.pass_ms(u64::from(LEASE_MS) * 9 / 10 - half_ms - 1);
    assert!(tenure.permit(&mut world.platform()).is_ok());
    world.pass_ms(1);
    assert_eq!(tenure.permit(&mut world.platform()).map(|_| ()), Err(ReleaseFault::LeaseOver));
    world.relay.from = None;
    assert!(tenure.permit(&mut world.platform()).is_ok());
}

#[test]
fn a_command_that_may_write_waits_for_recent_contact() {
    let mut world = World::new(1);
    let mut memory = SessionMemory::new();
    let mut tenure = world.serving(&mut memory).unwrap();
    assert_eq!(tenure.may_write(&mut world.platform()), Ok(()));
    assert_eq!(world.relay.log.len(), 4);
    world.pass_ms(10_000);
    world.relay.from = Some((4, Act::DropReply));
    assert_eq!(tenure.may_write(&mut world.platform()), Err(ReleaseFault::Unreachable));
    assert!(tenure.permit(&mut world.platform()).is_ok(), "reading goes on until the lease ends");
    world.relay.from = None;
    assert_eq!(tenure.may_write(&mut world.platform()), Ok(()));
}

#[test]
fn serving_ends_before_the_release_is_sent() {
    let mut world = World::new(1);
    let mut memory = SessionMemory::new();
    let mut tenure = world.serving(&mut memory).unwrap();
    world.relay.from = Some((4, Act::DropReply));
    assert_eq!(tenure.release(&mut world.platform()), Err(ReleaseFault::Unreachable));
    let head = *tenure.standing().head();
    let mut platform = world.platform();
    assert_eq!(tenure.permit(&mut platform).map(|_| ()), Err(ReleaseFault::Released));
    assert_eq!(tenure.anchor(&mut platform, &head, &after(&head)).map(|_| ()), Err(ReleaseFault::Released));
    world.relay.from = None;
    assert_eq!(tenure.release(&mut world.platform()), Ok(()));
    assert_wiped(&tenure);
    assert_eq!(tenure.release(&mut world.platform()), Err(ReleaseFault::Released));
}

#[test]
fn nothing_is_answered_before_the_first_confirmation() {
    let mut world = World::new(1);
    let mut memory = SessionMemory::new();
    let (keys, mut tenure) = world.granted(&mut memory).unwrap();
    let mut platform = world.platform();
    assert_eq!(tenure.permit(&mut platform).map(|_| ()), Err(ReleaseFault::Misuse));
    assert_eq!(tenure.renew(&mut platform), Err(ReleaseFault::Misuse));
    let head = after(&keys.head);
    assert_eq!(tenure.anchor(&mut platform, &keys.head, &head).map(|_| ()), Err(ReleaseFault::Misuse));
    world.relay.from = Some((3, Act::DropReply));
    assert_eq!(tenure.confirm(&mut world.platform(), &head).map(|_| ()), Err(ReleaseFault::Undecided));
    assert_eq!(tenure.permit(&mut world.platform()).map(|_| ()), Err(ReleaseFault::Undecided));
    world.relay.from = None;
    let anchored = tenure.confirm(&mut world.platform(), &head).unwrap();
    assert_eq!(*anchored.head(), head);
    assert!(tenure.permit(&mut world.platform()).is_ok());
}

#[test]
fn a_bump_gives_one_fresh_token_however_often_it_is_asked() {
    let mut world = World::new(1);
    let mut memory = SessionMemory::new();
    let mut tenure = world.serving(&mut memory).unwrap();
    let token = tenure.standing().token();
    world.relay.from = Some((4, Act::DropReply));
    assert_eq!(tenure.bump(&mut world.platform()), Err(ReleaseFault::Undecided));
    assert_eq!(tenure.standing().token(), token);
    world.relay.from = None;
    world.relay.broker.forget_sessions();
    assert_eq!(tenure.bump(&mut world.platform()), Ok(token + 1));
    assert_eq!(world.relay.broker.row.token, token + 1);
    assert_eq!(tenure.renew(&mut world.platform()), Ok(()));
}
