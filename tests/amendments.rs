//! Mutants of amendments that no model reaches, and the table of all of them: each row names what shows it, and that is there.
#![expect(clippy::expect_used, reason = "a test says what it expects")]

#[path = "world/stage.rs"]
mod stage;
#[path = "world/toy.rs"]
mod toy;

use husk::attest::AttestFault;
use husk::attest::launch::{CONFIG_BYTES_MAX, Kbs, LaunchConfig, Mode, Serve};
use husk::fault::Fault;
use husk::volume::suspend::SUSPEND_BYTES_MAX;
use stage::{LEASE_MS, Machine, Mishap, RamDisk, Stage};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::LocalKey;
use toy::{
    CLOCK_MIN, CLOCK_MS, INCREMENT, JUDGED, MEASURE, NAMES_NO_ATTEMPTS, RESET_COUNT, SHOW,
    STORES_MEASUREMENTS, TELLS_NO_CLOCK, TRY,
};

/// TPM2_Startup.
const STARTUP: u32 = 0x144;
const TABLE: &str = include_str!("../src/release/protocol.md");

fn blank() -> RefCell<RamDisk> {
    RefCell::new(RamDisk { image: vec![0; 64 * 1024] })
}

/// A TPM that was launched and started.
fn started<'s>(stage: &'s Stage, disk: &'s RefCell<RamDisk>) -> Machine<'s> {
    let mut machine = Machine::launch(stage, disk);
    machine.boot(8).expect("it boots");
    machine.ask(STARTUP).expect("it starts");
    machine
}

/// What `law` says in a world where every toy is that mutant.
fn mutated<R>(mutant: &'static LocalKey<Cell<bool>>, law: impl FnOnce() -> R) -> R {
    mutant.set(true);
    let said = law();
    mutant.set(false);
    said
}

fn tries(stage: &Stage, disk: &RefCell<RamDisk>) {
    let mut machine = Machine::launch(stage, disk);
    if machine.boot(8).and_then(|()| machine.ask(STARTUP)).is_ok() {
        for _ in 0..2 {
            machine.code_of(TRY);
        }
    }
    machine.kill();
}

/// Whether a try that was judged goes uncharged, wherever the machine is killed.
fn a_try_is_free() -> bool {
    (0..40).any(|step| {
        let (stage, disk) = (Stage::new(15), blank());
        JUDGED.set(0);
        stage.plan.set(Some((step, Mishap::DiesBefore)));
        tries(&stage, &disk);
        stage.plan.set(None);
        let mut next = Machine::launch(&stage, &disk);
        next.boot(8).expect("an honest disk always boots");
        next.ask(STARTUP).expect("it starts");
        next.ask(SHOW).expect("it shows the counter") < JUDGED.get()
    })
}

/// Amendment 10.
#[test]
fn the_mutant_that_judges_before_it_charges_is_found() {
    assert!(!a_try_is_free(), "each try is charged before it is judged");
    assert!(mutated(&NAMES_NO_ATTEMPTS, a_try_is_free), "the mutant gives a try away, and nobody noticed");
}

fn suspend(machine: &mut Machine<'_>) -> Vec<u8> {
    let mut bytes = vec![0; SUSPEND_BYTES_MAX];
    let length = machine.call(|vtpm, platform| vtpm.suspend(platform, &mut bytes)).expect("it is saved");
    bytes.truncate(length);
    bytes
}

/// Whether a suspension is resumed that is not the newest, where the secret of each is drawn after `between` at the same
/// head, under the same token, by the same launch.
fn an_older_suspension_is_resumed(between: fn(&Stage, u64)) -> bool {
    let (stage, disk) = (Stage::new(8), blank());
    let mut machine = started(&stage, &disk);
    suspend(&mut machine);
    let draws = stage.nature.draws.load(SeqCst);
    let mut older = suspend(&mut machine);
    between(&stage, draws);
    suspend(&mut machine);
    machine.call(|vtpm, platform| vtpm.resume(platform, &mut older)).is_ok()
}

/// Amendment 8. The other half, a launch that resumes what was saved, is in `tests/engine_launch.rs`.
#[test]
fn the_mutant_whose_suspensions_share_a_secret_is_found() {
    assert!(!an_older_suspension_is_resumed(|_, _| {}));
    let shared = an_older_suspension_is_resumed(|stage, draws| stage.nature.draws.store(draws, SeqCst));
    assert!(shared, "the mutant resumes twice, and nobody noticed");
}

/// Whether what `measures` fails once the broker is gone and the lease is over.
fn waits_for_a_broker(measures: fn(&mut Machine<'_>) -> Result<(), Fault>) -> bool {
    let (stage, disk) = (Stage::new(9), blank());
    let mut machine = started(&stage, &disk);
    stage.cut_off.set(true);
    stage.pass_ms(u64::from(LEASE_MS) * 10);
    measures(&mut machine).is_err()
}

/// Amendment 9: a measurement that is classed otherwise, or stored, can be held up by a host.
#[test]
fn every_mutant_whose_measurements_wait_for_a_broker_is_found() {
    assert!(!waits_for_a_broker(|machine| machine.ask(MEASURE).map(drop)));
    assert!(!waits_for_a_broker(|machine| machine.measure()));
    let lease = waits_for_a_broker(|machine| machine.ask(SHOW).map(drop));
    assert!(lease, "a measurement that is classed as what needs a lease, and nobody noticed");
    let writes = waits_for_a_broker(|machine| machine.ask(INCREMENT).map(drop));
    assert!(writes, "a measurement that is classed as what may write, and nobody noticed");
    let stored = mutated(&STORES_MEASUREMENTS, || waits_for_a_broker(|machine| machine.measure()));
    assert!(stored, "a measurement that is stored, and nobody noticed");
}

/// Whether TPM2_ReadClock showed a value before a power loss that lies ahead of where Clock goes on after it.
fn the_clock_goes_back() -> bool {
    /// More than is reserved ahead of a clock that stands at its beginning (4 hours).
    const LATE_MS: u64 = 5 * 60 * 60 * 1000;
    let (stage, disk) = (Stage::new(13), blank());
    let mut machine = started(&stage, &disk);
    CLOCK_MS.set(LATE_MS);
    machine.ask(RESET_COUNT).expect("the code of TPM2_ReadClock is answered");
    machine.kill();
    CLOCK_MS.set(1000);
    started(&stage, &disk).ask(CLOCK_MIN).expect("it tells") < LATE_MS
}

/// Amendment 13. What the engine makes of it is in `tests/engine_launch.rs`.
#[test]
fn the_mutant_that_shows_more_of_the_clock_than_is_reserved_is_found() {
    assert!(!the_clock_goes_back());
    assert!(mutated(&TELLS_NO_CLOCK, the_clock_goes_back), "the mutant turns Clock back, and nobody noticed");
}

/// Whether anything answers on a disk that lost its TPM, where a boot that is refused is followed by `then`.
fn another_tpm_answers(then: fn(&mut Machine<'_>) -> Result<(), Fault>) -> bool {
    let (stage, disk) = (Stage::new(17), blank());
    let mut machine = started(&stage, &disk);
    machine.ask(INCREMENT).expect("it counts");
    machine.kill();
    let lost = blank();
    let mut next = Machine::launch(&stage, &lost);
    let booted = next.boot(8).or_else(|_| then(&mut next));
    let answers = booted.and_then(|()| next.ask(STARTUP)).is_ok();
    next.kill();
    assert_eq!(started(&stage, &disk).ask(SHOW), Ok(1), "the TPM itself is not harmed");
    answers
}

/// Amendment 17. A broker that would take the alarm for a wish is in `tools/broker/tests/rules_exhaustive.rs`.
#[test]
fn the_mutant_that_makes_another_tpm_of_a_missing_one_is_found() {
    assert!(!another_tpm_answers(|_| Err(husk::volume::VolumeFault::Blank.into())));
    assert!(
        another_tpm_answers(|machine| machine.boot_without_a_broker()),
        "another TPM answers, and nobody noticed"
    );
}

/// A reader of launch configurations, and how it fails the law of the grammar.
type Reader = fn(&str) -> Result<LaunchConfig, AttestFault>;

fn spelled(config: &LaunchConfig) -> String {
    let mut text = String::new();
    config.write(&mut text).expect("it is written");
    text
}

/// Whether all that `read` takes is the one spelling of what it reads.
fn has_one_spelling(read: Reader) -> bool {
    let config = LaunchConfig {
        tenant: [0x1A; 16],
        vm: [0x2B; 16],
        root: [0x3C; 48],
        mode: Mode::Strict,
        serve: Serve::Lease,
        kbs: Kbs::None,
        min_key_generation: 7,
        processor: None,
        staleness: None,
        variables: None,
    };
    let good = spelled(&config);
    let with = |from: &str, to: &str| good.replacen(from, to, 1);
    let others = [
        good.clone(),
        with("[data]", "[data]\n# a comment"),
        with("[data]", "[data]\n"),
        with("\"lease\"", "\"lease\"\n\"husk.serve\" = \"detect\""),
        with("1a1a", "1A1A"),
        with("\"7\"", "\"07\""),
        with("\" = \"", "\"=\""),
        good.clone() + "\"husk.debug\" = \"yes\"\n",
        good.clone() + "[other]\n",
        good.clone() + &"#".repeat(CONFIG_BYTES_MAX),
    ];
    others.iter().all(|text| read(text).map_or(true, |config| spelled(&config) == *text))
}

fn shipped(text: &str) -> Result<LaunchConfig, AttestFault> {
    LaunchConfig::parse(text.as_bytes())
}

fn lines(text: &str, keep: impl FnMut(&&str) -> bool) -> Result<LaunchConfig, AttestFault> {
    shipped(&text.lines().filter(keep).map(|line| format!("{line}\n")).collect::<String>())
}

/// Amendment 20: a grammar that is one rule short reads something in two ways.
#[test]
fn every_mutant_of_the_configurations_grammar_is_found() {
    assert!(has_one_spelling(shipped));
    let mutants: [(&str, Reader); 6] = [
        ("comments are skipped", |text| lines(text, |line| !line.starts_with('#'))),
        ("blank lines are skipped", |text| lines(text, |line| !line.is_empty())),
        ("of duplicates the first counts", |text| {
            let mut seen = BTreeSet::new();
            lines(text, |line| seen.insert(line.split(" = ").next().map(str::to_owned)))
        }),
        ("unknown keys are skipped", |text| lines(text, |line| !line.contains("husk.debug"))),
        ("what follows is not looked at", |text| lines(text, |line| !line.starts_with("[other]"))),
        ("digits have two cases", |text| shipped(&text.replace("1A", "1a"))),
    ];
    for (what, mutant) in mutants {
        assert!(!has_one_spelling(mutant), "{what}: nobody noticed");
    }
}

/// Whether the tree has that test: `path::name`.
fn is_there(shown: &str) -> bool {
    let (path, name) = shown.rsplit_once("::").expect("a test is named path::name");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("fn {name}(")))
}

#[test]
fn every_amendment_has_a_row_and_what_a_row_names_is_there() {
    let section = TABLE.split("\n## ").find(|section| section.starts_with("9. ")).expect("section 9");
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| ") && line.as_bytes()[2].is_ascii_digit())
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let numbers: Vec<_> = rows.iter().map(|row| row[0].to_owned()).collect();
    assert_eq!(numbers, (1..=21).map(|number| number.to_string()).collect::<Vec<_>>());
    for row in &rows {
        assert_eq!(row.len(), 4, "{row:?}");
        for shown in row[3].split('`').filter(|text| text.contains("::")) {
            assert!(is_there(shown), "amendment {}: {shown} is not there", row[0]);
        }
        let says = row[3].contains("::") || row[3].starts_with("not in this version");
        assert!(says, "amendment {} is shown by nothing, and does not say so", row[0]);
    }
    assert!(!is_there("tests/amendments.rs::a_test_that_nobody_wrote"));
}
