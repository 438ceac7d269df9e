//! To a CoCo KBS and back: the VM's frames as RCAR's HTTP requests.
//!
//! **What.** [`Kbs`] takes a frame whose kind is one of RCAR's, makes the request of it and frames the answer (`src/release/protocol.md`, section
//! 11). It remembers nothing: the session's cookie comes with each frame.
//! **Trust.** None in either direction. That includes the JSON of the evidence, which is made here: what is signed in a report is
//! checked by the KBS, and a report that was changed on the way is refused there.
//! **Laws.** A request is made of a whole frame or not at all; paths are of a few plain characters; sizes and waits are bounded. Of the
//! answer to an attestation only status and cookie go back: its token is of no use to the VM.
//! **Not here.** Whether the KBS or the relay is honest: the VM believes a signature of its tenant alone.

use crate::client::{Roots, agent};
use crate::pipe::{EXCHANGE_WAIT_MAX, Pipe, PipeError};
use husk::release::frame;
use husk::release::kbs::frames::{COOKIE_BYTES_MAX, KbsAnswer, KbsAttest, KbsResource, PATH_BYTES_MAX};
use husk::release::wire::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameKind, RefusalReason};
use serde_json::json;
use sev::firmware::guest::AttestationReport;
use sev::firmware::host::{CertTableEntry, CertType};
use sev::parser::ByteParser as _;
use ureq::http::Response;
use ureq::{Agent, Body};
use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromBytes as _, IntoBytes as _};

/// What is left for an answer's cookie and body.
const ANSWER_BYTES_MAX: usize = FRAME_BYTES_MAX - FRAME_HEADER_BYTES - KbsAnswer::BYTES;
const JSON: &str = "application/json";

/// Whether a frame is one of RCAR's.
fn is_for_a_kbs(frame: &[u8]) -> bool {
    let kind = frame.get(FRAME_HEADER_BYTES - 1).and_then(|kind| FrameKind::from_number(*kind));
    matches!(kind, Some(FrameKind::KbsAuth | FrameKind::KbsAttest | FrameKind::KbsResource))
}

/// A pipe that knows two ends: the broker, and a KBS where one was named.
#[derive(Debug)]
pub struct Fork<P> {
    broker: P,
    kbs: Option<Kbs>,
}

impl<P> Fork<P> {
    /// A pipe to `broker`, and to the KBS at `kbs`, such as `http://127.0.0.1:8080`.
    pub fn new(broker: P, kbs: Option<&str>) -> Self {
        Self { broker, kbs: kbs.map(Kbs::new) }
    }
}

impl<P: Pipe> Pipe for Fork<P> {
    fn carry(&self, frame: &[u8]) -> Result<Vec<u8>, PipeError> {
        match &self.kbs {
            _ if !is_for_a_kbs(frame) => self.broker.carry(frame),
            Some(kbs) => kbs.carry(frame),
            None => {
                eprintln!("husk-relay: a VM asks for a KBS, and none was named; give --kbs");
                let mut refusal = vec![0; FRAME_BYTES_MAX];
                let length = frame::refusal(RefusalReason::NoKbs, &mut refusal);
                refusal.truncate(length.map_err(|_| PipeError::NotAFrame)?);
                Ok(refusal)
            }
        }
    }
}

/// The way to a KBS.
#[derive(Debug)]
pub struct Kbs {
    agent: Agent,
    base: String,
}

impl Kbs {
    /// The KBS at `base`. Connects with the first frame.
    #[must_use]
    pub fn new(base: &str) -> Self {
        Self {
            agent: agent(EXCHANGE_WAIT_MAX, Roots::web()),
            base: format!("{}/kbs/v0", base.trim_end_matches('/')),
        }
    }

    fn auth(&self, body: &[u8]) -> Result<Response<Body>, PipeError> {
        let request = self.agent.post(format!("{}/auth", self.base)).header("content-type", JSON);
        request.send(body).map_err(unreachable)
    }

    fn attest(&self, body: &[u8]) -> Result<Response<Body>, PipeError> {
        let (cookie, attestation) = attestation(body).ok_or(PipeError::NotAFrame)?;
        let request = self.agent.post(format!("{}/attest", self.base));
        let request = request.header("content-type", JSON).header("cookie", cookie);
        request.send(attestation.to_string()).map_err(unreachable)
    }

    fn resource(&self, body: &[u8]) -> Result<Response<Body>, PipeError> {
        let (cookie, path) = resource(body).ok_or(PipeError::NotAFrame)?;
        let request = self.agent.get(format!("{}/resource/{path}", self.base));
        request.header("cookie", cookie).call().map_err(unreachable)
    }
}

impl Pipe for Kbs {
    fn carry(&self, frame: &[u8]) -> Result<Vec<u8>, PipeError> {
        let mut frame = frame.to_vec();
        let (kind, body) = frame::open(&mut frame).map_err(|_| PipeError::NotAFrame)?;
        let answer = match kind {
            FrameKind::KbsAuth => self.auth(body),
            FrameKind::KbsAttest => self.attest(body),
            FrameKind::KbsResource => self.resource(body),
            _ => Err(PipeError::NotAFrame),
        };
        framed(kind, answer?)
    }
}

fn unreachable(error: ureq::Error) -> PipeError {
    PipeError::KbsUnreachable(error.to_string())
}

/// A cookie that HTTP can carry in a header.
fn cookie(bytes: &[u8]) -> Option<&str> {
    let plain = bytes.iter().all(|byte| matches!(byte, b'!'..=b'~'));
    if plain && bytes.len() <= COOKIE_BYTES_MAX { std::str::from_utf8(bytes).ok() } else { None }
}

/// The body of RCAR's attestation. The report goes as the fields that crate `sev` reads of it, which is what Trustee reads.
fn attestation(body: &[u8]) -> Option<(&str, serde_json::Value)> {
    let (header, rest) = KbsAttest::ref_from_prefix(body).ok()?;
    let (sent, rest) = rest.split_at_checked(header.cookie_bytes.get().into())?;
    let (runtime, rest) = rest.split_at_checked(header.runtime_bytes.get().into())?;
    let (config, certificate) = rest.split_at_checked(header.config_bytes.get().into())?;
    if certificate.len() != usize::from(header.certificate_bytes.get()) {
        return None;
    }
    let report = AttestationReport::from_bytes(&header.report).ok()?;
    let entry = |data: &[u8]| CertTableEntry { cert_type: CertType::VCEK, data: data.to_vec() };
    let chain = (!certificate.is_empty()).then(|| vec![entry(certificate)]);
    let attestation = json!({
        "init-data": { "format": "toml", "body": std::str::from_utf8(config).ok()? },
        "runtime-data": serde_json::from_slice::<serde_json::Value>(runtime).ok()?,
        "tee-evidence": {
            "primary_evidence": { "attestation_report": report, "cert_chain": chain },
            "additional_evidence": "",
        },
    });
    Some((cookie(sent)?, attestation))
}

/// Cookie and path of a resource.
fn resource(body: &[u8]) -> Option<(&str, &str)> {
    let (header, rest) = KbsResource::ref_from_prefix(body).ok()?;
    let (sent, path) = rest.split_at_checked(header.cookie_bytes.get().into())?;
    let plain = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'/');
    let whole = path.len() == usize::from(header.path_bytes.get()) && path.len() <= PATH_BYTES_MAX;
    let path = if whole && path.iter().all(plain) { std::str::from_utf8(path).ok()? } else { return None };
    Some((cookie(sent)?, path))
}

/// An answer as a frame.
fn framed(asked: FrameKind, mut answer: Response<Body>) -> Result<Vec<u8>, PipeError> {
    let status = answer.status().as_u16();
    let set = answer.headers().get("set-cookie").map(|value| value.as_bytes().to_vec()).unwrap_or_default();
    let set = set.split(|byte| *byte == b';').next().unwrap_or_default();
    let mut body = answer.body_mut().with_config().limit(MEGABYTE).read_to_vec().map_err(unreachable)?;
    if status != 200 {
        let said = String::from_utf8_lossy(body.get(..body.len().min(SAID_BYTES_MAX)).unwrap_or_default());
        eprintln!("husk-relay: the KBS answered with status {status}: {}", said.escape_default());
    }
    if status != 200 || asked == FrameKind::KbsAttest {
        body.clear();
    }
    if set.len() + body.len() > ANSWER_BYTES_MAX {
        return Err(PipeError::KbsAnswerTooLong);
    }
    let short = |bytes: usize| u16::try_from(bytes).map(U16::new).map_err(|_| PipeError::NotAFrame);
    let header = KbsAnswer { status: U16::new(status), cookie_bytes: short(set.len())? };
    let content = [header.as_bytes(), set, &body].concat();
    let mut frame = [&[0; FRAME_HEADER_BYTES][..], &content].concat();
    frame::frame(FrameKind::KbsAnswer, &mut frame, content.len()).map_err(|_| PipeError::NotAFrame)?;
    Ok(frame)
}

/// An answer of a KBS is not read further: a token of a few certificates fits many times.
const MEGABYTE: u64 = 1 << 20;
/// How much of a refusal's text is shown.
const SAID_BYTES_MAX: usize = 500;
