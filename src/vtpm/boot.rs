//! From power-on to serving: states that consume one another.

use super::disconnected;
use super::power::power_on_facts;
use super::restore::restore;
use super::serve::{Endorsement, Power, Vtpm};
use super::trust::Trust;
use crate::attest::launch::{LaunchConfig, Named};
use crate::attest::{AttestFault, binding, report};
use crate::engine::{Engine, Start};
use crate::fault::Fault;
use crate::frontend::svsm::Persistence;
use crate::keys::{CreateKey, Further, Identity, VolumeKey};
use crate::nv::{Keys, NvImage, NvStore};
use crate::release::hw_sealed::{HwSealed, ProcessorSecret};
use crate::release::kbs::KbsInput;
use crate::release::open::{CreateGrant, EphemeralGrant, Granted, OpenGrant, Verdict};
use crate::release::session::{Client, SessionMemory};
use crate::release::tenure::Tenure;
use crate::release::{Head, ReleaseFault, unsealed};
use crate::seams::{Platform, REPORT_BYTES};
use crate::volume::{STATE_BYTES_MAX, Stamp, Wanted, Workspace, newest_unsealed_head};

/// The memory that the firmware hands in; about 550 KiB, wiped by the firmware when the TPM is gone.
#[expect(missing_debug_implementations, reason = "it will hold the TPM's secrets")]
pub struct Memory<'m> {
    /// The state as last committed.
    pub durable: &'m mut [u8; STATE_BYTES_MAX],
    /// The state as it is to become.
    pub current: &'m mut [u8; STATE_BYTES_MAX],
    /// What the volume works in.
    pub workspace: &'m mut Workspace,
    /// The frames of the release protocol.
    pub session: &'m mut SessionMemory,
}

/// What a [`Memory`] borrows, in one piece: for a static of the firmware, or pages that it sets aside.
#[expect(missing_debug_implementations, reason = "it will hold the TPM's secrets")]
pub struct Storage {
    durable: [u8; STATE_BYTES_MAX],
    current: [u8; STATE_BYTES_MAX],
    workspace: Workspace,
    session: SessionMemory,
}

impl Storage {
    /// Empty memory. Half a megabyte: keep it out of stacks.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            durable: [0; STATE_BYTES_MAX],
            current: [0; STATE_BYTES_MAX],
            workspace: Workspace::new(),
            session: SessionMemory::new(),
        }
    }

    /// Lends it, for one TPM.
    pub const fn lend(&mut self) -> Memory<'_> {
        let Self { durable, current, workspace, session } = self;
        Memory { durable, current, workspace, session }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self::new()
    }
}

/// Nothing is known and nothing is trusted.
#[expect(missing_debug_implementations, reason = "it will hold the TPM's secrets")]
pub struct Cold<'m, E> {
    memory: Memory<'m>,
    engine: E,
}

impl<'m, E: Engine> Cold<'m, E> {
    /// Takes what the firmware supplies.
    #[must_use]
    pub const fn new(memory: Memory<'m>, engine: E) -> Self {
        Self { memory, engine }
    }

    /// Learns who this VM is: `config` is the launch configuration, if HOST_DATA of this VM's own report says so.
    ///
    /// # Errors
    /// [`AttestFault`] for the report or the configuration, [`ReleaseFault`] if the platform
    /// lacks what the configuration needs.
    pub fn identify(self, platform: &mut Platform<'_>, config: &[u8]) -> Result<Identified<'m, E>, Fault> {
        let config = LaunchConfig::parse(config)?;
        let mut bytes = [0; REPORT_BYTES];
        let data = binding::identify_data();
        platform.reporter.report(&data, &mut bytes).map_err(|_| AttestFault::NoReport)?;
        let report = report::Report::parse(&bytes).map_err(|_| AttestFault::ReportMalformed)?;
        let config = config.bind(report.host_data())?;
        let Memory { durable, current, workspace, session } = self.memory;
        let source = match config.named() {
            Named::Anchored(config) => {
                let processor = ProcessorSecret::wanted(platform, &config)?;
                Source::Broker { client: Client::new(platform, config, session)?, processor, kbs: None }
            }
            Named::HwSealed(config) => Source::Processor(HwSealed::begin(platform, config)?),
        };
        Ok(Identified { memory: TpmMemory { durable, current, workspace }, engine: self.engine, source })
    }

    /// Boots without any of Husk's promises, for tests: public keys, nobody who remembers the newest state. The
    /// volume is marked for ever, and no sealed launch opens it.
    ///
    /// # Errors
    /// A [`Fault`] of volume or engine.
    pub fn boot_unsealed_for_testing(
        self,
        platform: &mut Platform<'_>,
        tenant: [u8; 16],
        vm: [u8; 16],
    ) -> Result<Vtpm<'m, E>, Fault> {
        let Memory { durable, current, workspace, .. } = self.memory;
        let identity = Identity { tenant, vm, generation: 0 };
        let public = unsealed::Unsealed::for_testing();
        let newest = newest_unsealed_head(platform.disk, &public, &identity, workspace, current)?;
        let epoch = newest.map_or(0, |newest| newest.epoch);
        let token = newest.map_or(0, |newest| newest.token) + 1;
        let stamp = Stamp { token, fingerprint: self.engine.fingerprint().0 };
        let image = NvImage::new(durable, current);
        let next = public.key(epoch + 1);
        let anchor = public.believe(newest.map_or(Head::NONE, |newest| newest.head));
        let (nv, start) = match newest {
            None => {
                let key = CreateKey::unsealed(&next, &identity);
                (NvStore::create(image, key, stamp, workspace), Start::Manufacture)
            }
            Some(newest) => {
                let keys = Keys {
                    wanted: Wanted::exactly(newest.head),
                    current: VolumeKey::unsealed(&public.key(epoch), &identity),
                    next: VolumeKey::unsealed(&next, &identity),
                };
                (NvStore::open(platform, image, keys, stamp, workspace)?, Start::Load)
            }
        };
        let trust = Trust::Alone { anchor, token, persistence: Persistence::UnsealedForTesting };
        Unsealed { engine: self.engine, nv, start, trust }.power_on()?.confirm(platform)
    }
}

/// Tenant, VM and the tenant's root key are known, and the host cannot change them any more.
#[expect(missing_debug_implementations, reason = "it will hold the TPM's secrets")]
pub struct Identified<'m, E> {
    memory: TpmMemory<'m>,
    engine: E,
    source: Source<'m>,
}

/// The TPM's part of a [`Memory`].
pub(super) struct TpmMemory<'m> {
    pub(super) durable: &'m mut [u8; STATE_BYTES_MAX],
    pub(super) current: &'m mut [u8; STATE_BYTES_MAX],
    pub(super) workspace: &'m mut Workspace,
}

/// Where the keys come from, as the launch configuration names it.
#[expect(clippy::large_enum_variant, reason = "there is one, and there is no heap to put the larger in")]
enum Source<'m> {
    Broker {
        client: Client<'m>,
        processor: Option<ProcessorSecret>,
        /// Nothing until it was asked for.
        kbs: Option<KbsInput>,
    },
    Processor(HwSealed),
}

/// How the broker answered.
#[must_use]
#[expect(missing_debug_implementations, reason = "it will hold the TPM's secrets")]
#[expect(
    clippy::large_enum_variant,
    reason = "one lives at a time, and there is no heap to put the larger in"
)]
pub enum Asked<'m, E> {
    /// The keys are here.
    Released(Released<'m, E>),
    /// Another instance may still be answering; nothing changed.
    Busy {
        /// Asks again, in a session of its own.
        again: Identified<'m, E>,
        /// Not earlier than in so many milliseconds.
        retry_ms: u32,
    },
    /// There are no keys: the broker refused or did not answer, or what answered was not the tenant's broker.
    Refused {
        /// Asks again, where the fault leaves hope for that.
        again: Identified<'m, E>,
        /// Why.
        fault: Fault,
    },
}

impl<'m, E: Engine> Identified<'m, E> {
    /// Asks for the keys: a KBS first, where the configuration requires one, then the broker: hello, report, grant. Once; how often is
    /// the firmware's to decide. Where the configuration names `hw-sealed` the key is there already.
    pub fn release(self, platform: &mut Platform<'_>) -> Asked<'m, E> {
        let Self { memory, engine, source } = self;
        let (mut client, processor, kbs) = match source {
            Source::Broker { client, processor, kbs } => (client, processor, kbs),
            Source::Processor(launch) => {
                return Asked::Released(Released { memory, engine, keys: Granting::Processor(launch) });
            }
        };
        let kbs = match kbs.map_or_else(|| client.kbs_input(platform), Ok) {
            Ok(kbs) => kbs,
            Err(fault) => {
                let again = Self { memory, engine, source: Source::Broker { client, processor, kbs: None } };
                return Asked::Refused { again, fault: fault.into() };
            }
        };
        let asked = ask(&mut client, platform);
        match asked {
            Ok(Verdict::Granted(granted)) => {
                let keys = Granting::Broker { client, inputs: Inputs { processor, kbs }, granted };
                Asked::Released(Released { memory, engine, keys })
            }
            Ok(Verdict::Busy { retry_ms, .. }) => {
                let source = Source::Broker { client, processor, kbs: Some(kbs) };
                Asked::Busy { again: Self { memory, engine, source }, retry_ms }
            }
            Err(fault) => {
                let source = Source::Broker { client, processor, kbs: Some(kbs) };
                Asked::Refused { again: Self { memory, engine, source }, fault }
            }
        }
    }

    /// Asks for the keys and wakes the TPM: [`release`](Self::release), [`unseal`](Released::unseal), [`confirm`](Unsealed::confirm). While
    /// another instance may still be answering, `wait` gets the milliseconds to wait, and waits, or says that it does not.
    ///
    /// # Errors
    /// As those; [`ReleaseFault::Busy`] where `wait` has waited enough.
    pub fn earn(
        mut self,
        platform: &mut Platform<'_>,
        wait: &mut dyn FnMut(u32) -> bool,
    ) -> Result<Vtpm<'m, E>, Fault> {
        loop {
            match self.release(platform) {
                Asked::Released(released) => return released.unseal(platform)?.confirm(platform),
                Asked::Refused { fault, .. } => return Err(fault),
                Asked::Busy { again, retry_ms } if wait(retry_ms) => self = again,
                Asked::Busy { .. } => return Err(ReleaseFault::Busy.into()),
            }
        }
    }
}

fn ask(client: &mut Client<'_>, platform: &mut Platform<'_>) -> Result<Verdict, Fault> {
    let greeted = client.hello(platform)?;
    let attested = greeted.attest(platform, client)?;
    Ok(attested.grant(platform, client)?)
}

/// What goes into the keys beside the broker's secret.
struct Inputs {
    processor: Option<ProcessorSecret>,
    kbs: KbsInput,
}

impl Inputs {
    const fn further(&self) -> Further<'_> {
        Further { kbs: &self.kbs, processor: self.processor.as_ref() }
    }
}

/// The keys are here: by the broker's signed grant (keys, intent, token, and where the newest state is), or by the processor alone.
#[must_use]
#[expect(missing_debug_implementations, reason = "it holds the TPM's secrets")]
pub struct Released<'m, E> {
    memory: TpmMemory<'m>,
    engine: E,
    keys: Granting<'m>,
}

/// What released them.
#[expect(clippy::large_enum_variant, reason = "there is one, and there is no heap to put the larger in")]
enum Granting<'m> {
    Broker { client: Client<'m>, inputs: Inputs, granted: Granted },
    Processor(HwSealed),
}

impl<'m, E: Engine> Released<'m, E> {
    /// Opens the newest state, or makes a new TPM where the grant says so, or one from a backup; powers the engine on.
    ///
    /// # Errors
    /// A Seal fault if the disk does not hold the newest state: the broker is told, nothing is written. A Broker fault if the
    /// backup is not the one that the tenant ordered. An Engine fault if the engine does not take the state.
    pub fn unseal(self, platform: &mut Platform<'_>) -> Result<Unsealed<'m, E>, Fault> {
        let Self { memory, engine, keys } = self;
        let unsealed = match keys {
            Granting::Processor(launch) => disconnected::unseal(memory, engine, &launch, platform)?,
            Granting::Broker { client, inputs, granted } => {
                let further = inputs.further();
                match granted {
                    Granted::Create(grant) => create(memory, engine, client, further, grant),
                    Granted::Ephemeral(grant) => ephemeral(memory, engine, client, grant, platform),
                    Granted::Open(grant) => {
                        let opening = Opening { client, further, grant };
                        open(memory, engine, opening, platform)?
                    }
                    Granted::Restore(grant) => {
                        let opening = Opening { client, further, grant };
                        restore(memory, engine, opening, platform)?
                    }
                }
            }
        };
        unsealed.power_on()
    }
}

/// Whose TPM it is, of that generation.
pub(super) const fn identity(config: &LaunchConfig, generation: u32) -> Identity {
    Identity { tenant: config.tenant, vm: config.vm, generation }
}

/// How many commits the configuration lets a boot lose.
pub(super) fn slack(config: &LaunchConfig) -> u32 {
    config.staleness.map_or(0, |staleness| staleness.commits)
}

fn create<'m, E: Engine>(
    memory: TpmMemory<'m>,
    engine: E,
    client: Client<'m>,
    further: Further<'_>,
    grant: CreateGrant,
) -> Unsealed<'m, E> {
    let standing = grant.pending.standing();
    let (token, generation) = (standing.token(), standing.generation());
    let identity = identity(client.config().config(), generation);
    let key = CreateKey::granted(VolumeKey::sealed(&grant.next, further, &identity), grant.creation);
    let TpmMemory { durable, current, workspace } = memory;
    let stamp = Stamp { token, fingerprint: engine.fingerprint().0 };
    let nv = NvStore::create(NvImage::new(durable, current), key, stamp, workspace)
        .deferring(slack(client.config().config()));
    let trust = Trust::granted(Tenure::new(client, grant.pending));
    Unsealed { engine, nv, start: Start::Manufacture, trust }
}

/// There are no keys, and there is no disk: the TPM is in memory.
fn ephemeral<'m, E: Engine>(
    memory: TpmMemory<'m>,
    engine: E,
    client: Client<'m>,
    grant: EphemeralGrant,
    platform: &mut Platform<'_>,
) -> Unsealed<'m, E> {
    platform.console.line("husk: EPHEMERAL: this TPM keeps nothing, and ends with the launch", 0);
    let token = grant.pending.standing().token();
    let TpmMemory { durable, current, .. } = memory;
    let stamp = Stamp { token, fingerprint: engine.fingerprint().0 };
    let nv = NvStore::ephemeral(NvImage::new(durable, current), stamp, grant.oblivion);
    let trust = Trust::granted(Tenure::new(client, grant.pending));
    Unsealed { engine, nv, start: Start::Manufacture, trust }
}

/// What opens a TPM that exists, or makes it anew.
pub(super) struct Opening<'m, 'p, G> {
    pub(super) client: Client<'m>,
    pub(super) further: Further<'p>,
    pub(super) grant: G,
}

fn open<'m, E: Engine>(
    memory: TpmMemory<'m>,
    engine: E,
    opening: Opening<'m, '_, OpenGrant>,
    platform: &mut Platform<'_>,
) -> Result<Unsealed<'m, E>, Fault> {
    let Opening { client, further, grant } = opening;
    let standing = grant.pending.standing();
    let (token, generation) = (standing.token(), standing.generation());
    let identity = identity(client.config().config(), generation);
    let slack = slack(client.config().config());
    let keys = Keys {
        wanted: Wanted { head: grant.head, beyond: slack },
        current: VolumeKey::sealed(&grant.current, further, &identity),
        next: VolumeKey::sealed(&grant.next, further, &identity),
    };
    let TpmMemory { durable, current, workspace } = memory;
    let stamp = Stamp { token, fingerprint: engine.fingerprint().0 };
    let tenure = Tenure::new(client, grant.pending);
    match NvStore::open(platform, NvImage::new(durable, current), keys, stamp, workspace) {
        Ok(nv) => {
            let nv = nv.deferring(slack);
            Ok(Unsealed { engine, nv, start: Start::Load, trust: Trust::granted(tenure) })
        }
        Err(fault) => {
            // The alarm is a courtesy to the tenant: whether it is heard changes nothing about this fault.
            if tenure.state_missing(platform, fault.code()).is_err() {
                platform.console.line("husk: the broker did not hear of", fault.code());
            }
            Err(fault)
        }
    }
}

/// The state is in memory and nobody may hear of it yet.
#[must_use]
#[expect(missing_debug_implementations, reason = "it holds the TPM's secrets")]
pub struct Unsealed<'m, E> {
    pub(super) engine: E,
    pub(super) nv: NvStore<'m>,
    pub(super) start: Start,
    pub(super) trust: Trust<'m>,
}

impl<'m, E: Engine> Unsealed<'m, E> {
    fn power_on(mut self) -> Result<Self, Fault> {
        let facts = power_on_facts(self.nv.image(), self.trust.token(), self.start);
        self.engine.power_on(self.nv.image_mut(), facts)?;
        if self.start == Start::Manufacture {
            let mut envelope = self.nv.image().envelope();
            envelope.owe_banks();
            self.nv.image_mut().store_envelope(&envelope);
        }
        Ok(self)
    }

    /// Seals the state under the next epoch and has that confirmed: from here on older images are void, and the TPM
    /// serves.
    ///
    /// # Errors
    /// A [`Fault`]; the state that the broker remembers is on the disk, whichever it is.
    pub fn confirm(self, platform: &mut Platform<'_>) -> Result<Vtpm<'m, E>, Fault> {
        let Self { engine, nv, trust, .. } = self;
        let mut vtpm = Vtpm {
            engine,
            nv,
            trust,
            power: Power::Initialized,
            latched: None,
            keyed: false,
            suspended: None,
            endorsement: Endorsement::Unasked,
            deferred_since_ms: None,
        };
        vtpm.commit(platform).map(drop)?;
        Ok(vtpm)
    }
}
