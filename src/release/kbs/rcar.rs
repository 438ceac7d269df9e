//! The conversation with a KBS.

use super::super::ReleaseFault;
use super::super::frame;
use super::super::session::SessionMemory;
use super::super::wire::{FRAME_HEADER_BYTES, FrameKind};
use super::answer::{self, Answer};
use super::envelope::Envelope;
use super::frames::{AUTH, COOKIE_BYTES_MAX, KbsAttest, KbsResource, PATH_BYTES_MAX, REPOSITORY};
use super::jwe::{self, TeeKey};
use super::{KbsInput, KbsSecret};
use crate::attest::launch::{AnchoredConfig, Kbs, LaunchConfig};
use crate::attest::runtime::KbsRuntime;
use crate::seams::Platform;
use core::fmt::Write as _;
use heapless::{String, Vec};
use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromBytes as _, IntoBytes as _};
use zeroize::Zeroizing;

type Cookie = Vec<u8, COOKIE_BYTES_MAX>;

impl KbsInput {
    /// Fetches the key, where the configuration requires one.
    ///
    /// # Errors
    /// The faults of a KBS and of its envelope; [`ReleaseFault::NoReport`], [`ReleaseFault::Entropy`].
    pub fn wanted(
        platform: &mut Platform<'_>,
        config: &AnchoredConfig,
        memory: &mut SessionMemory,
    ) -> Result<Self, ReleaseFault> {
        match config.config().kbs {
            Kbs::None => Ok(Self(None)),
            Kbs::Required => {
                let fetched = converse(platform, config.config(), memory);
                memory.wipe();
                fetched.map(|secret| Self(Some(secret)))
            }
        }
    }
}

fn converse(
    platform: &mut Platform<'_>,
    config: &LaunchConfig,
    memory: &mut SessionMemory,
) -> Result<KbsSecret, ReleaseFault> {
    let length = copied(room(memory), AUTH)?;
    let challenge = exchange(memory, platform, FrameKind::KbsAuth, length)?;
    let nonce = answer::nonce(challenge.body)?;
    let cookie = Cookie::from_slice(challenge.cookie).map_err(|_| ReleaseFault::KbsAnswerRefused)?;
    let key = TeeKey::generate(platform.entropy)?;
    let (x, y) = key.coordinates();
    let length = attestation(room(memory), platform, config, &KbsRuntime { nonce, x, y }, &cookie)?;
    exchange(memory, platform, FrameKind::KbsAttest, length)?;
    let length = resource(room(memory), config, &cookie)?;
    let resource = exchange(memory, platform, FrameKind::KbsResource, length)?;
    let mut plain = Zeroizing::new([0; Envelope::BYTES]);
    Envelope::read(jwe::open(&key, resource.body, plain.as_mut_slice())?)?.verify(config)
}

/// Where a request's body goes.
const fn room(memory: &mut SessionMemory) -> &mut [u8] {
    let (_, body) = memory.request.split_at_mut(FRAME_HEADER_BYTES);
    body
}

/// One request to the KBS and its answer.
fn exchange<'m>(
    memory: &'m mut SessionMemory,
    platform: &mut Platform<'_>,
    kind: FrameKind,
    body_bytes: usize,
) -> Result<Answer<'m>, ReleaseFault> {
    let length = frame::frame(kind, &mut memory.request, body_bytes)?;
    let answered = memory.exchange(platform.channel, length, FrameKind::KbsAnswer);
    let body = answered.map_err(|fault| match fault {
        ReleaseFault::Unreachable => ReleaseFault::KbsUnreachable,
        ReleaseFault::ReplyRefused => ReleaseFault::KbsAnswerRefused,
        ReleaseFault::Misuse => fault,
        // Who refuses such a frame is no relay that knows a KBS.
        _ => ReleaseFault::KbsAbsent,
    })?;
    Answer::read(body)
}

/// Writes the body of a `KbsAttest` frame; yields its length.
fn attestation(
    room: &mut [u8],
    platform: &mut Platform<'_>,
    config: &LaunchConfig,
    runtime: &KbsRuntime,
    cookie: &Cookie,
) -> Result<usize, ReleaseFault> {
    let whole = room.len();
    let (header, rest) = KbsAttest::mut_from_prefix(room).map_err(|_| ReleaseFault::Misuse)?;
    let reported = platform.reporter.report(&runtime.report_data(), &mut header.report);
    reported.map_err(|_| ReleaseFault::NoReport)?;
    header.cookie_bytes = short(copied(rest, cookie)?)?;
    let rest = &mut rest[cookie.len()..];
    let runtime_bytes = runtime.write_to(rest).ok_or(ReleaseFault::Misuse)?;
    header.runtime_bytes = short(runtime_bytes)?;
    let rest = &mut rest[runtime_bytes..];
    let config_bytes = config.write_to(rest).map_err(|_| ReleaseFault::Misuse)?;
    header.config_bytes = short(config_bytes)?;
    let rest = &mut rest[config_bytes..];
    let certificate_bytes = platform.reporter.certificate(rest).min(rest.len());
    header.certificate_bytes = short(certificate_bytes)?;
    Ok(whole - rest.len() + certificate_bytes)
}

/// Writes the body of a `KbsResource` frame; yields its length.
fn resource(room: &mut [u8], config: &LaunchConfig, cookie: &Cookie) -> Result<usize, ReleaseFault> {
    let path = path(config)?;
    let header = KbsResource { cookie_bytes: short(cookie.len())?, path_bytes: short(path.len())? };
    let mut written = 0;
    for part in [header.as_bytes(), cookie, path.as_bytes()] {
        let rest = room.get_mut(written..).ok_or(ReleaseFault::Misuse)?;
        written += copied(rest, part)?;
    }
    Ok(written)
}

/// Where the tenant stores the envelope: repository, tenant, VM.
fn path(config: &LaunchConfig) -> Result<String<PATH_BYTES_MAX>, ReleaseFault> {
    let mut path = String::new();
    let mut put = || {
        path.write_str(REPOSITORY)?;
        for id in [&config.tenant, &config.vm] {
            path.write_char('/')?;
            id.iter().try_for_each(|byte| write!(path, "{byte:02x}"))?;
        }
        core::fmt::Result::Ok(())
    };
    put().map_err(|_| ReleaseFault::Misuse)?;
    Ok(path)
}

fn copied(room: &mut [u8], part: &[u8]) -> Result<usize, ReleaseFault> {
    room.get_mut(..part.len()).ok_or(ReleaseFault::Misuse)?.copy_from_slice(part);
    Ok(part.len())
}

fn short(bytes: usize) -> Result<U16, ReleaseFault> {
    u16::try_from(bytes).map(U16::new).map_err(|_| ReleaseFault::Misuse)
}
