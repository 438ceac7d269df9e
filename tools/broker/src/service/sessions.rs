//! The sessions that are open, bounded.
//!
//! **What.** Two tables: sessions that only said hello, and sessions of a proven instance. Each drops its oldest when
//! full, so a flood of hellos cannot push out who has proven itself. A peer has a share of the hellos that may wait: one
//! more drops its own oldest, so that it takes four peers to push out a fifth's. A tenant has a share of the established ones, in the same way. An
//! instance has one established session: a new one closes the old.

use super::backup::Incoming;
use super::endorsement::Challenged;
use super::unlock::Unlocking;
use crate::ids::{TenantId, VmName};
use crate::policy::Genuine;
use crate::rules::{InstanceId, Keeps};
use husk::release::record::Answerer;
use husk::seams::REPORT_BYTES;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// Hellos that wait for their proof.
pub const GREETED_MAX: usize = 1024;
/// Of one peer's address. Peers behind one proxy share it; a boot's hello waits for milliseconds.
pub const GREETED_OF_PEER_MAX: usize = 256;
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
    },
    /// The instance has proven its key and holds a token.
    Resumed,
}

/// What an attestation proved.
pub(super) struct Proven {
    pub(super) report: [u8; REPORT_BYTES],
    pub(super) genuine: Genuine,
    /// What the launch configuration says of the TPM's end.
    pub(super) keeps: Keeps,
}

/// One conversation.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) answerer: Answerer,
    pub(super) vm: VmName,
    pub(super) instance: InstanceId,
    pub(super) stage: Stage,
    /// What was proven, which must still be admitted when the grant is asked for.
    pub(super) proven: Option<Box<Proven>>,
    /// Endorsement keys that it was asked to show.
    pub(super) challenged: Option<Challenged>,
    /// A backup whose parts have not all come.
    pub(super) backup: Option<Incoming>,
    /// A guest that was asked to show its TPM.
    pub(super) unlocking: Option<Box<Unlocking>>,
}

type Shared = Arc<Mutex<Session>>;
type Who = (VmName, InstanceId);

/// Whose share of its table a session is part of.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Sharer {
    /// Of the hellos.
    Peer(IpAddr),
    /// Of the established ones.
    Tenant(TenantId),
}

struct Entry {
    age: u64,
    sharer: Sharer,
    who: Who,
    session: Shared,
}

/// A table that drops its oldest entry when it is full.
struct Bounded {
    capacity: usize,
    entries: HashMap<SessionId, Entry>,
    by_age: BTreeMap<u64, SessionId>,
    /// The ages of each sharer's.
    of_sharer: HashMap<Sharer, BTreeSet<u64>>,
    births: u64,
}

impl Bounded {
    fn new(capacity: usize) -> Self {
        Self {
            capacity,
            entries: HashMap::new(),
            by_age: BTreeMap::new(),
            of_sharer: HashMap::new(),
            births: 0,
        }
    }

    /// Drops the oldest of a sharer that has `share` already; yields it.
    fn make_room_for(&mut self, sharer: Sharer, share: usize) -> Option<(SessionId, Entry)> {
        let ages = self.of_sharer.get(&sharer).filter(|ages| ages.len() >= share)?;
        let oldest = *self.by_age.get(ages.first()?)?;
        self.remove(&oldest).map(|entry| (oldest, entry))
    }

    /// Adds an entry; returns the one that had to go.
    fn insert(
        &mut self,
        id: SessionId,
        (who, sharer): (Who, Sharer),
        session: Shared,
    ) -> Option<(SessionId, Entry)> {
        let oldest = if self.entries.len() < self.capacity {
            None
        } else {
            self.by_age.first_key_value().map(|(_, &id)| id)
        };
        let dropped = oldest.and_then(|id| self.remove(&id).map(|entry| (id, entry)));
        self.births += 1;
        self.by_age.insert(self.births, id);
        self.of_sharer.entry(sharer).or_default().insert(self.births);
        self.entries.insert(id, Entry { age: self.births, sharer, who, session });
        dropped
    }

    fn remove(&mut self, id: &SessionId) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        self.by_age.remove(&entry.age);
        if let Some(ages) = self.of_sharer.get_mut(&entry.sharer) {
            ages.remove(&entry.age);
            if ages.is_empty() {
                self.of_sharer.remove(&entry.sharer);
            }
        }
        Some(entry)
    }
}

/// All open sessions.
pub(super) struct Sessions {
    greeted: Bounded,
    of_peer_max: usize,
    established: Bounded,
    of_instance: HashMap<Who, SessionId>,
}

impl Sessions {
    pub(super) fn new(greeted_max: usize, of_peer_max: usize, established_max: usize) -> Self {
        Self {
            greeted: Bounded::new(greeted_max),
            of_peer_max,
            established: Bounded::new(established_max),
            of_instance: HashMap::new(),
        }
    }

    /// How many have said hello, and how many have proven themselves.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.greeted.entries.len(), self.established.entries.len())
    }

    /// A session that has said hello.
    pub(super) fn greet(&mut self, peer: IpAddr, session: Session) {
        let (id, who) = (session.id, (session.vm, session.instance));
        let sharer = Sharer::Peer(peer);
        self.greeted.make_room_for(sharer, self.of_peer_max);
        self.greeted.insert(id, (who, sharer), Arc::new(Mutex::new(session)));
    }

    /// The session of that name.
    pub(super) fn find(&self, id: &SessionId) -> Option<Shared> {
        let entry = self.established.entries.get(id).or_else(|| self.greeted.entries.get(id));
        entry.map(|entry| Arc::clone(&entry.session))
    }

    /// The session has proven its instance; the instance's older session is closed, and its tenant's oldest where it has `of_tenant_max`
    /// already.
    pub(super) fn establish(&mut self, id: &SessionId, of_tenant_max: usize) {
        let Some(Entry { who, session, .. }) = self.greeted.remove(id) else { return };
        if let Some(older) = self.of_instance.insert(who, *id) {
            self.established.remove(&older);
        }
        let sharer = Sharer::Tenant(who.0.tenant);
        let of_tenant = self.established.make_room_for(sharer, of_tenant_max);
        let of_all = self.established.insert(*id, (who, sharer), session);
        for (dropped, entry) in [of_tenant, of_all].into_iter().flatten() {
            if self.of_instance.get(&entry.who) == Some(&dropped) {
                self.of_instance.remove(&entry.who);
            }
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
    use std::net::{IpAddr, Ipv4Addr};
    use zerocopy::FromZeros;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

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
            challenged: None,
            proven: None,
            backup: None,
            unlocking: None,
        }
    }

    /// More than any test has.
    const MANY: usize = 1000;

    fn has(sessions: &Sessions, id: u8) -> bool {
        sessions.find(&[id; 16] as &SessionId).is_some()
    }

    #[test]
    fn hellos_push_out_hellos_and_never_who_has_proven_itself() {
        let mut sessions = Sessions::new(2, 2, 2);
        sessions.greet(PEER, session(1, 1));
        sessions.establish(&[1; 16], MANY);
        for id in 2..10 {
            sessions.greet(PEER, session(id, id));
        }
        assert!(has(&sessions, 1) && has(&sessions, 8) && has(&sessions, 9) && !has(&sessions, 7));
        sessions.establish(&[7; 16], MANY);
        assert!(!has(&sessions, 7), "what was dropped stays dropped");
    }

    #[test]
    fn a_flood_of_one_peer_pushes_out_its_own_hellos() {
        let mut sessions = Sessions::new(8, 2, 2);
        let flooding = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        sessions.greet(PEER, session(1, 1));
        for id in 2..40 {
            sessions.greet(flooding, session(id, id));
        }
        assert!(has(&sessions, 1) && has(&sessions, 38) && has(&sessions, 39) && !has(&sessions, 37));
        sessions.establish(&[39; 16], MANY);
        for id in 40..42 {
            sessions.greet(flooding, session(id, id));
        }
        assert!(has(&sessions, 39) && !has(&sessions, 38), "who has proven itself needs no share");
        assert_eq!(sessions.greeted.of_sharer.len(), 2);
    }

    #[test]
    fn a_tenants_sessions_beyond_its_quota_close_its_own_oldest() {
        let mut sessions = Sessions::new(8, 8, 8);
        sessions.greet(
            PEER,
            Session { vm: VmName { tenant: TenantId([9; 16]), vm: VmId([0; 16]) }, ..session(1, 1) },
        );
        sessions.establish(&[1; 16], 2);
        for id in 2..=4 {
            sessions.greet(PEER, session(id, id));
            sessions.establish(&[id; 16], 2);
        }
        assert!(has(&sessions, 1) && !has(&sessions, 2) && has(&sessions, 3) && has(&sessions, 4));
        assert_eq!(sessions.of_instance.len(), 3, "no names are left behind");
    }

    #[test]
    fn a_new_session_of_an_instance_closes_its_old_one() {
        let mut sessions = Sessions::new(8, 8, 2);
        for id in 1..=2 {
            sessions.greet(PEER, session(id, 1));
            sessions.establish(&[id; 16], MANY);
        }
        assert!(!has(&sessions, 1) && has(&sessions, 2));
        for id in 3..=4 {
            sessions.greet(PEER, session(id, id));
            sessions.establish(&[id; 16], MANY);
        }
        assert!(!has(&sessions, 2) && has(&sessions, 3) && has(&sessions, 4));
        assert_eq!(sessions.of_instance.len(), 2, "no names are left behind");
    }
}
