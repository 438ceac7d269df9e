//! Reports that a simulated processor signed, judged by policies; files as somebody might write them.

use super::{
    Abi, Firmware, Floors, Genuine, Policy, Refusal, Revocation, RevocationRule, Rule, Signer, chip,
    guest_is_closed, tcb,
};
use crate::evidence::{Evidence as _, Judge};
use husk::attest::report::{Generation, Layout, PlatformInfo, Policy as GuestPolicy, Report, Tcb};
use husk::seams::REPORT_BYTES;
use husk_evidence::Verifier;
use husk_psp::Identity;
use zerocopy::{FromBytes, IntoBytes};

const MEASUREMENT: [u8; 48] = [7; 48];
/// What the simulated chip's key is derived for.
const LEVELS: &str = "bootloader=10,tee=0,snp=25,microcode=84";

/// A simulated processor, which can sign anything.
struct Chip {
    identity: Identity,
    judge: Judge,
}

impl Chip {
    fn new() -> Self {
        let identity = Identity::published(1).unwrap();
        let chain = identity.chain_pem().unwrap();
        let judge = Judge::new(Verifier::new().unwrap().accept_simulated(chain.as_bytes()).unwrap());
        Self { identity, judge }
    }

    /// A report that meets [`Chip::policy`].
    fn report(&self) -> Layout {
        let mut layout = Layout::read_from_bytes(&[0; REPORT_BYTES]).unwrap();
        layout.version.set(5);
        layout.guest_svn.set(3);
        layout.policy.set(GuestPolicy::RESERVED_ONE.bits() | GuestPolicy::SINGLE_SOCKET.bits() | 0x0137);
        layout.signature_algo.set(1);
        layout.platform_info.set(PlatformInfo::ALIAS_CHECK_COMPLETE.bits() | 1 << 6);
        layout.key_flags.set(1);
        layout.measurement = MEASUREMENT;
        (layout.id_key_digest, layout.author_key_digest) = ([4; 48], [5; 48]);
        layout.cpuid = [0x19, 0x11, 1];
        layout.chip_id = *self.identity.hwid();
        layout.reported_tcb = tcb(LEVELS).unwrap().to_bytes();
        (layout.committed_tcb, layout.launch_tcb) = (layout.reported_tcb, layout.reported_tcb);
        (layout.current_firmware, layout.committed_firmware) = ([21, 55, 1], [21, 55, 1]);
        layout
    }

    /// A policy with every rule in it.
    fn policy(&self) -> Policy {
        let mut policy = Policy {
            min_tcb: Floors::Each(vec![(Generation::Genoa, tcb(LEVELS).unwrap())]),
            chips: vec![*self.identity.hwid()],
            providers: vec!["a cloud".to_owned()],
            id_keys: vec![[4; 48]],
            author_keys: vec![[6; 48], [5; 48]],
            min_guest_svn: 3,
            min_abi: Some(Abi([1, 55])),
            min_firmware: Some(Firmware([1, 55, 21])),
            ..Policy::of(vec![[1; 48], MEASUREMENT])
        };
        policy.guest.required = GuestPolicy::SINGLE_SOCKET;
        policy.guest.forbidden = GuestPolicy::SMT;
        policy.platform.forbidden = PlatformInfo::TSME_EN;
        policy
    }

    /// The whole way: signed by the processor, verified down to its root, judged.
    fn judged(&self, policy: &Policy, mut layout: Layout) -> Result<(), Refusal> {
        self.identity.sign(&mut layout).unwrap();
        let raw = <[u8; REPORT_BYTES]>::read_from_bytes(layout.as_bytes()).unwrap();
        let genuine = self.judge.verify(&raw, self.identity.certificate()).unwrap();
        let report = Report::parse(&raw).unwrap();
        guest_is_closed(&report).and_then(|()| policy.admits(&report, &genuine))
    }
}

type Change = fn(&mut Layout, &mut Policy);

/// One change each, the rule that it breaks, and what the log says of it.
#[rustfmt::skip]
const BREAKS: &[(Change, Rule, &str)] = &[
    (|r, _| r.vmpl.set(1), Rule::Vmpl, "wanted VMPL 0; seen 1"),
    (|r, _| r.vmpl.set(u32::MAX), Rule::Vmpl, "seen 4294967295"),
    (|r, _| set(r, GuestPolicy::DEBUG), Rule::GuestFlags, "wanted DEBUG off; seen it on"),
    (|r, _| set(r, GuestPolicy::MIGRATE_MA), Rule::GuestFlags, "wanted MIGRATE_MA off; seen it on"),
    (|r, _| set(r, GuestPolicy::SMT), Rule::GuestFlags, "wanted SMT off; seen it on"),
    (|r, _| r.policy.set(0x2_0137), Rule::GuestFlags, "wanted SINGLE_SOCKET; seen it off"),
    (|r, _| r.policy.set(r.policy.get() - 1), Rule::GuestAbi, "wanted at least 1.55; seen 1.54"),
    (|r, _| r.measurement[47] ^= 1, Rule::Measurement, "0707; seen 0707"),
    (|_, p| p.measurements.clear(), Rule::Measurement, "wanted one of an empty list"),
    (|_, p| p.measurements.retain(|one| *one != MEASUREMENT), Rule::Measurement, "wanted 0101"),
    (|r, _| r.id_key_digest[0] ^= 1, Rule::IdKey, "; seen 0504"),
    (|r, _| r.id_key_digest = [0; 48], Rule::IdKey, "; seen 0000"),
    (|r, _| r.author_key_digest[0] ^= 1, Rule::AuthorKey, "; seen 0405"),
    (|r, _| r.key_flags.set(0), Rule::AuthorKey, "; seen none"),
    (|r, _| r.guest_svn.set(2), Rule::GuestSvn, "wanted at least 3; seen 2"),
    (|_, p| floor(p, |tcb| tcb.microcode = 85), Rule::ReportedTcb, "microcode=85; seen bootloader=10,tee=0,snp=25,microcode=84 of Genoa"),
    (|_, p| p.min_tcb = Floors::Each(vec![(Generation::Milan, tcb("snp=1").unwrap())]), Rule::ReportedTcb, "wanted another generation"),
    (|_, p| p.min_tcb = Floors::Every(tcb("fmc=0").unwrap()), Rule::ReportedTcb, "fmc=0; seen"),
    (|r, _| r.committed_tcb[7] = 83, Rule::CommittedTcb, "microcode=83 of Genoa"),
    (|r, _| r.launch_tcb[0] = 9, Rule::LaunchTcb, "seen bootloader=9"),
    (|r, _| r.current_firmware[0] = 20, Rule::Firmware, "wanted at least 1.55.21; seen 1.55.20"),
    (|r, _| r.committed_firmware = [99, 54, 1], Rule::Firmware, "seen 1.54.99"),
    (|r, _| r.platform_info.set(0), Rule::Platform, "wanted ALIAS_CHECK_COMPLETE; seen it off"),
    (|r, _| r.platform_info.set(r.platform_info.get() | 2), Rule::Platform, "wanted TSME_EN off; seen it on"),
    (|_, p| p.chips = vec![[9; 64]], Rule::Chip, "or a cloud; seen chip "),
    (|_, p| p.chips.clear(), Rule::Chip, "wanted a cloud; seen chip "),
];

fn set(report: &mut Layout, bit: GuestPolicy) {
    report.policy.set(report.policy.get() | bit.bits());
}

fn floor(policy: &mut Policy, change: fn(&mut Tcb)) {
    if let Floors::Each(floors) = &mut policy.min_tcb {
        change(&mut floors[0].1);
    }
}

#[test]
fn each_rule_refuses_the_report_that_differs_there_alone_and_says_what_it_saw() {
    let chip = Chip::new();
    assert_eq!(chip.judged(&chip.policy(), chip.report()), Ok(()));
    for (at, (change, rule, said)) in BREAKS.iter().enumerate() {
        let (mut report, mut policy) = (chip.report(), chip.policy());
        change(&mut report, &mut policy);
        let refusal = chip.judged(&policy, report).expect_err(&format!("row {at}: {rule:?}"));
        assert_eq!(refusal.rule, *rule, "row {at}: {refusal}");
        assert!(refusal.to_string().contains(said), "row {at}: {refusal}");
    }
}

#[test]
fn what_a_policy_leaves_out_it_does_not_demand() {
    let chip = Chip::new();
    let mut report = chip.report();
    (report.id_key_digest, report.author_key_digest) = ([0; 48], [0; 48]);
    report.key_flags.set(0);
    report.guest_svn.set(0);
    report.policy.set(0x3_0000);
    (report.committed_tcb, report.launch_tcb) = ([0; 8], [0; 8]);
    (report.current_firmware, report.committed_firmware) = ([0; 3], [0; 3]);
    assert_eq!(chip.judged(&Policy::of(vec![MEASUREMENT]), report), Ok(()));
    report.platform_info.set(0);
    let before = Policy { measurements: vec![MEASUREMENT], ..Policy::default() };
    assert_eq!(chip.judged(&before, report), Ok(()));
}

#[test]
fn a_providers_key_is_admitted_by_its_name_alone() {
    let (chip, raw) = (Chip::new(), Chip::new().report());
    let raw = <[u8; REPORT_BYTES]>::read_from_bytes(raw.as_bytes()).unwrap();
    let report = Report::parse(&raw).unwrap();
    let by = |csp: &str| Genuine {
        generation: Generation::Genoa,
        signer: Signer::Provider(csp.to_owned()),
        revocation: Revocation::Unknown,
    };
    assert_eq!(chip.policy().admits(&report, &by("a cloud")), Ok(()));
    let refusal = chip.policy().admits(&report, &by("another")).unwrap_err();
    assert_eq!((refusal.rule, &*refusal.seen), (Rule::Chip, "provider another"));
    let chips_alone = Policy { providers: Vec::new(), ..chip.policy() };
    assert_eq!(chips_alone.admits(&report, &by("a cloud")).unwrap_err().rule, Rule::Chip);
    assert_eq!(Policy::of(vec![MEASUREMENT]).admits(&report, &by("any")), Ok(()));
}

#[test]
fn a_policy_reads_what_it_writes() {
    let chip_of = Chip::new();
    let text = serde_json::to_string(&chip_of.policy()).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), chip_of.policy());
    let as_toml = |text: &str| Policy::from_file(text);
    let example = as_toml(include_str!("../../cli/policy.toml")).unwrap();
    assert!(matches!(&example.min_tcb, Floors::Each(floors) if floors.len() == 3));
    for wrong in ["", "bootloader", "bootloader=256", "snp=1,snp=2", "cpu=1"] {
        assert!(tcb(wrong).is_err(), "{wrong}");
    }
    assert_eq!(chip("0102030405060708").unwrap()[..9], [1, 2, 3, 4, 5, 6, 7, 8, 0]);
    assert!(chip("01").is_err());
}

#[test]
fn a_row_from_before_the_other_rules_demands_what_it_did() {
    let row = r#"{"measurements":[],"min_tcb":null,"chips":["0102030405060708"]}"#;
    let policy: Policy = serde_json::from_str(row).unwrap();
    let chips = vec![chip("0102030405060708").unwrap()];
    assert_eq!(policy, Policy { chips, ..Policy::default() });
}

/// What follows a measurement in a file, where the error stands, and what it says.
const WRONG: &[(&str, (usize, usize), &str)] = &[
    ("min_svn = 3", (2, 1), "unknown field `min_svn`"),
    ("min_guest_svn = -1", (2, 17), "invalid value"),
    ("chips = [\"00\", \n]", (2, 9), "a chip id is 128 or 16"),
    ("min_tcb = \"snp=300\"", (2, 11), "`300` is not a level"),
    ("min_tcb = { rome = \"snp=1\" }", (2, 13), "none of milan, genoa, turin"),
    ("min_tcb = { milan = \"fmc=1\" }", (2, 11), "out of reach before Turin"),
    ("min_tcb = {}", (2, 11), "no chip can meet it"),
    ("min_tcb = { genoa = \"snp=1\" }\nchips = [\"0102030405060708\"]", (2, 11), "of other generations"),
    ("chips = [\"0000000000000000\"]", (2, 9), "zeros are nobody's"),
    ("min_abi = \"1\"", (2, 11), "is not a version such as 1.55"),
    ("providers = [\"\"]", (2, 13), "empty or too long"),
    ("[guest]\nrequired = [\"DEBUG\"]", (3, 12), "refused by every broker"),
    ("[guest]\nrequired = [\"SMT\"]\nforbidden = [\"SMT\"]", (4, 13), "both required and forbidden"),
    ("[guest]\nrequired = [\"RESERVED_ONE\"]", (3, 12), "is none of SMT,"),
    ("[guest]\nforbidden = [\"SMT\"]\n[platform]\nrequired = [\"SMT_EN\"]", (5, 12), "cannot be on"),
    ("[guest]\nrequired = [\"RAPL_DIS\"]\n[platform]\nforbidden = [\"RAPL_DIS\"]", (5, 13), "turns on"),
    ("[platform]\nforbidden = [\"ALIAS_CHECK_COMPLETE\"]", (3, 13), "both required and forbidden"),
    ("measurements = []", (2, 1), "duplicate key"),
    ("x", (2, 2), ""),
];

#[test]
fn a_wrong_file_is_refused_with_line_column_and_a_hint() {
    let mut wrong = Vec::new();
    for (text, place, said) in WRONG {
        let file = format!("measurements = [\"{}\"]\n{text}\n", "07".repeat(48));
        let error = Policy::from_file(&file).expect_err(text);
        let hinted = error.what.contains(said) && error.what.contains("; ");
        if (error.line, error.column) != *place || !hinted {
            wrong.push(format!("{text}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(Policy::from_file("measurements = []").unwrap_err().column, 16);
    assert!(Policy::from_file("").unwrap_err().what.contains("missing field `measurements`"));
    let long = format!("#{}", "x".repeat(super::FILE_BYTES_MAX));
    assert!(Policy::from_file(&long).unwrap_err().what.contains("longer than"));
}

#[test]
fn only_a_file_that_says_so_waives_the_alias_check() {
    let file = |rest: &str| Policy::from_file(&format!("measurements = [\"{}\"]\n{rest}", "07".repeat(48)));
    let demands = |rest: &str| file(rest).unwrap().platform.required == PlatformInfo::ALIAS_CHECK_COMPLETE;
    assert!(demands("") && demands("[platform]\nforbidden = [\"TIO_EN\"]"));
    assert!(!demands("[platform]\nrequired = []"));
}

#[test]
fn a_revocation_list_that_ended_counts_as_the_policy_says() {
    let (chip, raw) = (Chip::new(), Chip::new().report());
    let raw = <[u8; REPORT_BYTES]>::read_from_bytes(raw.as_bytes()).unwrap();
    let report = Report::parse(&raw).unwrap();
    let verdict = |revocation, known| {
        let policy = Policy { revocation, ..chip.policy() };
        let signer = Signer::Chip(*chip.identity.hwid());
        let genuine = Genuine { generation: Generation::Genoa, signer, revocation: known };
        policy.admits(&report, &genuine).map_err(|refusal| refusal.rule)
    };
    let (refused, ended) = (Err(Rule::Revocation), Revocation::Ended(7));
    for (rule, by_none, by_ended) in [
        (RevocationRule::default(), Ok(()), refused),
        (RevocationRule::Required, refused, refused),
        (RevocationRule::Ended, Ok(()), Ok(())),
    ] {
        let all = [Revocation::Unknown, ended, Revocation::Known].map(|known| verdict(rule, known));
        assert_eq!(all, [by_none, by_ended, Ok(())], "{rule:?}");
    }
    assert_eq!(RevocationRule::default(), RevocationRule::Known);
}
