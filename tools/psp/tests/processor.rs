//! Laws of the simulated processor, in one process and without a socket.

use husk::attest::AttestFault;
use husk::attest::guest_message::{
    Envelope, GuestRequest, GuestRequestError, HEADER_BYTES, MessageKind, Messenger, PAGE_BYTES,
    REPORT_REQUEST_BYTES, REPORT_RESPONSE_BYTES, open, seal,
};
use husk::attest::report::{Generation, Policy};
use husk::seams::{REPORT_BYTES, Reporter};
use husk::secret::Secret;
use husk_evidence::{EvidenceError, Silicon, Verifier};
use husk_psp::{
    Entropy, GUESTS_MAX, Identity, LocalGuest, Processor, PspReporter, Refusal, Reply, Request,
    SharedProcessor, expected_measurement,
};

const POLICY: u64 = Policy::RESERVED_ONE.union(Policy::SMT).bits();
type Page = [u8; PAGE_BYTES];

/// Entropy that counts: another value in every byte run, the same in every test run.
fn counting() -> Entropy {
    let mut counter = 0u64;
    Box::new(move |into| {
        for chunk in into.chunks_mut(8) {
            counter += 1;
            chunk.copy_from_slice(&counter.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    })
}

#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn processor(chip: u8) -> SharedProcessor {
    Processor::shared(Identity::published(chip).unwrap(), counting())
}

#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn reporter(processor: &SharedProcessor, firmware: &[u8]) -> PspReporter<LocalGuest> {
    let (mut guest, secrets) = LocalGuest::launch(processor, firmware, &[0xD0; 32], POLICY).unwrap();
    let certificate = guest.certificate().unwrap();
    PspReporter::new(guest, secrets, certificate)
}

#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn report_of(reporter: &mut dyn Reporter, data: u8) -> [u8; REPORT_BYTES] {
    let mut report = [0; REPORT_BYTES];
    reporter.report(&[data; 64], &mut report).unwrap();
    report
}

fn firmware() -> Vec<u8> {
    (0..2 * PAGE_BYTES + 100).map(|index| (index * 7 + 3).to_le_bytes()[0]).collect()
}

#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn accepting(chip: u8) -> Verifier {
    let chain = Identity::published(chip).unwrap().chain_pem().unwrap();
    Verifier::new().unwrap().accept_simulated(chain.as_bytes()).unwrap()
}

#[test]
fn a_simulated_report_verifies_under_its_own_root_and_nowhere_else() {
    let processor = processor(0);
    let mut reporter = reporter(&processor, &firmware());
    let mut certificate = [0; 4096];
    let length = reporter.certificate(&mut certificate);
    let vek = &certificate[..length];
    let report = report_of(&mut reporter, 0x77);

    let verifier = accepting(0);
    let verified = verifier.verify(&report, vek).unwrap();
    let root = "ARK-Husk-Simulated-Published".to_owned();
    assert_eq!(verified.silicon, Silicon::Simulated { root, generation: Generation::Genoa });
    assert_eq!(verified.report.report_data(), &[0x77; 64]);
    assert_eq!(verified.report.host_data(), &[0xD0; 32]);
    assert_eq!(verified.report.measurement(), &expected_measurement(&firmware()));
    assert_eq!((verified.report.version(), verified.report.vmpl()), (5, 0));
    assert_eq!(verified.chip(), Some(&Identity::published(0).unwrap().hwid()[..]));

    let refusal = Verifier::new().unwrap().verify(&report, vek).err();
    let issuer = "SEV-Husk-Simulated-Published".to_owned();
    assert_eq!(refusal, Some(EvidenceError::SimulatedSilicon { issuer }));
}

#[test]
fn a_root_that_does_not_call_itself_simulated_is_never_accepted_as_such() {
    use sev::certs::snp::builtin::milan;
    let bundle = [milan::ASK, milan::ARK].concat();
    let verdict = Verifier::new().unwrap().accept_simulated(&bundle);
    assert!(matches!(verdict, Err(EvidenceError::NotSimulated { name }) if name == "ARK-Milan"));
    // And a simulated root is no way to bring in intermediates under AMD's.
    let chain = Identity::published(0).unwrap().chain_pem().unwrap();
    assert!(Verifier::new().unwrap().with_intermediates(chain.as_bytes()).is_err());
}

#[test]
fn another_chip_s_certificate_under_the_same_root_is_refused() {
    let processor = processor(0);
    let report = report_of(&mut reporter(&processor, &firmware()), 1);
    let other = Identity::published(1).unwrap();
    assert_eq!(accepting(0).verify(&report, other.certificate()).err(), Some(EvidenceError::ReportSignature));
}

#[test]
fn the_launch_digest_is_the_one_that_another_implementation_computes() {
    // SHA-384 chain over PAGE_INFO by Python's hashlib.
    let expected =
        "dad16cb6a49bee42cc97c9a9f2637c73d501934ea40e9edec33706dc51be95541a63eb1d3c00eb2128b69edf1c0b6784";
    assert_eq!(hex::encode(expected_measurement(&firmware())), expected);
    let mut other = firmware();
    other[5000] ^= 1;
    assert_ne!(expected_measurement(&other), expected_measurement(&firmware()));
}

#[test]
fn guests_differ_in_nothing_but_what_is_theirs() {
    let processor = processor(0);
    let (mut one, mut two) = (reporter(&processor, &firmware()), reporter(&processor, &firmware()));
    let (first, again, second) = (report_of(&mut one, 1), report_of(&mut one, 1), report_of(&mut two, 1));
    assert_eq!(first[0x140..0x160], again[0x140..0x160], "REPORT_ID stays");
    assert_ne!(first[0x140..0x160], second[0x140..0x160], "REPORT_ID is the guest's");
    assert_eq!(first[0x090..0x0C0], second[0x090..0x0C0]);
    drop(one);
    drop(two);
    assert_eq!(processor.lock().unwrap().guests(), 0, "a guest ends with its value");
}

/// A host between a guest and its processor.
struct Between<'g> {
    guest: &'g mut LocalGuest,
    request_byte: Option<usize>,
    response_byte: Option<usize>,
}

impl GuestRequest for Between<'_> {
    fn exchange(&mut self, request: &Page, response: &mut Page) -> Result<(), GuestRequestError> {
        let mut request = *request;
        if let Some(byte) = self.request_byte {
            request[byte] ^= 0x04;
        }
        self.guest.exchange(&request, response)?;
        if let Some(byte) = self.response_byte {
            response[byte] ^= 0x04;
        }
        Ok(())
    }
}

/// Bytes that nothing protects and nobody reads: the unused half of AUTHTAG and the reserved field after MSG_SEQNO.
fn unread(byte: usize) -> bool {
    (0x10..0x20).contains(&byte) || (0x28..0x30).contains(&byte)
}

#[test]
fn a_host_that_changes_any_byte_of_a_message_gets_nothing_and_the_key_is_wiped() {
    let processor = processor(0);
    let requests = (0..HEADER_BYTES + REPORT_REQUEST_BYTES).map(|byte| (Some(byte), None));
    let responses = (0..HEADER_BYTES + REPORT_RESPONSE_BYTES).map(|byte| (None, Some(byte)));
    for (request_byte, response_byte) in requests.chain(responses) {
        let (mut guest, secrets) = LocalGuest::launch(&processor, &[1], &[0; 32], POLICY).unwrap();
        let mut messenger = Messenger::new(secrets);
        let mut report = [0; REPORT_BYTES];
        let mut between = Between { guest: &mut guest, request_byte, response_byte };
        let outcome = messenger.report(&mut between, &[3; 64], 0, &mut report);
        if request_byte.or(response_byte).is_some_and(unread) {
            assert_eq!(outcome, Ok(()));
            continue;
        }
        assert!(outcome.is_err(), "request {request_byte:?}, response {response_byte:?}");
        assert_eq!(report, [0; REPORT_BYTES], "nothing came out");
        let outcome = messenger.report(&mut guest, &[3; 64], 0, &mut report);
        assert_eq!(
            outcome,
            Err(AttestFault::KeyWiped),
            "request {request_byte:?}, response {response_byte:?}"
        );
    }
}

/// A launched guest whose message keys the test holds, to send what a `Messenger` never would.
struct Raw {
    processor: SharedProcessor,
    guest: u64,
    keys: [[u8; 32]; 4],
}

impl Raw {
    #[expect(clippy::panic, reason = "a helper of tests")]
    fn launch() -> Self {
        let processor = processor(0);
        let answer = |request| processor.lock().map(|mut processor| processor.answer(&request));
        let Ok(Reply::Guest(guest)) = answer(Request::LaunchStart { policy: POLICY }) else {
            panic!("no guest")
        };
        let Ok(Reply::Secrets(page)) = answer(Request::LaunchFinish { guest, host_data: [0; 32] }) else {
            panic!("no secrets");
        };
        let keys = core::array::from_fn(|key| core::array::from_fn(|byte| page[0x20 + 32 * key + byte]));
        Self { processor, guest, keys }
    }

    /// Sends a report request under `vmpck` with `sequence`, VMPL and KEY_SEL; yields STATUS.
    fn ask(&self, vmpck: u8, sequence: u64, vmpl: u32, key_select: u32) -> Result<u32, Refusal> {
        let mut payload = [0; REPORT_REQUEST_BYTES];
        payload[0x40..0x44].copy_from_slice(&vmpl.to_le_bytes());
        payload[0x44..0x48].copy_from_slice(&key_select.to_le_bytes());
        self.send(vmpck, sequence, &payload)
    }

    #[expect(clippy::unwrap_used, clippy::panic, reason = "a helper of tests")]
    fn send(&self, vmpck: u8, sequence: u64, payload: &[u8]) -> Result<u32, Refusal> {
        let key = Secret::take(&mut self.keys[usize::from(vmpck)].clone());
        let mut page = [0; PAGE_BYTES];
        seal(&key, &Envelope { kind: MessageKind::ReportRequest, sequence, vmpck }, payload, &mut page)
            .unwrap();
        let request = Request::GuestRequest { guest: self.guest, page: Box::new(page) };
        match self.processor.lock().unwrap().answer(&request) {
            Reply::Response(mut response) => {
                let expected = Envelope { kind: MessageKind::ReportResponse, sequence: sequence + 1, vmpck };
                let payload = open(&key, &expected, &mut response).unwrap();
                Ok(u32::from_le_bytes(payload[..4].try_into().unwrap()))
            }
            Reply::Refused(refusal) => Err(refusal),
            _ => panic!("not an answer to a guest request"),
        }
    }
}

#[test]
fn each_message_key_meets_each_sequence_number_once_and_in_order() {
    let raw = Raw::launch();
    for wrong in [0, 2, 3, u64::MAX - 1] {
        assert_eq!(raw.ask(0, wrong, 0, 0), Err(Refusal::Message), "sequence {wrong} first");
    }
    assert_eq!(raw.ask(0, 1, 0, 0), Ok(0));
    for wrong in [0, 1, 2, 4, 5] {
        assert_eq!(raw.ask(0, wrong, 0, 0), Err(Refusal::Message), "sequence {wrong} second");
    }
    assert_eq!(raw.ask(0, 3, 0, 0), Ok(0));
    assert_eq!(raw.ask(1, 1, 1, 0), Ok(0), "every key counts for itself");
}

#[test]
fn a_message_key_speaks_for_its_own_level_and_those_below() {
    let raw = Raw::launch();
    let mut sequences = [1; 4];
    for (vmpck, vmpl) in (0..4u8).flat_map(|vmpck| (0..6u32).map(move |vmpl| (vmpck, vmpl))) {
        let sequence = &mut sequences[usize::from(vmpck)];
        let expected = if vmpl <= 3 && vmpl >= u32::from(vmpck) { 0 } else { 0x16 };
        assert_eq!(raw.ask(vmpck, *sequence, vmpl, 0), Ok(expected), "VMPCK {vmpck}, VMPL {vmpl}");
        *sequence += 2;
    }
}

#[test]
fn key_selection_and_reserved_fields_are_checked() {
    let raw = Raw::launch();
    for (index, (key_select, status)) in
        [(0, 0), (1, 0), (2, 0x27), (3, 0x27), (4, 0x16)].into_iter().enumerate()
    {
        assert_eq!(raw.ask(0, 1 + 2 * index as u64, 0, key_select), Ok(status), "KEY_SEL {key_select}");
    }
    let mut payload = [0; REPORT_REQUEST_BYTES];
    payload[0x5F] = 1;
    assert_eq!(raw.send(0, 11, &payload), Ok(0x16), "reserved byte");
    assert_eq!(raw.send(0, 13, &payload[..95]), Ok(0x16), "short request");
    assert_eq!(raw.send(0, 15, &[]), Ok(0x16), "empty request");
}

#[test]
fn launches_follow_their_order_and_limits() {
    let processor = processor(0);
    let answer = |request| processor.lock().unwrap().answer(&request);
    for policy in
        [0, POLICY | Policy::MIGRATE_MA.bits(), POLICY | 1 << 26, POLICY | 0x01_FF, POLICY | 0x02_00]
    {
        assert!(answer(Request::LaunchStart { policy }) == Reply::Refused(Refusal::Policy), "{policy:#x}");
    }
    let Reply::Guest(guest) = answer(Request::LaunchStart { policy: POLICY }) else { panic!("no guest") };
    let update =
        |gpa, bytes| Request::LaunchUpdate { guest, page_type: husk_psp::PageType::Normal, gpa, bytes };
    for (gpa, bytes) in [(1, 4096), (0, 0), (0, 4095), (0, 257 * 4096), (u64::MAX - 4095, 4096)] {
        assert!(answer(update(gpa, vec![0; bytes])) == Reply::Refused(Refusal::Pages), "{gpa:#x}, {bytes}");
    }
    let request = Request::GuestRequest { guest, page: Box::new([0; PAGE_BYTES]) };
    assert!(answer(request) == Reply::Refused(Refusal::Order), "not launched yet");
    let finish = Request::LaunchFinish { guest, host_data: [0; 32] };
    assert!(matches!(answer(finish.clone()), Reply::Secrets(_)));
    assert!(answer(finish) == Reply::Refused(Refusal::Order), "HOST_DATA is fixed");
    assert!(answer(update(0, vec![0; 4096])) == Reply::Refused(Refusal::Order), "the measurement is fixed");
    for _ in 1..GUESTS_MAX {
        assert!(matches!(answer(Request::LaunchStart { policy: POLICY }), Reply::Guest(_)));
    }
    assert!(answer(Request::LaunchStart { policy: POLICY }) == Reply::Refused(Refusal::Full));
    assert!(answer(Request::End { guest }) == Reply::Done);
    assert!(answer(Request::End { guest }) == Reply::Refused(Refusal::UnknownGuest));
}
