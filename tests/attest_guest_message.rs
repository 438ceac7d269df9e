//! Laws of the conversation with the secure processor, against a host that plays every trick between.

use husk::attest::AttestFault;
use husk::attest::guest_message::{
    BUSY_RETRIES_MAX, Envelope, GuestRequest, GuestRequestError, HEADER_BYTES, MessageKind, Messenger,
    PAGE_BYTES, REPORT_REQUEST_BYTES, REPORT_RESPONSE_BYTES, SecretsPage, Unauthentic, open, seal,
};
use husk::seams::REPORT_BYTES;
use husk::secret::Secret;
use sha2::{Digest, Sha256};

type Page = [u8; PAGE_BYTES];

fn key_bytes() -> [u8; 32] {
    core::array::from_fn(|index| u8::try_from(index).unwrap_or(0))
}

fn key() -> Secret<32> {
    Secret::take(&mut key_bytes())
}

fn secrets_page() -> Page {
    let mut page = [0; PAGE_BYTES];
    page[0] = 3;
    page[0x20..0x40].copy_from_slice(&key_bytes());
    page[0x40..0x60].fill(0xEE);
    page
}

#[expect(clippy::panic, reason = "a helper of tests")]
fn messenger() -> Messenger {
    match SecretsPage::take(&mut secrets_page()) {
        Ok(secrets) => Messenger::new(secrets),
        Err(fault) => panic!("{fault:?}"),
    }
}

/// What the host does to one delivery.
#[derive(Clone, Copy)]
enum Trick {
    Honest,
    Status(u32),
    Say(GuestRequestError),
    FlipResponse(usize),
    FlipRequest(usize),
    Replay,
    OtherData,
    OtherSequence(u64),
}

/// A host, and behind it a processor in a few lines: it checks the sequence and answers with an empty report.
struct World {
    trick: Trick,
    next: u64,
    seen: Vec<Page>,
    previous: Page,
}

impl World {
    fn new(trick: Trick) -> Self {
        Self { trick, next: 1, seen: Vec::new(), previous: [0; PAGE_BYTES] }
    }

    fn answer(&mut self, request: &Page, response: &mut Page) -> Result<(), Unauthentic> {
        let mut page = *request;
        let expected = Envelope { kind: MessageKind::ReportRequest, sequence: self.next, vmpck: 0 };
        let asked = open(&key(), &expected, &mut page)?.to_vec();
        let mut payload = [0; REPORT_RESPONSE_BYTES];
        payload[4..8].copy_from_slice(&1184u32.to_le_bytes());
        payload[0x20 + 0x50..0x20 + 0x90].copy_from_slice(&asked[..64]);
        payload[0x20 + 0x30..0x20 + 0x34].copy_from_slice(&asked[64..68]);
        let mut sequence = self.next + 1;
        match self.trick {
            Trick::Status(status) => payload[..4].copy_from_slice(&status.to_le_bytes()),
            Trick::OtherData => payload[0x20 + 0x50] ^= 1,
            Trick::OtherSequence(other) => sequence = other,
            _ => {}
        }
        self.next += 2;
        seal(&key(), &Envelope { kind: MessageKind::ReportResponse, sequence, vmpck: 0 }, &payload, response)
    }
}

impl GuestRequest for World {
    fn exchange(&mut self, request: &Page, response: &mut Page) -> Result<(), GuestRequestError> {
        self.seen.push(*request);
        let mut request = *request;
        match self.trick {
            Trick::Say(error) => return Err(error),
            Trick::FlipRequest(offset) => request[offset] ^= 0x10,
            Trick::Replay => {
                *response = self.previous;
                return Ok(());
            }
            _ => {}
        }
        self.answer(&request, response).map_err(|_| GuestRequestError::Failed)?;
        self.previous = *response;
        if let Trick::FlipResponse(offset) = self.trick {
            response[offset] ^= 0x10;
        }
        Ok(())
    }
}

fn ask(messenger: &mut Messenger, world: &mut World) -> Result<[u8; REPORT_BYTES], AttestFault> {
    let mut report = [0; REPORT_BYTES];
    messenger.report(world, &[0x5A; 64], 2, &mut report).map(|()| report)
}

/// After a failure that wipes, an honest host gets nothing any more, and no byte of a request.
fn assert_wiped(messenger: &mut Messenger, world: &mut World, what: &str) {
    assert!(messenger.is_wiped(), "{what}");
    let seen = world.seen.len();
    world.trick = Trick::Honest;
    assert_eq!(ask(messenger, world), Err(AttestFault::KeyWiped), "{what}");
    assert_eq!(world.seen.len(), seen, "{what}: something was sent after the key was wiped");
}

#[test]
fn the_request_page_is_the_one_that_another_implementation_makes() {
    let (mut messenger, mut world) = (messenger(), World::new(Trick::Honest));
    ask(&mut messenger, &mut world).unwrap();
    // AES-256-GCM by Python's `cryptography` over the tables of AMD 56860, key 00..1F, sequence 1.
    let expected = "3b57199a14f647cf73e78f8a4f9abd319ad69f56dd8d5fc493f068476ff6e5f2";
    assert_eq!(hex::encode(Sha256::digest(world.seen[0])), expected);
}

#[test]
fn sequence_numbers_go_up_by_two_and_no_page_is_sent_twice() {
    let (mut messenger, mut world) = (messenger(), World::new(Trick::Honest));
    for _ in 0..20 {
        let report = ask(&mut messenger, &mut world).unwrap();
        assert_eq!(report[0x50..0x90], [0x5A; 64]);
    }
    for (index, page) in world.seen.iter().enumerate() {
        let claimed = Envelope::claimed(page).unwrap();
        assert_eq!(usize::try_from(claimed.sequence).unwrap(), 2 * index + 1);
    }
}

#[test]
fn a_busy_host_sees_the_same_bytes_again_and_only_so_often() {
    let (mut messenger, mut world) = (messenger(), World::new(Trick::Say(GuestRequestError::Busy)));
    assert_eq!(ask(&mut messenger, &mut world), Err(AttestFault::NoReport));
    assert_eq!(world.seen.len(), usize::try_from(BUSY_RETRIES_MAX).unwrap() + 1);
    assert!(world.seen.iter().all(|page| *page == world.seen[0]));
    assert_wiped(&mut messenger, &mut world, "busy for ever");
}

#[test]
fn a_host_that_does_not_carry_the_request_costs_the_key() {
    for error in [GuestRequestError::InvalidLength, GuestRequestError::Failed] {
        let (mut messenger, mut world) = (messenger(), World::new(Trick::Say(error)));
        assert_eq!(ask(&mut messenger, &mut world), Err(AttestFault::NoReport));
        assert_eq!(world.seen.len(), 1, "only busy is a reason to send again");
        assert_wiped(&mut messenger, &mut world, "not carried");
    }
}

/// Offsets of a page that nothing authenticates and nobody reads: the unused half of AUTHTAG and the reserved
/// bytes beside MSG_SEQNO.
fn unread(offset: usize) -> bool {
    (0x10..0x20).contains(&offset) || (0x28..0x30).contains(&offset)
}

#[test]
fn every_flipped_byte_of_a_response_costs_the_key_or_changes_nothing() {
    let honest = ask(&mut messenger(), &mut World::new(Trick::Honest)).unwrap();
    for offset in 0..PAGE_BYTES {
        let (mut messenger, mut world) = (messenger(), World::new(Trick::FlipResponse(offset)));
        let outcome = ask(&mut messenger, &mut world);
        if unread(offset) || offset >= HEADER_BYTES + REPORT_RESPONSE_BYTES {
            assert_eq!(outcome, Ok(honest), "byte {offset:#x}");
        } else {
            assert_eq!(outcome, Err(AttestFault::MessageRefused), "byte {offset:#x}");
            assert_wiped(&mut messenger, &mut world, "flipped response");
        }
    }
}

#[test]
fn every_flipped_byte_of_a_request_is_refused_by_the_processor_or_changes_nothing() {
    let honest = ask(&mut messenger(), &mut World::new(Trick::Honest)).unwrap();
    for offset in 0..PAGE_BYTES {
        let (mut messenger, mut world) = (messenger(), World::new(Trick::FlipRequest(offset)));
        let outcome = ask(&mut messenger, &mut world);
        if unread(offset) || offset >= HEADER_BYTES + REPORT_REQUEST_BYTES {
            assert_eq!(outcome, Ok(honest), "byte {offset:#x}");
        } else {
            assert_eq!(outcome, Err(AttestFault::NoReport), "byte {offset:#x}");
            assert_wiped(&mut messenger, &mut world, "flipped request");
        }
    }
}

#[test]
fn an_old_or_early_or_foreign_response_costs_the_key() {
    for sequence in [0, 1, 3, 4, u64::MAX] {
        let (mut messenger, mut world) = (messenger(), World::new(Trick::OtherSequence(sequence)));
        assert_eq!(ask(&mut messenger, &mut world), Err(AttestFault::MessageRefused));
        assert_wiped(&mut messenger, &mut world, "foreign sequence");
    }
    let (mut messenger, mut world) = (messenger(), World::new(Trick::Honest));
    ask(&mut messenger, &mut world).unwrap();
    world.trick = Trick::Replay;
    assert_eq!(ask(&mut messenger, &mut world), Err(AttestFault::MessageRefused));
    assert_wiped(&mut messenger, &mut world, "replayed response");
}

#[test]
fn a_report_that_carries_other_data_costs_the_key() {
    let (mut messenger, mut world) = (messenger(), World::new(Trick::OtherData));
    assert_eq!(ask(&mut messenger, &mut world), Err(AttestFault::MessageRefused));
    assert_wiped(&mut messenger, &mut world, "other data");
}

#[test]
fn a_refusal_of_the_processor_keeps_the_conversation_alive() {
    let (mut messenger, mut world) = (messenger(), World::new(Trick::Status(0x16)));
    assert_eq!(ask(&mut messenger, &mut world), Err(AttestFault::ProcessorRefused));
    world.trick = Trick::Honest;
    assert!(ask(&mut messenger, &mut world).is_ok());
}

/// What a host says to extended requests; plain ones are carried, after it was busy once.
struct Extended {
    inner: World,
    say: Option<GuestRequestError>,
    table: usize,
    busy: u32,
    asked: Vec<Page>,
}

impl Extended {
    fn new(say: Option<GuestRequestError>, table: usize, busy: u32) -> Self {
        Self { inner: World::new(Trick::Honest), say, table, busy, asked: Vec::new() }
    }

    fn is_busy(&mut self, request: &Page) -> bool {
        self.asked.push(*request);
        let busy = self.busy > 0;
        self.busy = self.busy.saturating_sub(1);
        busy
    }
}

impl GuestRequest for Extended {
    fn exchange(&mut self, request: &Page, response: &mut Page) -> Result<(), GuestRequestError> {
        if self.is_busy(request) {
            return Err(GuestRequestError::Busy);
        }
        self.inner.exchange(request, response)
    }

    fn exchange_extended(
        &mut self,
        request: &Page,
        response: &mut Page,
        certificates: &mut [u8],
    ) -> Result<usize, GuestRequestError> {
        if let Some(error) = self.say {
            self.asked.push(*request);
            return Err(error);
        }
        self.exchange(request, response)?;
        certificates.fill(0x77);
        Ok(self.table)
    }
}

fn ask_extended(
    messenger: &mut Messenger,
    host: &mut Extended,
    table: &mut [u8],
) -> Result<usize, AttestFault> {
    messenger.extended_report(host, (&[0x5A; 64], 2), &mut [0; REPORT_BYTES], table)
}

#[test]
fn an_extended_request_that_does_not_fit_goes_out_again_plainly_with_the_very_same_bytes() {
    for busy in [0, 3] {
        let mut messenger = messenger();
        let mut host = Extended::new(Some(GuestRequestError::InvalidLength), 0, busy);
        assert_eq!(ask_extended(&mut messenger, &mut host, &mut [0; 100]), Ok(0));
        assert!(host.asked.iter().all(|page| *page == host.asked[0]), "one number, one ciphertext");
        assert_eq!(host.asked.len(), 2 + busy as usize);
        assert!(!messenger.is_wiped());
        assert_eq!(ask_extended(&mut messenger, &mut host, &mut []), Ok(0), "the conversation goes on");
    }
}

#[test]
fn an_extended_request_brings_what_the_host_has_and_never_more_than_there_is_room_for() {
    let (mut first, mut table) = (messenger(), [0; 100]);
    let mut host = Extended::new(None, 40, 2);
    assert_eq!(ask_extended(&mut first, &mut host, &mut table), Ok(40));
    assert!(host.asked.iter().all(|page| *page == host.asked[0]));
    let mut lying = Extended::new(None, usize::MAX, 0);
    assert_eq!(ask_extended(&mut messenger(), &mut lying, &mut table), Ok(100));
    // A host that has no extended requests at all: the trait's own answer.
    let mut plain = World::new(Trick::Honest);
    let asked = (&[0x5A; 64], 2);
    let outcome = messenger().extended_report(&mut plain, asked, &mut [0; REPORT_BYTES], &mut table);
    assert_eq!((outcome, plain.seen.len()), (Ok(0), 1));
}

#[test]
fn an_extended_request_that_fails_otherwise_costs_the_key() {
    let mut messenger = messenger();
    let mut host = Extended::new(Some(GuestRequestError::Failed), 0, 0);
    assert_eq!(ask_extended(&mut messenger, &mut host, &mut [0; 10]), Err(AttestFault::NoReport));
    assert!(messenger.is_wiped());
    assert_eq!(host.asked.len(), 1);
}

#[test]
fn every_message_kind_has_its_own_numbers() {
    for kind in MessageKind::ALL {
        assert_eq!(MessageKind::from_numbers(kind.numbers()), Some(kind));
    }
    let unknown = (0..=255).flat_map(|kind| [(kind, 0), (kind, 3), (kind, 255)]);
    assert_eq!(unknown.filter_map(MessageKind::from_numbers).next(), None);
}

#[test]
fn the_secrets_page_gives_its_key_once() {
    let mut page = secrets_page();
    assert_eq!(SecretsPage::take(&mut page).unwrap().version(), 3);
    assert_eq!(page[0x20..0x40], [0; 32], "VMPCK0 is wiped in the page");
    assert_eq!(page[0x40..0x60], [0xEE; 32], "VMPCK1 stays for lower privilege levels");
    assert_eq!(SecretsPage::take(&mut page).err(), Some(AttestFault::SecretsAbsent));
    assert_eq!(SecretsPage::take(&mut [0; PAGE_BYTES]).err(), Some(AttestFault::SecretsAbsent));
}
