//! Logs as somebody might have changed them.

use super::{Entry, Event, Head, Log, LogError, exported};
use crate::ids::{TenantId, VmId};

const TENANT: TenantId = TenantId([7; 16]);

/// A log of so many entries, and the head after each.
fn log(entries: u64) -> (Vec<String>, Vec<Head>) {
    let mut head = Head::NONE;
    (1..=entries)
        .map(|number| {
            let (vm, detail) = (VmId([number.to_le_bytes()[0]; 16]), format!("token {number}"));
            let entry =
                Entry { number, at_ms: 10 * number, calendar_s: 99, vm, event: Event::Granted, detail };
            head = head.after(TENANT, &entry);
            (exported(TENANT, &entry, &head).expect("a line") + "\n", head)
        })
        .unzip()
}

fn read(lines: &[String], after: Option<Head>, kept: &[Head]) -> Result<Log, LogError> {
    Log::read(&mut lines.concat().as_bytes(), after, kept)
}

#[test]
fn an_audit_log_leads_to_every_head_that_was_kept() {
    let (lines, heads) = log(5);
    let whole = read(&lines, None, &heads).expect("whole");
    assert_eq!((whole.tenant, whole.entries, whole.head), (TENANT, 5, heads[4]));
    let rest = read(&lines[2..], Some(heads[1]), &heads[1..]).expect("the rest");
    assert_eq!((rest.entries, rest.head), (3, heads[4]));
    assert_eq!(heads[4].to_string().parse(), Ok(heads[4]));
}

#[test]
fn an_audit_log_shows_what_was_done_to_it() {
    let (lines, heads) = log(5);
    let changed = |at: usize, from: &str, to: &str| {
        let mut lines = lines.clone();
        lines[at] = lines[at].replacen(from, to, 1);
        lines
    };
    let without = |at: usize| [&lines[..at], &lines[at + 1..]].concat();
    for (from, to) in [
        ("token 3", "token 9"),
        ("\"granted\"", "\"released\""),
        ("\"at_ms\":30", "\"at_ms\":31"),
        ("\"calendar_s\":99", "\"calendar_s\":98"),
        ("\"vm\":\"03", "\"vm\":\"04"),
    ] {
        assert!(matches!(read(&changed(2, from, to), None, &[]), Err(LogError::Changed(3))), "{from}");
    }
    assert!(matches!(read(&without(2), None, &[]), Err(LogError::Gap { expected: 3, found: 4 })));
    assert!(matches!(read(&without(0), None, &[]), Err(LogError::Front(2))));
    assert!(
        matches!(read(&lines[..4], None, &heads[4..]), Err(LogError::Elsewhere(head)) if head == heads[4])
    );
    let elsewhere = changed(2, "\"tenant\":\"07", "\"tenant\":\"08");
    assert!(matches!(read(&elsewhere, None, &[]), Err(LogError::Mixed(3))));
    assert!(matches!(read(&[], None, &[]), Err(LogError::Empty)));
    assert!(matches!(read(&lines[2..], Some(heads[0]), &[]), Err(LogError::Gap { .. })));
    assert!(matches!(
        read(&lines[2..], Some(Head { number: 2, ..heads[0] }), &[]),
        Err(LogError::Changed(3))
    ));
    for text in ["{}\n", "granted\n", &format!("{}\n", "x".repeat(5000))] {
        assert!(matches!(read(&[text.to_owned()], None, &[]), Err(LogError::Malformed { line: 1, .. })));
    }
}

/// A log that was written anew from some entry on is sound in itself; the head that was kept tells.
#[test]
fn an_audit_log_that_was_written_anew_leads_elsewhere() {
    let (_, kept) = log(3);
    let entry = Entry {
        number: 1,
        at_ms: 10,
        calendar_s: 99,
        vm: VmId([1; 16]),
        event: Event::Refused,
        detail: String::new(),
    };
    let head = Head::NONE.after(TENANT, &entry);
    let line = exported(TENANT, &entry, &head).expect("a line") + "\n";
    assert!(read(std::slice::from_ref(&line), None, &[]).is_ok());
    assert!(matches!(read(&[line], None, &kept[..1]), Err(LogError::Elsewhere(_))));
}

#[test]
fn every_event_has_a_name_of_its_own() {
    for event in Event::ALL {
        assert_eq!(Event::from_word(event.word()), Some(*event));
    }
}
