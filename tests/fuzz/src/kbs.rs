//! What a KBS, or a host in its place, answers to a VM.

use crate::broker_end::Seeded;
use crate::input::{Input, sized};
use crate::nothing::Nothing;
use husk::attest::launch::{AnchoredConfig, Kbs, LaunchConfig, Mode, Serve};
use husk::release::frame;
use husk::release::kbs::KbsInput;
use husk::release::kbs::envelope::Envelope;
use husk::release::kbs::frames::KbsAnswer;
use husk::release::kbs::jwe::TeeKey;
use husk::release::session::SessionMemory;
use husk::release::transcript::{SigningKey, point_digest};
use husk::release::wire::{FRAME_HEADER_BYTES, FrameKind};
use husk::seams::{
    Channel, ChannelError, Platform, REPORT_BYTES, REPORT_DATA_BYTES, Reporter, ReporterError,
};
use husk::secret::Secret;
use husk_broker::kbs::jwe::sealed_to;
use serde_json::json;
use zerocopy::IntoBytes as _;
use zerocopy::byteorder::little_endian::U16;

/// What draws the TEE key of each run.
const SEED: u64 = 0x6B62;
const NONCE: &str = "paWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaU=";
const KEY: [u8; 32] = [0x4B; 32];

fn root() -> SigningKey {
    SigningKey::generate(&mut Seeded::new(1)).unwrap()
}

fn config() -> AnchoredConfig {
    let config = LaunchConfig {
        tenant: [1; 16],
        vm: [2; 16],
        root: point_digest(root().point()),
        mode: Mode::Strict,
        serve: Serve::Detect,
        kbs: Kbs::Required,
        min_key_generation: 0,
        processor: None,
        staleness: None,
        variables: None,
    };
    config.bind(&config.host_data()).unwrap().anchored().unwrap()
}

/// Answers from the input, whatever was asked.
struct Host<'i>(Input<'i>);

impl Channel for Host<'_> {
    fn exchange(&mut self, _: &[u8], reply: &mut [u8]) -> Result<usize, ChannelError> {
        let (status, cookie, body) = (self.0.short(), self.0.sized(), self.0.sized());
        let (kind, cookie_bytes) = (self.0.byte(), self.0.byte());
        // Mostly what belongs here.
        let kind = if kind < 0xF0 {
            FrameKind::KbsAnswer
        } else {
            FrameKind::ALL[self.0.below(FrameKind::ALL.len())]
        };
        let lie = if cookie_bytes < 0xF0 { 0 } else { self.0.short() };
        let length = u16::try_from(cookie.len()).unwrap() ^ lie;
        let header = KbsAnswer { status: U16::new(status ^ 200), cookie_bytes: U16::new(length) };
        let content = [header.as_bytes(), cookie, body].concat();
        let room = reply.get_mut(FRAME_HEADER_BYTES..).and_then(|rest| rest.get_mut(..content.len()));
        room.ok_or(ChannelError::ReplyTooLong)?.copy_from_slice(&content);
        frame::frame(kind, reply, content.len()).map_err(|_| ChannelError::ReplyTooLong)
    }
}

struct Silicon;

impl Reporter for Silicon {
    fn report(
        &mut self,
        data: &[u8; REPORT_DATA_BYTES],
        report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), ReporterError> {
        report[0x50..0x90].copy_from_slice(data);
        Ok(())
    }

    fn certificate(&mut self, into: &mut [u8]) -> usize {
        into[..100].fill(7);
        100
    }
}

/// Three answers. No key but the tenant's comes out, and nothing is left in the frames.
pub(crate) fn answers(data: &[u8]) {
    let mut memory = SessionMemory::new();
    let mut entropy = Seeded::new(SEED);
    let (mut disk, mut console) = (Nothing, Nothing);
    let mut platform = Platform {
        disk: &mut disk,
        channel: &mut Host(Input::new(data)),
        reporter: &mut Silicon,
        entropy: &mut entropy,
        clock: None,
        console: &mut console,
    };
    if let Ok(input) = KbsInput::wanted(&mut platform, &config(), &mut memory) {
        let secret = input.secret().expect("the configuration requires one");
        assert!(secret.secret().with(|key| *key == KEY), "a key that the tenant did not sign");
    }
    assert!(format!("{memory:?}").contains("wiped"));
}

pub(crate) fn answer_seeds() -> Vec<Vec<u8>> {
    let answer = |status: u16, cookie: &[u8], body: &[u8]| {
        [&(status ^ 200).to_le_bytes()[..], &sized(cookie), &sized(body), &[0, 0]].concat()
    };
    let challenge = json!({ "nonce": NONCE, "extra-params": "" }).to_string();
    let envelope =
        Envelope::signed(config().config(), [3; 16], &Secret::take(&mut KEY.clone()), &root()).unwrap();
    let (x, y) = TeeKey::generate(&mut Seeded::new(SEED)).unwrap().coordinates();
    let jwe = |content: &[u8]| {
        let key = husk_broker::kbs::jwe::TeeKey::new(&x, &y);
        sealed_to(&key, content, &crate::world::TestWorld::new(9)).unwrap().to_string()
    };
    let begun = [answer(200, b"kbs-session-id=1", challenge.as_bytes()), answer(200, b"", b"")].concat();
    let honest = jwe(envelope.as_bytes());
    vec![
        [&begun[..], &answer(200, b"", honest.as_bytes())].concat(),
        [&begun[..], &answer(200, b"", jwe(&envelope.as_bytes()[1..]).as_bytes())].concat(),
        [&begun[..], &answer(200, b"", jwe(b"").as_bytes())].concat(),
        [&begun[..], &answer(404, b"", b"")].concat(),
        answer(200, b"", b"{\"nonce\":[[[[[[[[]]]]]]]]}"),
        answer(503, &[b'c'; 300], b""),
    ]
}

/// The tenant's key comes out of the first seed: what the others lack is what they are bent in.
#[cfg(test)]
#[test]
fn the_honest_answers_hold() {
    let seeds = answer_seeds();
    let mut platform = Platform {
        disk: &mut Nothing,
        channel: &mut Host(Input::new(&seeds[0])),
        reporter: &mut Silicon,
        entropy: &mut Seeded::new(SEED),
        clock: None,
        console: &mut Nothing,
    };
    assert!(KbsInput::wanted(&mut platform, &config(), &mut SessionMemory::new()).is_ok());
}
