//! What a grant yields: keys, what they may be used for, and the right to confirm.
//!
//! **What.** [`Attested::grant`] asks for the grant and checks it; [`Granted`] has a type for each intent.
//! **Trust.** The broker's key that `session` has checked.
//! **Laws.** A key only from a grant whose signature covers this session, this report and every byte of it. Creating
//! a TPM is an intent of the broker: [`Creation`] comes out of a [`CreateGrant`] or a [`RestoreGrant`] and nowhere else. What does not fit
//! together is refused whole. Where the launch configuration names `ephemeral`, no grant has a key, and elsewhere each has.
//! **Not here.** Confirming and everything after it: `tenure`.

use super::record::Caller;
use super::session::{Attested, Client, denied, settled};
use super::standing::Standing;
use super::transcript::{Digest, grant_digest, verifies};
use super::wire::{Busy, GrantIntent, GrantReply, Operation, POINT_BYTES, Status};
use super::{Head, ReleaseFault, frame};
use crate::attest::launch::Mode;
use crate::seams::Platform;
use crate::secret::Secret;
use zerocopy::FromBytes;

/// An epoch's secret, released for one epoch of one VM. Only this box makes one.
#[derive(Debug)]
pub struct ReleasedKey {
    epoch: u64,
    secret: Secret<32>,
}

impl ReleasedKey {
    pub(super) const fn new(epoch: u64, secret: Secret<32>) -> Self {
        Self { epoch, secret }
    }

    /// The epoch that it belongs to.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The secret, for `keys::derive` alone.
    #[must_use]
    pub const fn secret(&self) -> &Secret<32> {
        &self.secret
    }
}

/// The key of a backup, released for one restore of one VM. Only this box makes one.
#[derive(Debug)]
pub struct BackupKey(Secret<32>);

impl BackupKey {
    /// The secret, for `keys` alone.
    #[must_use]
    pub fn into_secret(self) -> Secret<32> {
        self.0
    }
}

/// The broker's permission to make a TPM's volume, once.
#[derive(Debug)]
#[must_use]
pub struct Creation {
    replaces: Head,
}

impl Creation {
    /// The state in whose place the new one comes; [`Head::NONE`] if there is no TPM yet.
    #[must_use]
    pub const fn replaces(&self) -> &Head {
        &self.replaces
    }
}

/// The broker's permission for a TPM that keeps nothing, for one launch.
#[derive(Debug)]
#[must_use]
pub struct Oblivion(());

/// A granted instance that has confirmed nothing yet: what `tenure` starts from.
#[derive(Debug)]
#[must_use]
pub struct Pending {
    pub(super) caller: Caller,
    pub(super) standing: Standing,
}

impl Pending {
    /// What the instance stands for: token, generation, epoch and head.
    pub const fn standing(&self) -> &Standing {
        &self.standing
    }
}

/// Make a TPM.
#[derive(Debug)]
pub struct CreateGrant {
    /// The permission.
    pub creation: Creation,
    /// Seals epoch 1.
    pub next: ReleasedKey,
    /// Confirms the first head.
    pub pending: Pending,
}

/// Open the TPM that exists.
#[derive(Debug)]
pub struct OpenGrant {
    /// Opens the state at `head`.
    pub current: ReleasedKey,
    /// The newest state.
    pub head: Head,
    /// Seals the next epoch.
    pub next: ReleasedKey,
    /// Confirms the head under the next epoch.
    pub pending: Pending,
}

/// Make the TPM anew, from a backup.
#[derive(Debug)]
pub struct RestoreGrant {
    /// The permission to replace whatever the disk holds of it.
    pub creation: Creation,
    /// Opens the backup.
    pub backup: BackupKey,
    /// Seals the next epoch, the first of its generation.
    pub next: ReleasedKey,
    /// Confirms the first head of the generation.
    pub pending: Pending,
}

/// Make a TPM that ends with the launch.
#[derive(Debug)]
pub struct EphemeralGrant {
    /// The permission to keep nothing.
    pub oblivion: Oblivion,
    /// Confirms the launch.
    pub pending: Pending,
}

/// A grant, by its intent.
#[derive(Debug)]
#[must_use]
pub enum Granted {
    /// Make a TPM.
    Create(CreateGrant),
    /// Open the TPM that exists.
    Open(OpenGrant),
    /// Make the TPM anew, from a backup.
    Restore(RestoreGrant),
    /// Make a TPM that ends with the launch.
    Ephemeral(EphemeralGrant),
}

/// How the broker answers the request for a grant when it does not refuse.
#[derive(Debug)]
#[must_use]
#[expect(
    clippy::large_enum_variant,
    reason = "one lives at a time, and there is no heap to put the larger in"
)]
pub enum Verdict {
    /// Yes.
    Granted(Granted),
    /// Not yet: another instance may still be answering. Nothing changed; the session is good for asking again.
    Busy {
        /// Asks again.
        again: Attested,
        /// Not earlier than in so many milliseconds.
        retry_ms: u32,
    },
}

impl Attested {
    /// Asks for the keys.
    ///
    /// # Errors
    /// [`ReleaseFault::GrantRefused`] if the grant's signature or content does not hold; the broker's denials; what an
    /// exchange gives (a new session asks again then: a grant that nobody confirms changes nothing).
    pub fn grant(
        mut self,
        platform: &mut Platform<'_>,
        client: &mut Client<'_>,
    ) -> Result<Verdict, ReleaseFault> {
        let reply = client.ask(platform.channel, &mut self.caller, Operation::Grant, &[]);
        let answer = reply.and_then(|reply| Answer::read(reply, &self));
        client.wipe_frames();
        match answer? {
            Answer::Keys(keys) => Ok(Verdict::Granted(keys.granted(self.caller))),
            Answer::Busy { retry_ms } => Ok(Verdict::Busy { again: self, retry_ms }),
        }
    }
}

/// The broker's answer, out of the frame, so that the frame can be wiped.
#[expect(
    clippy::large_enum_variant,
    reason = "one lives at a time, and there is no heap to put the larger in"
)]
enum Answer {
    Keys(Keys),
    Busy { retry_ms: u32 },
}

/// A grant whose signature and content hold.
struct Keys {
    standing: Standing,
    intended: Intended,
}

/// An intent, with the secrets that it takes.
enum Intended {
    Create { next: Secret<32> },
    Open { current: Secret<32>, next: Secret<32> },
    Restore { backup: BackupKey, next: Secret<32> },
    Ephemeral,
}

impl Answer {
    fn read(reply: (Status, &[u8]), session: &Attested) -> Result<Self, ReleaseFault> {
        match reply {
            (Status::Ok, body) => {
                let grant = GrantReply::ref_from_bytes(body).map_err(|_| ReleaseFault::ReplyRefused)?;
                let transcript = session.caller.transcript();
                check_signature(grant, transcript, &session.report_digest, &session.broker_key)?;
                Keys::read(grant, session).map(Self::Keys).ok_or(ReleaseFault::GrantRefused)
            }
            (Status::Busy, body) => Ok(Self::Busy { retry_ms: frame::exactly::<Busy>(body)?.retry_ms.get() }),
            (Status::Denied, body) => Err(denied(body)),
            other => Err(settled(other).map_or_else(|fault| fault, |_| ReleaseFault::ReplyRefused)),
        }
    }
}

fn check_signature(
    grant: &GrantReply,
    transcript: &Digest,
    report_digest: &Digest,
    broker_key: &[u8; POINT_BYTES],
) -> Result<(), ReleaseFault> {
    let digest = grant_digest(transcript, report_digest, grant);
    if verifies(broker_key, &digest, &grant.signature) { Ok(()) } else { Err(ReleaseFault::GrantRefused) }
}

impl Keys {
    /// `protocol.md`, section "What the VM checks in a grant": nothing if anything does not fit.
    fn read(grant: &GrantReply, session: &Attested) -> Option<Self> {
        let (head, epoch, token) = (Head::from(&grant.head), grant.epoch.get(), grant.token.get());
        let generation = grant.generation.get();
        let is_absent = head == Head::NONE && epoch == 0;
        let exists = head.sequence != 0 && head.digest != Head::NONE.digest && epoch != 0;
        let secrets = (nonzero(&grant.epoch_secret), nonzero(&grant.next_secret));
        let intended = match (session.mode, GrantIntent::from_number(grant.intent)?, secrets) {
            (Mode::Strict, GrantIntent::Create, (None, Some(next))) if is_absent => Intended::Create { next },
            (Mode::Strict, GrantIntent::Open, (Some(current), Some(next))) if exists => {
                Intended::Open { current, next }
            }
            (Mode::Strict, GrantIntent::Restore, (Some(backup), Some(next)))
                if (exists || is_absent) && generation != 0 =>
            {
                Intended::Restore { backup: BackupKey(backup), next }
            }
            (Mode::Ephemeral, GrantIntent::Ephemeral, (None, None)) if is_absent => Intended::Ephemeral,
            _ => return None,
        };
        let keeps = !matches!(intended, Intended::Ephemeral);
        let fits = grant.reserved == [0; 3]
            && token != 0
            && epoch.checked_add(2).is_some()
            && !(keeps && grant.epoch_secret == grant.next_secret);
        let standing = match intended {
            Intended::Ephemeral => Standing::ephemeral(session.serve, token, generation),
            Intended::Create { .. } | Intended::Open { .. } | Intended::Restore { .. } => {
                Standing::granted(session.serve, token, generation, epoch, head)
            }
        };
        fits.then_some(Self { standing, intended })
    }

    fn granted(self, caller: Caller) -> Granted {
        let Self { standing, intended } = self;
        let (epoch, head) = (standing.epoch(), *standing.head());
        let next_key = |secret| ReleasedKey::new(epoch + 1, secret);
        let pending = Pending { caller, standing };
        let creation = Creation { replaces: head };
        match intended {
            Intended::Create { next } => {
                Granted::Create(CreateGrant { creation, next: next_key(next), pending })
            }
            Intended::Open { current, next } => {
                let current = ReleasedKey::new(epoch, current);
                Granted::Open(OpenGrant { current, head, next: next_key(next), pending })
            }
            Intended::Restore { backup, next } => {
                Granted::Restore(RestoreGrant { creation, backup, next: next_key(next), pending })
            }
            Intended::Ephemeral => Granted::Ephemeral(EphemeralGrant { oblivion: Oblivion(()), pending }),
        }
    }
}

/// A secret out of a grant; nothing if it is zero, which says that there is none.
fn nonzero(bytes: &[u8; 32]) -> Option<Secret<32>> {
    let fill = |into: &mut [u8; 32]| {
        into.copy_from_slice(bytes);
        if bytes == &[0; 32] { Err(()) } else { Ok(()) }
    };
    Secret::try_fill(fill).ok()
}
