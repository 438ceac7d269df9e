//! The whole table, and the windows.

use super::{
    Action, Answer, Ask, CONTACT_MS_MAX, Event, Head, RENEW_PAUSE_MS, ReleaseFault, Serve, Standing,
};

const SENT_MS: u64 = 1_000;
const LEASE_MS: u32 = 60_000;
const LEASE: Answer = Answer::Lease { lease_ms: LEASE_MS };

const fn head(sequence: u64) -> Head {
    Head { sequence, digest: [sequence.to_le_bytes()[0]; 48] }
}

const CONFIRM: Ask = Ask::Confirm { new: head(8) };
const ANCHOR: Ask = Ask::Anchor { previous: head(8), new: head(9) };

fn answered(standing: &mut Standing, answer: Answer) -> Action {
    standing.step(Event::Answer { ticket: standing.ticket, answer })
}

fn sent(mut standing: Standing, ask: Ask) -> Standing {
    let action = standing.step(Event::Ask { ask, now_ms: SENT_MS });
    assert_eq!(action, Action::Send { ticket: standing.ticket });
    standing
}

fn granted() -> Standing {
    Standing::granted(Serve::Lease, 5, 1, 3, head(7))
}

fn serving() -> Standing {
    let mut standing = sent(granted(), CONFIRM);
    assert_eq!(answered(&mut standing, LEASE), Action::Settled);
    standing
}

/// Every kind of state.
fn states() -> [(&'static str, Standing); 11] {
    let mut leaving = sent(serving(), Ask::Release);
    leaving.step(Event::Silence { now_ms: SENT_MS });
    let mut left = leaving.clone();
    left = sent(left, Ask::Release);
    answered(&mut left, Answer::Released);
    let mut over = sent(serving(), ANCHOR);
    answered(&mut over, Answer::Fenced);
    [
        ("granted", granted()),
        ("confirming", sent(granted(), CONFIRM)),
        ("serving", serving()),
        ("anchoring", sent(serving(), ANCHOR)),
        ("renewing", sent(serving(), Ask::Renew)),
        ("bumping", sent(serving(), Ask::Bump)),
        ("releasing", sent(serving(), Ask::Release)),
        ("leaving", leaving),
        ("left", left),
        ("over", over),
        ("anchoring twice", sent(sent(serving(), ANCHOR), ANCHOR)),
    ]
}

fn events(ticket: u64) -> [Event; 21] {
    let ask = |ask| Event::Ask { ask, now_ms: SENT_MS };
    let answer = |answer| Event::Answer { ticket, answer };
    let old = |answer| Event::Answer { ticket: ticket.wrapping_sub(1), answer };
    let bumped = |token| Answer::Bumped { token, lease_ms: LEASE_MS };
    [
        ask(CONFIRM),
        ask(Ask::Confirm { new: head(7) }),
        ask(ANCHOR),
        ask(Ask::Anchor { previous: head(7), new: head(9) }),
        ask(Ask::Anchor { previous: head(8), new: head(8) }),
        ask(Ask::Renew),
        ask(Ask::Bump),
        ask(Ask::Release),
        answer(LEASE),
        answer(bumped(6)),
        answer(bumped(5)),
        answer(Answer::Released),
        answer(Answer::Fenced),
        answer(Answer::Conflict),
        answer(Answer::Denied(ReleaseFault::DeniedVm)),
        old(LEASE),
        old(bumped(6)),
        old(Answer::Released),
        old(Answer::Fenced),
        old(Answer::Denied(ReleaseFault::DeniedVm)),
        Event::Silence { now_ms: SENT_MS },
    ]
}

fn letter(action: Action) -> char {
    match action {
        Action::Send { .. } => 's',
        Action::Settled => 'k',
        Action::Ignored => '.',
        Action::Refused(ReleaseFault::Misuse) => 'm',
        Action::Refused(ReleaseFault::Undecided) => 'u',
        Action::Refused(ReleaseFault::Released) => 'r',
        Action::Refused(ReleaseFault::Fenced) => 'f',
        Action::Unanswered(ReleaseFault::Undecided) => 'U',
        Action::Unanswered(ReleaseFault::Unreachable) => 'N',
        Action::Stop(ReleaseFault::Fenced) => 'F',
        Action::Stop(ReleaseFault::Conflict) => 'C',
        Action::Stop(ReleaseFault::DeniedVm) => 'D',
        other => panic!("{other:?}"),
    }
}

/// `protocol.md`, table "Standing": asks, answers, older answers, silence.
const TABLE: [(&str, &str); 11] = [
    ("granted", "smmmmmmm ....... ..... ."),
    ("confirming", "suuuuuuu k...FCD ..... U"),
    ("serving", "mmsmmsss ....... ..... ."),
    ("anchoring", "uusuuuuu k...FCD ..... U"),
    ("renewing", "uuuuusuu k...FCD ..... N"),
    ("bumping", "uuuuuusu .k..FCD ..... U"),
    ("releasing", "uuuuuuus ...kFCD ..... N"),
    ("leaving", "rrrrrrrs ....... ..... ."),
    ("left", "rrrrrrrr ....... ..... ."),
    ("over", "ffffffff ....... ..... ."),
    ("anchoring twice", "uusuuuuu k...FCD ..... U"),
];

#[test]
fn every_state_meets_every_event_as_the_table_says() {
    for ((name, state), (row, letters)) in states().into_iter().zip(TABLE) {
        assert_eq!(name, row);
        let expected = letters.chars().filter(|letter| *letter != ' ');
        let events = events(state.ticket);
        assert_eq!(expected.clone().count(), events.len());
        for (event, expected) in events.into_iter().zip(expected) {
            let mut after = state.clone();
            let got = letter(after.step(event));
            assert_eq!(got, expected, "{name} meets {event:?}");
            if matches!(got, '.' | 'm' | 'u' | 'r' | 'f' | 'U') {
                assert_eq!(after, state, "{name} is changed by {event:?}");
            }
            if matches!(got, 'F' | 'C' | 'D') {
                assert!(after.permit(0).is_err() && after.undecided().is_none());
            }
        }
    }
}

#[test]
fn only_a_serving_instance_within_its_lease_may_answer() {
    for (name, state) in states() {
        let expected = match name {
            "granted" => Err(ReleaseFault::Misuse),
            "confirming" | "anchoring" | "anchoring twice" | "bumping" => Err(ReleaseFault::Undecided),
            "serving" | "renewing" => Ok(()),
            "releasing" | "leaving" | "left" => Err(ReleaseFault::Released),
            _ => Err(ReleaseFault::Fenced),
        };
        assert_eq!(state.permit(SENT_MS), expected, "{name}");
    }
}

#[test]
fn the_window_is_counted_from_the_newest_sending() {
    let standing = serving();
    let end_ms = SENT_MS + 54_000;
    assert_eq!(standing.permit(end_ms - 1), Ok(()));
    assert_eq!(standing.permit(end_ms), Err(ReleaseFault::LeaseOver));
    assert!(!standing.wants_renewal(SENT_MS + 29_999) && standing.wants_renewal(SENT_MS + 30_000));
    let mut standing = sent(standing, Ask::Renew);
    standing.step(Event::Ask { ask: Ask::Renew, now_ms: SENT_MS + 5 });
    assert_eq!(answered(&mut standing, LEASE), Action::Settled);
    assert_eq!(standing.permit(end_ms + 4), Ok(()));
    assert_eq!(standing.permit(end_ms + 5), Err(ReleaseFault::LeaseOver));
    assert!(standing.recent(SENT_MS + 4 + CONTACT_MS_MAX));
    assert!(!standing.recent(SENT_MS + 5 + CONTACT_MS_MAX));
}

/// A grant confirmed, in a way that reads no clock.
fn clockless(serve: Serve) -> Standing {
    let mut standing = sent(Standing::granted(serve, 5, 1, 3, head(7)), CONFIRM);
    assert_eq!(answered(&mut standing, LEASE), Action::Settled);
    standing.begin();
    standing
}

#[test]
fn what_the_broker_said_before_a_command_permits_nothing_to_it() {
    let unasked = clockless(Serve::PerCommand);
    assert_eq!(unasked.permit(0), Err(ReleaseFault::LeaseOver));
    assert!(unasked.wants_renewal(0) && !unasked.recent(0));
    let mut asked = sent(unasked, Ask::Renew);
    let mut late = asked.clone();
    assert_eq!(answered(&mut asked, LEASE), Action::Settled);
    assert!(asked.permit(u64::MAX).is_ok() && asked.recent(u64::MAX), "whatever a clock says");
    assert!(!asked.wants_renewal(u64::MAX));
    asked.begin();
    assert_eq!(asked.permit(0), Err(ReleaseFault::LeaseOver));
    late.begin();
    assert_eq!(answered(&mut late, LEASE), Action::Settled);
    assert_eq!(late.permit(0), Err(ReleaseFault::LeaseOver), "sent before the command began");
}

#[test]
fn who_is_only_detected_answers_unasked_and_writes_only_where_the_broker_answers() {
    let standing = clockless(Serve::Detect);
    assert!(standing.permit(u64::MAX).is_ok() && !standing.wants_renewal(u64::MAX));
    assert!(!standing.recent(0));
    let mut anchoring = sent(standing, ANCHOR);
    assert_eq!(anchoring.permit(0), Err(ReleaseFault::Undecided));
    answered(&mut anchoring, Answer::Fenced);
    assert_eq!(anchoring.permit(0), Err(ReleaseFault::Fenced));
}

#[test]
fn no_number_overflows() {
    let mut standing = serving();
    standing.step(Event::Ask { ask: Ask::Renew, now_ms: u64::MAX });
    let answer = Answer::Lease { lease_ms: u32::MAX };
    assert_eq!(answered(&mut standing, answer), Action::Settled);
    assert_eq!(standing.permit(u64::MAX), Err(ReleaseFault::LeaseOver));
    standing.step(Event::Ask { ask: Ask::Renew, now_ms: u64::MAX });
    assert_eq!(
        standing.step(Event::Silence { now_ms: u64::MAX }),
        Action::Unanswered(ReleaseFault::Unreachable)
    );
    assert!(standing.recent(0));
}

#[test]
fn an_unanswered_renewal_pauses_and_keeps_the_window() {
    let mut standing = sent(serving(), Ask::Renew);
    let late_ms = SENT_MS + 40_000;
    standing.step(Event::Silence { now_ms: late_ms });
    assert_eq!(standing.permit(late_ms), Ok(()));
    assert!(!standing.wants_renewal(late_ms + RENEW_PAUSE_MS - 1));
    assert!(standing.wants_renewal(late_ms + RENEW_PAUSE_MS));
    standing.renew_from_ms = u64::MAX;
    assert!(standing.wants_renewal(SENT_MS + 54_000), "once the window is over there is no pause");
}

#[test]
fn confirming_and_anchoring_move_the_head_only_when_settled() {
    let confirming = sent(granted(), CONFIRM);
    assert_eq!((confirming.head(), confirming.epoch()), (&head(7), 3));
    let serving = serving();
    assert_eq!((serving.head(), serving.epoch()), (&head(8), 4));
    let mut anchoring = sent(serving, ANCHOR);
    assert_eq!(anchoring.head(), &head(8));
    answered(&mut anchoring, LEASE);
    assert_eq!((anchoring.head(), anchoring.epoch()), (&head(9), 4));
    let mut bumping = sent(anchoring, Ask::Bump);
    answered(&mut bumping, Answer::Bumped { token: 11, lease_ms: 1 });
    assert_eq!(bumping.token(), 11);
}
