//! Mutants of amendments that no model reaches, and the table of all of them: each row names what shows it, and that is there.
#![expect(clippy::expect_used, reason = "a test says what it expects")]

#[path = "world/stage.rs"]
mod stage;
#[path = "world/toy.rs"]
mod toy;

use husk::attest::AttestFault;
use husk::attest::launch::{CONFIG_BYTES_MAX, Kbs, LaunchConfig, Mode, Serve};
use stage::{Machine, Mishap, RamDisk, Stage};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use toy::{JUDGED, NAMES_NO_ATTEMPTS, SHOW, TRY};

/// TPM2_Startup.
const STARTUP: u32 = 0x144;
const TABLE: &str = include_str!("../src/release/protocol.md");

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
        let (stage, disk) = (Stage::new(15), RefCell::new(RamDisk { image: vec![0; 64 * 1024] }));
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
    NAMES_NO_ATTEMPTS.set(true);
    assert!(a_try_is_free(), "the mutant gives a try away, and nobody noticed");
    NAMES_NO_ATTEMPTS.set(false);
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
