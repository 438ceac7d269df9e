//! A guest earns a secret: the guest's own code, a TPM that others wrote (swtpm), a broker on SQLite and on PostgreSQL, and a host between them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "../../broker/tests/support/bench.rs"]
#[expect(dead_code, reason = "a part of what the broker's tests use")]
mod bench;
#[path = "unlock/guest.rs"]
mod guest;
#[path = "../../../tests/support/nothing.rs"]
mod nothing;
#[path = "../../broker/tests/support/server.rs"]
mod server;
#[path = "support/swtpm.rs"]
mod swtpm;
#[path = "../../broker/tests/support/world.rs"]
#[expect(dead_code, reason = "a part of what the broker's tests use")]
mod world;

use bench::{OTHER_VM, TENANT, VM};
use guest::{Site, refused};
use husk::release::ReleaseFault;
use husk::release::transcript::point_digest;
use husk::release::wire::UnlockVerdict;
use husk_attester::unlock::UnlockError;
use husk_broker::audit::Event;
use husk_broker::rules::Order;
use husk_broker::store::{Location, StoreError, UNLOCKS_MAX};
use husk_broker::unlock::PcrValues;
use server::Server;

const SECRET: &[u8] = b"a passphrase of the tenant's";

/// What firmware, kernel and command line are measured as here.
const STARTED: [(u8, u8); 3] = [(4, 0x44), (11, 0xBB), (12, 0xCC)];

/// PCRs of a guest that was started as it should be, but for the PCR `other`.
fn started(site: &Site, other: Option<u8>) -> PcrValues {
    for (pcr, measured) in STARTED {
        site.tpm.extend(pcr, if other == Some(pcr) { !measured } else { measured });
    }
    site.tpm.values(&STARTED.map(|(pcr, _)| pcr))
}

/// A site whose guest was started as it should be, with a secret that it may have.
fn honest(place: &Location) -> Site {
    let site = Site::new(place);
    let allowed = started(&site, None);
    site.keep(&VM, "root", vec![allowed], SECRET);
    site
}

/// A law, on an empty database.
type Law = fn(&Location);

/// Each of these holds on every database.
const LAWS: [(&str, Law); 6] = [
    ("given", the_guest_that_was_started_as_it_should_be_has_the_secret_and_the_log_says_so),
    ("other", another_kernel_command_line_or_firmware_has_nothing),
    ("tpm", another_tpm_vm_or_tenant_has_nothing),
    ("host", a_host_that_repeats_or_alters_frames_has_nothing_and_learns_nothing),
    ("over", a_removed_secret_a_halted_vm_and_an_older_instance_have_nothing),
    ("quota", a_vm_has_so_many_secrets_and_each_once),
];

#[test]
fn on_sqlite() {
    for (name, law) in LAWS {
        eprintln!("on SQLite: {name}");
        let folder = tempfile::tempdir().unwrap();
        law(&Location::File(folder.path().join("db")));
    }
}

#[test]
fn on_postgres() {
    let server = Server::start();
    for (name, law) in LAWS {
        eprintln!("on PostgreSQL: {name}");
        law(&Location::Postgres(server.database(name)));
    }
}

fn the_guest_that_was_started_as_it_should_be_has_the_secret_and_the_log_says_so(place: &Location) {
    let site = honest(place);
    assert_eq!(*site.ask("root").unwrap(), SECRET);
    assert_eq!(*site.ask("root").unwrap(), SECRET, "as often as it starts");
    let log = site.store().audit(TENANT, 0).unwrap();
    let told: Vec<_> = log.iter().map(|(entry, _)| (entry.event, entry.detail.as_str())).collect();
    assert!(told.contains(&(Event::UnlockSet, "root")), "{told:?}");
    assert_eq!(told.iter().filter(|told| **told == (Event::Unlocked, "root, token 1")).count(), 2);
    // Alternatives, for updates.
    let mut next = site.tpm.values(&[11, 12]);
    next.insert(12, [9; 32]);
    site.keep(&VM, "data", vec![next.clone(), site.tpm.values(&[11])], b"another");
    assert_eq!(*site.ask("data").unwrap(), b"another");
    site.keep(&VM, "data", vec![next], b"another");
    assert_eq!(refused(site.ask("data")), UnlockVerdict::OtherPcrs);
    // The longest there is.
    site.keep(&VM, "long", vec![site.tpm.values(&[0])], &[7; 1024]);
    assert_eq!(*site.ask("long").unwrap(), [7; 1024]);
    assert_eq!(refused(site.ask("nothing")), UnlockVerdict::NothingThere);
    assert_eq!(refused(site.ask("no name")), UnlockVerdict::Malformed);
}

fn another_kernel_command_line_or_firmware_has_nothing(place: &Location) {
    let mut site = honest(place);
    for (pcr, _) in STARTED {
        site.restart();
        started(&site, Some(pcr));
        assert_eq!(refused(site.ask("root")), UnlockVerdict::OtherPcrs, "PCR {pcr}");
    }
    // The initrd has ended, which systemd measures.
    site.restart();
    started(&site, None);
    assert_eq!(*site.ask("root").unwrap(), SECRET);
    site.tpm.extend(11, 1);
    assert_eq!(refused(site.ask("root")), UnlockVerdict::OtherPcrs);
    let log = site.store().audit(TENANT, 0).unwrap();
    let told: Vec<_> = log.iter().filter(|(entry, _)| entry.event == Event::Refused).collect();
    assert!(
        told.iter().any(|(entry, _)| entry.detail.contains("unlock-pcrs") && entry.detail.contains("PCR 12"))
    );
    assert!(!told.iter().any(|(entry, _)| entry.detail.contains("passphrase")));
}

fn another_tpm_vm_or_tenant_has_nothing(place: &Location) {
    let site = honest(place);
    // A TPM that the VM never showed, in the same state.
    let strange = swtpm::Swtpm::start();
    STARTED.iter().for_each(|(pcr, measured)| strange.extend(*pcr, *measured));
    assert_eq!(refused(site.ask_with(&VM, "root", &strange)), UnlockVerdict::OtherTpm);
    // It is another VM's of the same tenant, and says that it is this one.
    site.endorse(&OTHER_VM, &strange);
    assert_eq!(refused(site.ask_with(&VM, "root", &strange)), UnlockVerdict::OtherTpm);
    site.serve(&OTHER_VM);
    assert_eq!(refused(site.ask_with(&OTHER_VM, "root", &strange)), UnlockVerdict::NothingThere);
    // This TPM's credentials and quotes with the other's name, and the other way round.
    assert_eq!(site.ask_mixed(&strange), UnlockVerdict::Unproven);
    // A VM of a tenant that is not there, and a broker that the tenant did not certify.
    let mut config = site.bench.config(&VM);
    config.tenant = [9; 16];
    let unknown = site.ask_as(&config, "root");
    assert!(matches!(unknown, Err(UnlockError::Broker(ReleaseFault::DeniedVm))), "{unknown:?}");
    let mut config = site.bench.config(&VM);
    config.root = point_digest(&[4; 97]);
    let stranger = site.ask_as(&config, "root");
    assert!(matches!(stranger, Err(UnlockError::Broker(ReleaseFault::BrokerUntrusted))), "{stranger:?}");
}

fn a_host_that_repeats_or_alters_frames_has_nothing_and_learns_nothing(place: &Location) {
    let site = honest(place);
    let seen = site.watched("root");
    assert_eq!(seen.len(), 3, "hello, ask, show");
    for (request, reply) in &seen {
        for bytes in [request, reply] {
            assert!(!bytes.windows(SECRET.len()).any(|part| part == SECRET));
        }
        // A hello may be said again; nothing else is heard twice, and what is heard then is of no session with the first guest's keys.
        let again = site.bench.service.handle(request);
        assert_ne!(again, *reply);
    }
    let altered = |number: usize, is_reply: bool| {
        site.ask_through("root", &mut |count, bytes, reply| {
            if count == number && reply == is_reply {
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
            }
        })
    };
    for number in 0..3 {
        for is_reply in [false, true] {
            let refused = altered(number, is_reply);
            assert!(matches!(refused, Err(UnlockError::Broker(_))), "{number}, {is_reply}: {refused:?}");
        }
    }
    // An answer of another conversation in place of this one's.
    let old = seen[2].1.clone();
    let replayed = site.ask_through("root", &mut |count, bytes, is_reply| {
        if count == 2 && is_reply {
            bytes.clone_from(&old);
        }
    });
    assert!(matches!(replayed, Err(UnlockError::Broker(ReleaseFault::ReplyRefused))), "{replayed:?}");
    // A quote of another conversation, and one that is shown twice.
    assert_eq!(site.ask_with_an_old_quote(), UnlockVerdict::Unproven);
    assert_eq!(site.show_twice(), Err(ReleaseFault::DeniedOther), "a challenge is answered once");
}

fn a_removed_secret_a_halted_vm_and_an_older_instance_have_nothing(place: &Location) {
    let mut site = honest(place);
    site.store().operate(&VM, Order::Halt).unwrap();
    assert_eq!(refused(site.ask("root")), UnlockVerdict::OldInstance);
    site.store().operate(&VM, Order::Resume).unwrap();
    // Nobody serves until the next launch.
    assert_eq!(refused(site.ask("root")), UnlockVerdict::OldInstance);
    site.restart();
    started(&site, None);
    assert_eq!(*site.ask("root").unwrap(), SECRET);
    // A launch elsewhere: this TPM is an older instance's, whatever its PCRs say.
    site.serve(&VM);
    assert_eq!(refused(site.ask("root")), UnlockVerdict::OldInstance);
    site.restart();
    started(&site, None);
    site.store().remove_unlock(&VM, "root").unwrap();
    assert_eq!(refused(site.ask("root")), UnlockVerdict::NothingThere);
    assert!(matches!(site.store().remove_unlock(&VM, "root"), Err(StoreError::UnknownUnlock(_))));
    let log = site.store().audit(TENANT, 0).unwrap();
    assert!(log.iter().any(|(entry, _)| entry.event == Event::UnlockRemoved));
}

fn a_vm_has_so_many_secrets_and_each_once(place: &Location) {
    let site = Site::new(place);
    let values = site.tpm.values(&[11]);
    for number in 0..UNLOCKS_MAX {
        site.keep(&VM, &format!("secret{number}"), vec![values.clone()], SECRET);
    }
    let kept = |name: &str, replace| {
        let kept = site.wrapped(&VM, name, vec![values.clone()], SECRET);
        site.store().keep_unlock(&VM, &kept, replace)
    };
    assert!(matches!(kept("more", true), Err(StoreError::UnlocksFull)));
    assert!(matches!(kept("secret1", false), Err(StoreError::UnlockExists(_))));
    kept("secret1", true).unwrap();
    assert_eq!(site.store().unlocks(&VM).unwrap().len(), UNLOCKS_MAX);
    assert!(site.store().unlocks(&OTHER_VM).unwrap().is_empty());
    site.store().remove_unlock(&VM, "secret2").unwrap();
    kept("more", false).unwrap();
    assert_eq!(*site.ask("more").unwrap(), SECRET);
}
