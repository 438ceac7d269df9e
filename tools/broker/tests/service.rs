//! The laws of the broker as a VM sees it: the component's own client on the other end.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "service/backups.rs"]
mod backups;
#[path = "support/bench.rs"]
mod bench;
#[path = "support/brought.rs"]
mod brought;
#[path = "service/bytes.rs"]
mod bytes;
#[path = "service/clones.rs"]
mod clones;
#[path = "../../../tests/support/nothing.rs"]
mod nothing;
#[path = "service/orders.rs"]
mod orders;
#[path = "support/world.rs"]
mod world;

use bench::{Bench, LEASE_MS, Launch, OTHER_VM, Running, TENANT, VM, head};
use husk::attest::report::Layout;
use husk::release::open::{Granted, ReleasedKey, Verdict};
use husk::release::tenure::Tenure;
use husk::release::{Anchor, Head, ReleaseFault};
use husk_broker::audit::Event;
use husk_broker::rules::Order;
use husk_broker::store::Store;

type Change = fn(&mut Layout);

fn granted(launch: &mut Launch) -> (husk::release::session::Client<'static>, Granted) {
    match launch.boot() {
        Ok((client, Verdict::Granted(granted))) => (client, granted),
        Ok((_, Verdict::Busy { retry_ms, .. })) => panic!("busy for {retry_ms} ms"),
        Err(fault) => panic!("{fault:?}"),
    }
}

/// Boots a VM that has no TPM, and makes one at `first`.
fn created(mut launch: Launch, first: &Head) -> (Running, [u8; 32]) {
    let (client, Granted::Create(grant)) = granted(&mut launch) else { panic!("not a creation") };
    let secret = secret_of(&grant.next);
    let mut tenure = Tenure::new(client, grant.pending);
    let anchored = launch.on(|platform| tenure.confirm(platform, first)).unwrap();
    assert_eq!(anchored.head(), first);
    (Running { launch, tenure }, secret)
}

struct Opened {
    running: Running,
    head: Head,
    current: [u8; 32],
    next: [u8; 32],
}

/// Boots a VM that has one, and confirms `new`.
fn opened(mut launch: Launch, new: &Head) -> Opened {
    let (client, Granted::Open(grant)) = granted(&mut launch) else { panic!("not an opening") };
    let (current, next, head) = (secret_of(&grant.current), secret_of(&grant.next), grant.head);
    let mut tenure = Tenure::new(client, grant.pending);
    launch.on(|platform| tenure.confirm(platform, new)).map(drop).unwrap();
    Opened { running: Running { launch, tenure }, head, current, next }
}

fn secret_of(key: &ReleasedKey) -> [u8; 32] {
    key.secret().with(|bytes| *bytes)
}

impl Running {
    fn commit(&mut self, previous: &Head, new: &Head) -> Result<(), ReleaseFault> {
        let Self { launch, tenure } = self;
        launch.on(|platform| tenure.anchor(platform, previous, new)).map(drop)
    }

    fn confirm(&mut self, new: &Head) -> Result<(), ReleaseFault> {
        let Self { launch, tenure } = self;
        launch.on(|platform| tenure.confirm(platform, new)).map(drop)
    }

    fn permit(&mut self) -> Result<(), ReleaseFault> {
        let Self { launch, tenure } = self;
        launch.on(|platform| tenure.permit(platform).map(drop))
    }

    fn release(&mut self) -> Result<(), ReleaseFault> {
        let Self { launch, tenure } = self;
        launch.on(|platform| tenure.release(platform))
    }
}

fn refusal(launch: &mut Launch) -> ReleaseFault {
    match launch.boot() {
        Err(fault) => fault,
        Ok(_) => panic!("not refused"),
    }
}

#[test]
fn a_tpm_is_made_once_and_opens_at_its_newest_state() {
    let bench = Bench::new();
    let (mut first, sealed) = created(bench.launch(&VM, 1), &head(1, 1));
    for sequence in 2..10 {
        first.commit(&head(sequence - 1, 1), &head(sequence, 1)).unwrap();
    }
    first.permit().unwrap();
    first.release().unwrap();
    let mut second = opened(bench.launch(&VM, 2), &head(10, 2));
    assert_eq!((second.head, second.current), (head(9, 1), sealed));
    second.running.release().unwrap();
    let third = opened(bench.launch(&VM, 3), &head(11, 3));
    assert_eq!((third.head, third.current), (head(10, 2), second.next));
    assert_ne!(third.current, sealed, "the first epoch's secret is gone");
}

/// The disk may be as old as the host likes: the grant names the newest head and no other.
#[test]
fn a_grant_names_the_newest_head_after_a_crash_too() {
    let bench = Bench::new();
    let (mut first, _) = created(bench.launch(&VM, 1), &head(1, 1));
    first.commit(&head(1, 1), &head(2, 1)).unwrap();
    drop(first);
    bench.world.pass(u64::from(LEASE_MS));
    let (_, granted) = granted(&mut bench.launch(&VM, 2));
    let Granted::Open(grant) = granted else { panic!("never a creation again") };
    assert_eq!(grant.head, head(2, 1));
}

#[test]
fn a_commit_from_an_older_head_is_a_conflict() {
    let bench = Bench::new();
    let (mut running, _) = created(bench.launch(&VM, 1), &head(1, 1));
    running.commit(&head(1, 1), &head(2, 1)).unwrap();
    let rolled_back = running.commit(&head(1, 1), &head(2, 9));
    assert!(rolled_back.is_err(), "the client itself refuses");
}

#[test]
fn a_second_instance_waits_and_then_fences_the_first() {
    let bench = Bench::new();
    let (mut first, _) = created(bench.launch(&VM, 1), &head(1, 1));
    let mut waiting = bench.launch(&VM, 2);
    let (mut client, Verdict::Busy { again, retry_ms }) = waiting.boot().unwrap() else {
        panic!("two at once")
    };
    assert_eq!(retry_ms, LEASE_MS);
    bench.world.pass(u64::from(LEASE_MS));
    let verdict = waiting.on(|platform| again.grant(platform, &mut client)).unwrap();
    let Verdict::Granted(Granted::Open(grant)) = verdict else { panic!("not granted after the lease") };
    let tenure = Tenure::new(client, grant.pending);
    let mut second = Running { launch: waiting, tenure };
    second.confirm(&head(2, 2)).unwrap();
    assert_eq!(first.commit(&head(1, 1), &head(2, 1)), Err(ReleaseFault::Fenced));
    assert_eq!(first.permit(), Err(ReleaseFault::Fenced), "for good");
    second.commit(&head(2, 2), &head(3, 2)).unwrap();
}

#[test]
fn a_lost_answer_is_given_again() {
    let bench = Bench::new();
    let (mut running, _) = created(bench.launch(&VM, 1), &head(1, 1));
    running.launch.relay.silent = true;
    assert_eq!(running.commit(&head(1, 1), &head(2, 1)), Err(ReleaseFault::Undecided));
    running.launch.relay.silent = false;
    running.commit(&head(1, 1), &head(2, 1)).unwrap();
    running.commit(&head(2, 1), &head(3, 1)).unwrap();
}

#[test]
fn a_running_vm_survives_the_brokers_restart_and_keeps_the_others_out() {
    let folder = std::env::temp_dir().join(format!("husk-restart-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("db");
    let bench = Bench::with(Some(&path), true);
    let (mut running, _) = created(bench.launch(&VM, 1), &head(1, 1));
    running.launch.relay.service = Bench::new().service;
    let bench = bench.restarted(&path);
    running.launch.relay.service = bench.service.clone();
    running.commit(&head(1, 1), &head(2, 1)).unwrap();
    bench.world.pass(u64::from(LEASE_MS) - 1);
    let verdict = bench.launch(&VM, 2).boot().unwrap().1;
    assert!(matches!(verdict, Verdict::Busy { retry_ms: 1, .. }));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn every_rule_of_the_policy_has_its_fault() {
    let bench = Bench::new();
    let changes: [(Change, ReleaseFault); 11] = [
        (|report| report.version.set(9), ReleaseFault::DeniedEvidence),
        (|report| report.vmpl.set(1), ReleaseFault::DeniedPolicy),
        (|report| report.policy.set(0xB_0000), ReleaseFault::DeniedPolicy),
        (|report| report.policy.set(0x7_0000), ReleaseFault::DeniedPolicy),
        (|report| report.host_data[0] ^= 1, ReleaseFault::DeniedLaunchConfig),
        (|report| report.measurement[0] ^= 1, ReleaseFault::DeniedMeasurement),
        (|report| report.reported_tcb[7] -= 1, ReleaseFault::DeniedPolicy),
        (|report| report.committed_tcb[6] -= 1, ReleaseFault::DeniedPolicy),
        (|report| report.launch_tcb[0] -= 1, ReleaseFault::DeniedPolicy),
        (|report| report.chip_id[0] ^= 1, ReleaseFault::DeniedPolicy),
        (|report| report.unsigned[0] = 1, ReleaseFault::DeniedEvidence),
    ];
    for (number, (change, fault)) in (10..).zip(changes) {
        let mut launch = bench.launch(&VM, number);
        change(&mut launch.processor.layout);
        assert_eq!(refusal(&mut launch), fault, "change {number}");
    }
    drop(granted(&mut bench.launch(&VM, 1)));
}

/// The row remembers it, whatever becomes of the policy; the tenant's log names both.
#[test]
fn a_guest_svn_that_had_keys_is_never_gone_below() {
    let folder = std::env::temp_dir().join(format!("husk-svn-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("db");
    let bench = Bench::with(Some(&path), true);
    let launch = |number, svn| {
        let mut launch = bench.launch(&VM, number);
        launch.processor.layout.guest_svn.set(svn);
        launch
    };
    drop(granted(&mut launch(1, 3)));
    assert_eq!(refusal(&mut launch(2, 2)), ReleaseFault::DeniedPolicy);
    drop(granted(&mut launch(3, 3)));
    Store::open(&path).unwrap().amend(&VM, |policy| policy.min_guest_svn = 0).unwrap();
    assert_eq!(refusal(&mut launch(4, 0)), ReleaseFault::DeniedPolicy);
    Store::open(&path).unwrap().amend(&VM, |policy| policy.min_guest_svn = 5).unwrap();
    assert_eq!(refusal(&mut launch(5, 4)), ReleaseFault::DeniedPolicy);
    let log = Store::open(&path).unwrap().audit(TENANT, 0).unwrap();
    let refused: Vec<_> = log.iter().filter(|(entry, _)| entry.event == Event::Refused).collect();
    let told: Vec<&str> = refused.iter().map(|(entry, _)| entry.detail.as_str()).collect();
    let said = ["at least 3; seen 2", "at least 3; seen 0", "at least 5; seen 4"];
    assert_eq!(told, said.map(|said| format!("guest-svn: wanted {said}")));
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Also one that attested before and waits.
#[test]
fn a_forbidden_firmware_is_granted_nothing_more() {
    let folder = std::env::temp_dir().join(format!("husk-forbid-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("db");
    let bench = Bench::with(Some(&path), true);
    let (mut running, _) = created(bench.launch(&VM, 1), &head(1, 1));
    let mut waiting = bench.launch(&VM, 2);
    let (mut client, Verdict::Busy { again, .. }) = waiting.boot().unwrap() else { panic!("two at once") };
    Store::open(&path).unwrap().amend(&VM, |policy| policy.measurements.clear()).unwrap();
    running.commit(&head(1, 1), &head(2, 1)).unwrap();
    running.release().unwrap();
    let verdict = waiting.on(|platform| again.grant(platform, &mut client));
    assert_eq!(verdict.map(drop), Err(ReleaseFault::DeniedMeasurement));
    assert_eq!(refusal(&mut bench.launch(&VM, 3)), ReleaseFault::DeniedMeasurement);
    let log = Store::open(&path).unwrap().audit(TENANT, 0).unwrap();
    let refused: Vec<_> = log.iter().filter(|(entry, _)| entry.event == Event::Refused).collect();
    assert!(
        matches!(refused[..], [(entry, _)] if entry.detail.starts_with("measurement: wanted one of an empty list; seen 0707")),
        "{refused:?}"
    );
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn simulated_silicon_is_refused_unless_accepted() {
    let bench = Bench::with(None, false);
    assert_eq!(refusal(&mut bench.launch(&VM, 1)), ReleaseFault::DeniedSimulated);
}

#[test]
fn a_launch_with_another_instance_key_is_refused() {
    let bench = Bench::new();
    drop(granted(&mut bench.launch(&VM, 1)));
    assert_eq!(refusal(&mut bench.launch(&VM, 1)), ReleaseFault::DeniedOther);
}

#[test]
fn a_vm_gets_nothing_of_another() {
    let bench = Bench::new();
    drop(created(bench.launch(&VM, 1), &head(1, 1)));
    let mut posing = bench.launch(&OTHER_VM, 2);
    posing.config = bench.config(&VM);
    assert_eq!(refusal(&mut posing), ReleaseFault::DeniedLaunchConfig);
    let (_, grant) = granted(&mut bench.launch(&OTHER_VM, 3));
    assert!(matches!(grant, Granted::Create(_)));
    let mut unknown = bench.launch(&VM, 4);
    unknown.config.vm = [9; 16];
    assert_eq!(refusal(&mut unknown), ReleaseFault::DeniedVm);
    let mut stranger = bench.launch(&VM, 4);
    stranger.config.root[0] ^= 1;
    assert_eq!(refusal(&mut stranger), ReleaseFault::BrokerUntrusted);
}

/// Whatever the relay kept, the broker takes once.
#[test]
fn every_frame_replayed_is_refused_and_changes_nothing() {
    let bench = Bench::new();
    let (mut running, _) = created(bench.launch(&VM, 1), &head(1, 1));
    running.commit(&head(1, 1), &head(2, 1)).unwrap();
    for frame in &running.launch.relay.seen {
        let answer = bench.service.handle(frame);
        assert!(matches!(answer[4], 0xFF | 0x81), "a refusal, or a hello's worth");
    }
    running.commit(&head(2, 1), &head(3, 1)).unwrap();
}

/// What its disk shows is newer than this broker remembers: only the broker can have gone back.
#[test]
fn a_vm_that_is_newer_than_its_head_is_quarantined() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let bench = Bench::with(Some(&path), true);
    let (mut running, _) = created(bench.launch(&VM, 1), &head(1, 1));
    running.release().unwrap();
    let missing = |number, fault: u32| {
        let mut launch = bench.launch(&VM, number);
        let (client, Granted::Open(grant)) = granted(&mut launch) else { panic!("not an opening") };
        let tenure = Tenure::new(client, grant.pending);
        launch.on(|platform| tenure.state_missing(platform, fault)).unwrap();
    };
    let other = husk::volume::VolumeFault::RolledBack.fault().code();
    missing(2, other);
    missing(3, husk::volume::VolumeFault::NewerThanAnchor.fault().code());
    assert_eq!(refusal(&mut bench.launch(&VM, 4)), ReleaseFault::DeniedVm, "halted");
    Store::open(&path).unwrap().operate(&VM, Order::Resume).unwrap();
    drop(granted(&mut bench.launch(&VM, 5)));
}
