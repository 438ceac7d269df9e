//! Messages from a secure processor by way of a host, and the launch configuration.

use crate::input::{Input, sized};
use husk::attest::guest_message::{
    Envelope, GuestRequest, GuestRequestError, MessageKind, Messenger, PAGE_BYTES, REPORT_RESPONSE_BYTES,
    SecretsPage, open, seal,
};
use husk::attest::launch::{CONFIG_BYTES_MAX, Kbs, LaunchConfig, Mode, Serve};
use husk::seams::REPORT_BYTES;
use husk::secret::Secret;

type Page = [u8; PAGE_BYTES];

const ASKED: [u8; 64] = [0x5A; 64];

fn key() -> Secret<32> {
    Secret::take(&mut [7; 32])
}

/// What a host may do with one delivery. Sealing stands for a processor that has gone wrong.
struct Host<'i> {
    script: Input<'i>,
    sent: usize,
}

impl GuestRequest for Host<'_> {
    fn exchange(&mut self, request: &Page, response: &mut Page) -> Result<(), GuestRequestError> {
        self.sent += 1;
        let asked = Envelope::claimed(request).unwrap();
        assert!(open(&key(), &asked, &mut request.clone()).is_ok(), "a request is sealed as it says");
        let (what, change) = (self.script.byte(), self.script.word());
        match what & 7 {
            0 => return Err(GuestRequestError::Busy),
            1 => return Err(GuestRequestError::Failed),
            2 => *response = *request,
            3 => put(response, self.script.sized()),
            4 => {
                let payload = self.script.sized().to_vec();
                let kind = MessageKind::from_numbers((what >> 3, 1)).unwrap_or(MessageKind::ReportResponse);
                let sequence = asked.sequence.wrapping_add(u64::from(change & 3));
                let payload = &payload[..payload.len().min(4000)];
                seal(&key(), &Envelope { kind, sequence, vmpck: 0 }, payload, response).unwrap();
            }
            _ => {
                let envelope = Envelope {
                    kind: MessageKind::ReportResponse,
                    sequence: asked.sequence.wrapping_add(1),
                    vmpck: 0,
                };
                let mut payload = honest();
                put(
                    &mut payload[usize::try_from(change).unwrap() % REPORT_RESPONSE_BYTES..],
                    self.script.chunk(4),
                );
                seal(&key(), &envelope, &payload, response).unwrap();
                if what & 7 == 6 {
                    response[usize::from(self.script.short()) % PAGE_BYTES] ^= what | 1;
                }
            }
        }
        Ok(())
    }
}

fn put(to: &mut [u8], from: &[u8]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}

/// The response to [`ASKED`] at VMPL 0.
fn honest() -> [u8; REPORT_RESPONSE_BYTES] {
    let mut payload = [0; REPORT_RESPONSE_BYTES];
    payload[4..8].copy_from_slice(&1184u32.to_le_bytes());
    payload[0x20 + 0x50..0x20 + 0x90].copy_from_slice(&ASKED);
    payload
}

/// A host's script: each entry what it does with one delivery. Then the rest of it as pages.
pub(crate) fn guest_message(data: &[u8]) {
    let mut page = [0; PAGE_BYTES];
    page[0] = 3;
    page[0x20..0x40].fill(7);
    let mut messenger = Messenger::new(SecretsPage::take(&mut page).unwrap());
    let mut host = Host { script: Input::new(data), sent: 0 };
    for _ in 0..4 {
        let (mut report, sent) = ([0; REPORT_BYTES], host.sent);
        let was_wiped = messenger.is_wiped();
        let answered = messenger.report(&mut host, &ASKED, 0, &mut report);
        assert!(!was_wiped || (answered.is_err() && host.sent == sent && messenger.is_wiped()));
        if answered.is_ok() {
            assert_eq!(report[0x50..0x90], ASKED, "a report of something else");
        }
    }
    let mut page = [0; PAGE_BYTES];
    put(&mut page, data);
    let claimed = Envelope::claimed(&page);
    if let Ok(envelope) = claimed {
        assert!(open(&key(), &envelope, &mut page).is_err(), "nobody has sealed this");
    }
    put(&mut page, data);
    SecretsPage::take(&mut page).ok();
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let honest_turn = [5, 0, 0, 0, 0, 0, 0, 0, 0];
    let sealed = [&[4, 1, 0, 0, 0][..], &sized(&honest())].concat();
    let mut page = [0; PAGE_BYTES];
    let envelope = Envelope { kind: MessageKind::ReportResponse, sequence: 2, vmpck: 0 };
    // By another key than the targets hold.
    seal(&Secret::take(&mut [8; 32]), &envelope, &honest(), &mut page).unwrap();
    vec![
        honest_turn.repeat(4),
        [&honest_turn[..], &sealed, &sealed].concat(),
        [&[3, 0, 0, 0, 0][..], &sized(&page[..1400])].concat(),
        [&[0, 0, 0, 0, 0].repeat(3), &honest_turn[..], &[1, 0, 0, 0, 0]].concat(),
        [&[6, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0][..], &honest_turn].concat(),
        page[..1400].to_vec(),
    ]
}

/// The bytes of a launch configuration: one spelling, and nothing else, is one.
pub(crate) fn launch(data: &[u8]) {
    let Ok(config) = LaunchConfig::parse(data) else { return };
    let mut written = [0; CONFIG_BYTES_MAX];
    let length = config.write_to(&mut written).unwrap();
    assert_eq!(written[..length], *data, "a second spelling");
    assert!(config.bind(&[0; 32]).is_err());
    let supported = config.supported();
    assert_eq!(config.bind(&config.host_data()).map(|bound| *bound.config()), supported.map(|()| config));
}

pub(crate) fn launch_seeds() -> Vec<Vec<u8>> {
    let written = |number: u8| {
        let at = usize::from(number);
        let config = LaunchConfig {
            tenant: [number; 16],
            vm: [0x5A; 16],
            root: [0xC3; 48],
            mode: Mode::ALL[at % Mode::ALL.len()],
            serve: Serve::ALL[at % Serve::ALL.len()],
            kbs: Kbs::ALL[at % Kbs::ALL.len()],
            min_key_generation: u32::MAX >> (8 * number),
            staleness: None,
            variables: None,
            processor: (at % 3 > 0).then(|| husk::seams::DerivedKeyRequest {
                guest_svn: (at % 3 > 1).then_some(u32::MAX >> number),
                tcb: (number > 1).then_some([number; 8]),
            }),
        };
        let mut bytes = [0; CONFIG_BYTES_MAX];
        let length = config.write_to(&mut bytes).unwrap();
        bytes[..length].to_vec()
    };
    (0..4).map(written).collect()
}
