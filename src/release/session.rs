//! One conversation with the broker, as far as the report.
//!
//! **What.** [`Client`] is this launch at the broker; [`Client::hello`] → [`Greeted`] → [`Greeted::attest`] → [`Attested`],
//! each consuming the one before. A grant follows in `open`, everything after it in `tenure`.
//! **Trust.** The tenant root key that the bound launch configuration names; what it certified; nothing else.
//! **Laws.** One exchange a step, no retries here: each attempt is a new hello with a new ephemeral key. A refusal that no
//! session authenticates changes nothing but what the caller tries next. The instance key is made once a launch,
//! outlives its sessions and never leaves.
//! **Not here.** How often to try: `vtpm` at boot, `tenure` while serving.

use super::ReleaseFault;
use super::frame;
use super::kbs::KbsInput;
use super::record::{Asked, Caller, REQUEST_BODY_AT, REQUEST_OVERHEAD_BYTES};
use super::transcript::{self, AgreementKey, Digest};
use super::wire::{
    Attest, Denied, DeniedReason, FRAME_BYTES_MAX, FrameKind, Hello, Operation, POINT_BYTES, PROTOCOL,
    Refusal, RefusalReason, SUITE, ServerHello, Status,
};
use crate::attest::binding::report_data;
use crate::attest::launch::{AnchoredConfig, LaunchConfig, Mode, Serve};
use crate::seams::{Channel, ChannelError, Entropy, Platform};
use sha2::{Digest as _, Sha384};
use zerocopy::FromBytes;
use zerocopy::byteorder::little_endian::{U16, U32};
use zeroize::Zeroize;

/// The frames of one exchange; handed in at boot, so that no stack carries them.
pub struct SessionMemory {
    pub(super) request: [u8; FRAME_BYTES_MAX],
    reply: [u8; FRAME_BYTES_MAX],
}

impl SessionMemory {
    /// Empty frames.
    #[must_use]
    pub const fn new() -> Self {
        Self { request: [0; FRAME_BYTES_MAX], reply: [0; FRAME_BYTES_MAX] }
    }
}

/// Says whether anything is in it, never what.
impl core::fmt::Debug for SessionMemory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let wiped = self.request.iter().chain(&self.reply).all(|byte| *byte == 0);
        f.write_str(if wiped { "SessionMemory(wiped)" } else { "SessionMemory(in use)" })
    }
}

impl Default for SessionMemory {
    fn default() -> Self {
        Self::new()
    }
}

/// This launch at the broker: whom it trusts, its name (the instance key) and its frames.
#[derive(Debug)]
pub struct Client<'m> {
    config: AnchoredConfig,
    /// Nothing once the instance is over.
    instance: Option<AgreementKey>,
    memory: &'m mut SessionMemory,
}

impl<'m> Client<'m> {
    /// Draws the instance key. Once a launch.
    ///
    /// # Errors
    /// [`ReleaseFault::NoClock`] if the configuration wants leases and the platform has no trusted clock;
    /// [`ReleaseFault::Entropy`].
    pub fn new(
        platform: &mut Platform<'_>,
        config: AnchoredConfig,
        memory: &'m mut SessionMemory,
    ) -> Result<Self, ReleaseFault> {
        if config.config().serve == Serve::Lease && platform.clock.is_none() {
            return Err(ReleaseFault::NoClock);
        }
        let instance = Some(AgreementKey::generate(platform.entropy)?);
        Ok(Self { config, instance, memory })
    }

    /// The configuration that HOST_DATA vouches for.
    #[must_use]
    pub const fn config(&self) -> &AnchoredConfig {
        &self.config
    }

    /// Fetches the static key of a KBS, where the configuration requires one: before the broker is asked, so that no grant is taken
    /// that could not be used.
    ///
    /// # Errors
    /// As [`KbsInput::wanted`].
    pub fn kbs_input(&mut self, platform: &mut Platform<'_>) -> Result<KbsInput, ReleaseFault> {
        KbsInput::wanted(platform, &self.config, self.memory)
    }

    /// Says hello and checks who answers.
    ///
    /// # Errors
    /// [`ReleaseFault::BrokerUntrusted`] if the tenant root key of the configuration did not certify who answers;
    /// [`ReleaseFault::ReplyRefused`] if the answer does not hold otherwise; [`ReleaseFault::Unreachable`] and the
    /// unauthenticated refusals.
    pub fn hello(&mut self, platform: &mut Platform<'_>) -> Result<Greeted, ReleaseFault> {
        let instance = self.instance.as_ref().ok_or(ReleaseFault::Misuse)?;
        let ends: (&mut dyn Channel, &mut dyn Entropy) = (platform.channel, platform.entropy);
        let (caller, broker_key) = greet(self.config.config(), ends, instance, self.memory)?;
        Ok(Greeted { caller, broker_key })
    }

    pub(super) fn ask(
        &mut self,
        channel: &mut dyn Channel,
        caller: &mut Caller,
        operation: Operation,
        body: &[u8],
    ) -> Result<(Status, &[u8]), ReleaseFault> {
        self.memory.say(channel, caller, operation, body)
    }

    /// Forgets the instance key and wipes the frames: this launch is over at the broker.
    pub(super) fn wipe(&mut self) {
        self.instance = None;
        self.wipe_frames();
    }

    /// Wipes what passed through the frames.
    pub(super) fn wipe_frames(&mut self) {
        self.memory.wipe();
    }
}

/// Exchanges hellos with a broker that the tenant of `config` certified: the session's end, and the broker's signing key.
pub(super) fn greet(
    config: &LaunchConfig,
    (channel, entropy): (&mut dyn Channel, &mut dyn Entropy),
    instance: &AgreementKey,
    memory: &mut SessionMemory,
) -> Result<(Caller, [u8; POINT_BYTES]), ReleaseFault> {
    let ephemeral = AgreementKey::generate(entropy)?;
    let hello = opening(config, entropy, &ephemeral, instance)?;
    let length = frame::frame_of(FrameKind::Hello, &mut memory.request, &hello)?;
    let server: ServerHello = frame::exactly(memory.exchange(channel, length, FrameKind::ServerHello)?)?;
    check_broker(config, &hello, &server)?;
    let keys = transcript::vm_keys(&ephemeral, instance, &hello, &server)?;
    Ok((Caller::new(keys), server.certificate.key))
}

fn opening(
    config: &LaunchConfig,
    entropy: &mut dyn Entropy,
    ephemeral: &AgreementKey,
    instance: &AgreementKey,
) -> Result<Hello, ReleaseFault> {
    let mut nonce = [0; 32];
    entropy.fill(&mut nonce).map_err(|_| ReleaseFault::Entropy)?;
    let LaunchConfig { tenant, vm, .. } = *config;
    Ok(Hello {
        protocol: U16::new(PROTOCOL),
        suite: U16::new(SUITE),
        flags: U32::new(0),
        tenant,
        vm,
        nonce,
        ephemeral: *ephemeral.point(),
        instance: *instance.point(),
    })
}

/// `protocol.md`, section "What the VM checks in a server hello", in its order.
fn check_broker(config: &LaunchConfig, hello: &Hello, server: &ServerHello) -> Result<(), ReleaseFault> {
    let certificate = &server.certificate;
    if !transcript::is_certified(certificate, &server.tenant_root, config) {
        return Err(ReleaseFault::BrokerUntrusted);
    }
    let digest = transcript::server_hello_digest(hello, server);
    if transcript::verifies(&certificate.key, &digest, &server.signature) {
        Ok(())
    } else {
        Err(ReleaseFault::ReplyRefused)
    }
}

impl SessionMemory {
    /// Wipes what passed through.
    pub(super) fn wipe(&mut self) {
        self.request.zeroize();
        self.reply.zeroize();
    }

    /// Seals a request, and opens its reply.
    pub(super) fn say(
        &mut self,
        channel: &mut dyn Channel,
        caller: &mut Caller,
        operation: Operation,
        body: &[u8],
    ) -> Result<(Status, &[u8]), ReleaseFault> {
        let room = self.request.get_mut(REQUEST_BODY_AT..).and_then(|rest| rest.get_mut(..body.len()));
        room.ok_or(ReleaseFault::Misuse)?.copy_from_slice(body);
        self.ask(channel, caller, operation, body.len())
    }

    /// Seals the request whose body is in place, and opens its reply.
    fn ask(
        &mut self,
        channel: &mut dyn Channel,
        caller: &mut Caller,
        operation: Operation,
        body_bytes: usize,
    ) -> Result<(Status, &[u8]), ReleaseFault> {
        let (length, asked): (usize, Asked) = caller.seal(operation, &mut self.request, body_bytes)?;
        let body = self.exchange(channel, length, FrameKind::Reply)?;
        caller.open(&asked, body)
    }

    /// One frame out, one frame of the `wanted` kind back: its body.
    pub(super) fn exchange(
        &mut self,
        channel: &mut dyn Channel,
        length: usize,
        wanted: FrameKind,
    ) -> Result<&mut [u8], ReleaseFault> {
        let request = self.request.get(..length).ok_or(ReleaseFault::Misuse)?;
        let length = channel.exchange(request, &mut self.reply).map_err(|error| match error {
            ChannelError::Unreachable => ReleaseFault::Unreachable,
            ChannelError::ReplyTooLong => ReleaseFault::ReplyRefused,
        })?;
        let reply = self.reply.get_mut(..length).ok_or(ReleaseFault::ReplyRefused)?;
        match frame::open(reply)? {
            (FrameKind::Refusal, body) => Err(refused(body)),
            (kind, body) if kind == wanted => Ok(body),
            _ => Err(ReleaseFault::ReplyRefused),
        }
    }
}

/// What an unauthenticated refusal suggests to try next.
fn refused(body: &[u8]) -> ReleaseFault {
    let Ok(refusal) = frame::exactly::<Refusal>(body) else { return ReleaseFault::ReplyRefused };
    match RefusalReason::from_number(refusal.reason.get()) {
        Some(RefusalReason::UnknownSession) => ReleaseFault::SessionLost,
        Some(RefusalReason::UnknownVm) => ReleaseFault::DeniedVm,
        Some(RefusalReason::Unavailable) => ReleaseFault::Unreachable,
        Some(RefusalReason::NoKbs) => ReleaseFault::KbsAbsent,
        Some(RefusalReason::Malformed | RefusalReason::Version) => ReleaseFault::DeniedOther,
        None => ReleaseFault::ReplyRefused,
    }
}

/// What an authenticated denial means. A reason that this build does not know is still a denial.
pub(super) fn denied(body: &[u8]) -> ReleaseFault {
    let Ok(denied) = frame::exactly::<Denied>(body) else { return ReleaseFault::DeniedOther };
    match DeniedReason::from_number(denied.reason.get()) {
        Some(DeniedReason::Evidence) => ReleaseFault::DeniedEvidence,
        Some(DeniedReason::SimulatedSilicon) => ReleaseFault::DeniedSimulated,
        Some(DeniedReason::Measurement) => ReleaseFault::DeniedMeasurement,
        Some(DeniedReason::LaunchConfig) => ReleaseFault::DeniedLaunchConfig,
        Some(DeniedReason::GuestPolicy | DeniedReason::Tcb | DeniedReason::Chip) => {
            ReleaseFault::DeniedPolicy
        }
        Some(DeniedReason::Lifecycle) => ReleaseFault::DeniedVm,
        Some(DeniedReason::Binding | DeniedReason::Order | DeniedReason::InstanceReused) | None => {
            ReleaseFault::DeniedOther
        }
    }
}

/// The body of an [`Status::Ok`]; every other authenticated status as its fault.
pub(super) fn settled(reply: (Status, &[u8])) -> Result<&[u8], ReleaseFault> {
    match reply {
        (Status::Ok, body) => Ok(body),
        (Status::Busy, _) => Err(ReleaseFault::Busy),
        (Status::Denied, body) => Err(denied(body)),
        (Status::Fenced, _) => Err(ReleaseFault::Fenced),
        (Status::Conflict, _) => Err(ReleaseFault::Conflict),
    }
}

/// A session whose broker is known; the broker does not know yet who asks.
#[derive(Debug)]
#[must_use]
pub struct Greeted {
    caller: Caller,
    broker_key: [u8; POINT_BYTES],
}

impl Greeted {
    /// Shows the broker a report that binds this session and the launch configuration.
    ///
    /// # Errors
    /// [`ReleaseFault::NoReport`] (final for this launch), the broker's denials, and what an exchange gives.
    pub fn attest(
        mut self,
        platform: &mut Platform<'_>,
        client: &mut Client<'_>,
    ) -> Result<Attested, ReleaseFault> {
        let config = *client.config.config();
        let data = report_data(self.caller.transcript(), &config.digest());
        let room = &mut client.memory.request[REQUEST_BODY_AT..];
        let room = &mut room[..FRAME_BYTES_MAX - REQUEST_OVERHEAD_BYTES];
        let (attest, rest) = Attest::mut_from_prefix(room).map_err(|_| ReleaseFault::Misuse)?;
        platform.reporter.report(&data, &mut attest.report).map_err(|_| ReleaseFault::NoReport)?;
        let report_digest: Digest = Sha384::digest(attest.report).into();
        let config_bytes = config.write_to(rest).map_err(|_| ReleaseFault::Misuse)?;
        let rest = &mut rest[config_bytes..];
        let certificate_bytes = platform.reporter.certificate(rest).min(rest.len());
        let short = |bytes: usize| u16::try_from(bytes).map(U16::new).map_err(|_| ReleaseFault::Misuse);
        attest.config_bytes = short(config_bytes)?;
        attest.certificate_bytes = short(certificate_bytes)?;
        let body = Attest::BYTES + config_bytes + certificate_bytes;
        let reply = client.memory.ask(platform.channel, &mut self.caller, Operation::Attest, body)?;
        if !settled(reply)?.is_empty() {
            return Err(ReleaseFault::ReplyRefused);
        }
        let Self { caller, broker_key } = self;
        Ok(Attested { caller, broker_key, report_digest, mode: config.mode, serve: config.serve })
    }

    /// The bare session, for an instance that resumes instead of attesting.
    pub(super) fn into_caller(self) -> Caller {
        self.caller
    }
}

/// A session in which both ends know each other.
#[derive(Debug)]
#[must_use]
pub struct Attested {
    pub(super) caller: Caller,
    pub(super) broker_key: [u8; POINT_BYTES],
    pub(super) report_digest: Digest,
    /// What the configuration of this launch wants of a grant.
    pub(super) mode: Mode,
    /// How it wants it to serve.
    pub(super) serve: Serve,
}
