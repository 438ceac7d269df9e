//! The other end of RCAR, as the relay shows it: a KBS of one resource that checks what Trustee checks, but for signatures.
//!
//! It speaks frames; HTTP has its own tests. What it answers can be bent, for a KBS (or a host in its place) that is not honest.

use husk::attest::launch::LaunchConfig;
use husk::attest::runtime::KbsRuntime;
use husk::release::frame;
use husk::release::kbs::frames::{AUTH, KbsAnswer, KbsAttest, KbsResource};
use husk::release::wire::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameKind};
use husk_broker::kbs::jwe::{TeeKey, sealed_to};
use husk_broker::world::World;
use kbs_types::RuntimeData;
use sha2::{Digest as _, Sha256};
use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromBytes as _, IntoBytes as _};

pub(crate) const COOKIE: &[u8] = b"kbs-session-id=1f1e";
/// "pQ..." is 32 bytes of A5.
const NONCE: &str = "paWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaU=";

/// What one request is answered with.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) cookie: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Said {
    fn ok(body: Vec<u8>) -> Self {
        Self { status: 200, cookie: Vec::new(), body }
    }

    fn refused() -> Self {
        Self { status: 401, ..Self::ok(Vec::new()) }
    }
}

/// Bends an answer to a request of that kind.
pub(crate) type Bend = fn(FrameKind, &mut Said);

/// A KBS and its relay.
pub(crate) struct KbsEnd {
    /// What it stores.
    pub(crate) resource: Vec<u8>,
    pub(crate) bend: Bend,
    tee_key: Option<TeeKey>,
}

impl KbsEnd {
    pub(crate) fn new(resource: Vec<u8>) -> Self {
        Self { resource, bend: |_, _| {}, tee_key: None }
    }

    /// Whether a frame is for a KBS.
    pub(crate) fn is_asked(frame: &[u8]) -> bool {
        matches!(frame.get(FRAME_HEADER_BYTES - 1), Some(0x10..=0x12))
    }

    /// One frame in, one frame out.
    pub(crate) fn answer(&mut self, request: &[u8], config: &LaunchConfig, world: &dyn World) -> Vec<u8> {
        let mut request = request.to_vec();
        let (kind, body) = frame::open(&mut request).expect("a frame");
        let mut said = match kind {
            FrameKind::KbsAuth => Self::challenge(body),
            FrameKind::KbsAttest => self.attest(body, config),
            _ => {
                assert_eq!(kind, FrameKind::KbsResource);
                self.fetch(body, config, world)
            }
        };
        (self.bend)(kind, &mut said);
        let short = |bytes: usize| U16::new(u16::try_from(bytes).expect("it is short"));
        let header = KbsAnswer { status: U16::new(said.status), cookie_bytes: short(said.cookie.len()) };
        let body = [header.as_bytes(), &said.cookie, &said.body].concat();
        let mut reply = vec![0; FRAME_BYTES_MAX];
        reply[FRAME_HEADER_BYTES..][..body.len()].copy_from_slice(&body);
        let length = frame::frame(FrameKind::KbsAnswer, &mut reply, body.len()).expect("it fits");
        reply.truncate(length);
        reply
    }

    fn challenge(body: &[u8]) -> Said {
        assert_eq!(body, AUTH);
        let request: kbs_types::Request = serde_json::from_slice(body).expect("RCAR's request");
        assert_eq!((&*request.version, request.tee), ("0.4.0", kbs_types::Tee::Snp));
        let body = format!("{{\"nonce\":\"{NONCE}\",\"extra-params\":\"\"}}").into_bytes();
        Said { status: 200, cookie: COOKIE.to_vec(), body }
    }

    /// What Trustee checks in an attestation: session, nonce, REPORT_DATA, HOST_DATA.
    fn attest(&mut self, body: &[u8], config: &LaunchConfig) -> Said {
        let (header, rest) = KbsAttest::ref_from_prefix(body).expect("a header");
        let (cookie, rest) = rest.split_at(header.cookie_bytes.get().into());
        let (runtime, rest) = rest.split_at(header.runtime_bytes.get().into());
        let (init_data, certificate) = rest.split_at(header.config_bytes.get().into());
        assert_eq!(certificate.len(), usize::from(header.certificate_bytes.get()));
        let data: RuntimeData = serde_json::from_slice(runtime).expect("runtime data");
        let value: serde_json::Value = serde_json::from_slice(runtime).expect("runtime data");
        let key: TeeKey = serde_json::from_value(value["tee-pubkey"].clone()).expect("a key");
        let (x, y) = key.coordinates().expect("a point");
        let (report_data, host_data) = (&header.report[0x50..0x90], &header.report[0xC0..0xE0]);
        let bound = report_data == KbsRuntime { nonce: [0xA5; 32], x, y }.report_data()
            && host_data == &Sha256::digest(init_data)[..]
            && LaunchConfig::parse(init_data) == Ok(*config);
        if cookie != COOKIE || data.nonce != NONCE || !bound {
            return Said::refused();
        }
        self.tee_key = Some(key);
        Said::ok(Vec::new())
    }

    fn fetch(&mut self, body: &[u8], config: &LaunchConfig, world: &dyn World) -> Said {
        let (header, rest) = KbsResource::ref_from_prefix(body).expect("a header");
        let (cookie, path) = rest.split_at(header.cookie_bytes.get().into());
        assert_eq!(path.len(), usize::from(header.path_bytes.get()));
        let expected = format!("husk/{}/{}", hex::encode(config.tenant), hex::encode(config.vm));
        match self.tee_key.take() {
            Some(key) if cookie == COOKIE && path == expected.as_bytes() => {
                let jwe = sealed_to(&key, &self.resource, world).expect("a JWE");
                Said::ok(jwe.to_string().into_bytes())
            }
            _ => Said::refused(),
        }
    }
}
