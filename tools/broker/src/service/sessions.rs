//! The sessions that are open, bounded.
//!
//! **What.** Two tables: sessions that only said hello, and sessions of a proven instance. Each drops its oldest when
//! full, so a flood of hellos cannot push out who has proven itself. An instance has one established session: a new
//! one closes the old.

use crate::ids::VmName;
use crate::rules::InstanceId;
use husk::release::record::Answerer;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

/// Hellos that wait for their proof.
pub const GREETED_MAX: usize = 1024;
/// Sessions of proven instances. Who is dropped comes back with RESUME.
pub const ESTABLISHED_MAX: usize = 65_536;

/// Names a session in its records.
pub(super) type SessionId = [u8; 16];

/// How far a session has come.
#[derive(Clone, Copy)]
pub(super) enum Stage {
    /// Both hellos are exchanged.
    Greeted,
    /// The instance has proven its launch.
    Attested {
        /// SHA-384 of the report, which a grant's signature covers.
        report_digest: [u8; 48],
        /// REPORT_ID.
        report_id: [u8; 32],
        /// MEASUREMENT, which must still be allowed when the grant is asked for.
        measurement: [u8; 48],
    },
    /// The instance has proven its key and holds a token.
    Resumed,
}

/// One conversation.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) answerer: Answerer,
    pub(super) vm: VmName,
    pub(super) instance: InstanceId,
    pub(super) stage: Stage,
}

type Shared = Arc<Mutex<Session>>;
type Who = (VmName, InstanceId);

struct Entry {
    age: u64,
    who: Who,
    session: Shared,
}

/// A table that drops its oldest entry when it is full.
struct Bounded {
    capacity: usize,
    entries: HashMap<SessionId, Entry>,
    by_age: BTreeMap<u64, SessionId>,
    births: u64,
}

impl Bounded {
    fn new(capacity: usize) -> Self {
        Self { capacity, entries: HashMap::new(), by_age: BTreeMap::new(), births: 0 }
    }

    /// Adds an entry; returns the one that had to go.
    fn insert(&mut self, id: SessionId, who: Who, session: Shared) -> Option<(SessionId, Entry)> {
        let oldest = if self.entries.len() < self.capacity {
            None
        } else {
            self.by_age.first_key_value().map(|(_, &id)| id)
        };
        let dropped = oldest.and_then(|id| self.remove(&id).map(|entry| (id, entry)));
        self.births += 1;
        self.by_age.insert(self.births, id);
        self.entries.insert(id, Entry { age: self.births, who, session });
        dropped
    }

    fn remove(&mut self, id: &SessionId) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        self.by_age.remove(&entry.age);
        Some(entry)
    }
}

/// All open sessions.
pub(super) struct Sessions {
    greeted: Bounded,
    established: Bounded,
    of_instance: HashMap<Who, SessionId>,
}

impl Sessions {
    pub(super) fn new(greeted_max: usize, established_max: usize) -> Self {
        Self {
            greeted: Bounded::new(greeted_max),
            established: Bounded::new(established_max),
            of_instance: HashMap::new(),
        }
    }

    /// A session that has said hello.
    pub(super) fn greet(&mut self, session: Session) {
        let (id, who) = (session.id, (session.vm, session.instance));
        self.greeted.insert(id, who, Arc::new(Mutex::new(session)));
    }

    /// The session of that name.
    pub(super) fn find(&self, id: &SessionId) -> Option<Shared> {
        let entry = self.established.entries.get(id).or_else(|| self.greeted.entries.get(id));
        entry.map(|entry| Arc::clone(&entry.session))
    }

    /// The session has proven its instance; the instance's older session is closed.
    pub(super) fn establish(&mut self, id: &SessionId) {
        let Some(Entry { who, session, .. }) = self.greeted.remove(id) else { return };
        if let Some(older) = self.of_instance.insert(who, *id) {
            self.established.remove(&older);
        }
        if let Some((dropped, entry)) = self.established.insert(*id, who, session)
            && self.of_instance.get(&entry.who) == Some(&dropped)
        {
            self.of_instance.remove(&entry.who);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Session, SessionId, Sessions, Stage};
    use crate::ids::{TenantId, VmId, VmName};
    use crate::rules::InstanceId;
    use crate::world::{Machine, WorldEntropy};
    use husk::release::record::Answerer;
    use husk::release::transcript::{AgreementKey, broker_keys};
    use husk::release::wire::{Hello, ServerHello};
    use zerocopy::FromZeros;

    fn session(id: u8, instance: u8) -> Session {
        let world = Machine::start();
        let key = AgreementKey::generate(&mut WorldEntropy(&world)).unwrap();
        let mut hello = Hello::new_zeroed();
        (hello.ephemeral, hello.instance) = (*key.point(), *key.point());
        let keys = broker_keys(&key, &hello, &ServerHello::new_zeroed()).unwrap();
        Session {
            id: [id; 16],
            answerer: Answerer::new(keys),
            vm: VmName { tenant: TenantId([0; 16]), vm: VmId([0; 16]) },
            instance: InstanceId([instance; 48]),
            stage: Stage::Greeted,
        }
    }

    fn has(sessions: &Sessions, id: u8) -> bool {
        sessions.find(&[id; 16] as &SessionId).is_some()
    }

    #[test]
    fn hellos_push_out_hellos_and_never_who_has_proven_itself() {
        let mut sessions = Sessions::new(2, 2);
        sessions.greet(session(1, 1));
        sessions.establish(&[1; 16]);
        for id in 2..10 {
            sessions.greet(session(id, id));
        }
        assert!(has(&sessions, 1) && has(&sessions, 8) && has(&sessions, 9) && !has(&sessions, 7));
        sessions.establish(&[7; 16]);
        assert!(!has(&sessions, 7), "what was dropped stays dropped");
    }

    #[test]
    fn a_new_session_of_an_instance_closes_its_old_one() {
        let mut sessions = Sessions::new(8, 2);
        for id in 1..=2 {
            sessions.greet(session(id, 1));
            sessions.establish(&[id; 16]);
        }
        assert!(!has(&sessions, 1) && has(&sessions, 2));
        for id in 3..=4 {
            sessions.greet(session(id, id));
            sessions.establish(&[id; 16]);
        }
        assert!(!has(&sessions, 2) && has(&sessions, 3) && has(&sessions, 4));
        assert_eq!(sessions.of_instance.len(), 2, "no names are left behind");
    }
}
