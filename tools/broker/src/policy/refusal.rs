//! Which rule an instance broke, and what stood against what.
//!
//! **What.** [`Refusal`] is for the tenant's log; of it the VM is told a [`DeniedReason`] alone, and its host the number of the log's
//! entry.
//! **Trust.** What was seen came from outside: it is cut to a length and shown as it is, to people.

use husk::release::wire::DeniedReason;
use std::fmt;

/// The longest text of what was seen or wanted: two of them fit a line of an exported log.
const TEXT_CHARS_MAX: usize = 800;
/// How many members of a list are shown.
const SHOWN_MAX: usize = 4;

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $word:literal => $reason:ident,)+) => {
        /// The rules, each by its name in a tenant's log.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Rule {
            $($(#[$doc])* $name,)+
        }

        impl Rule {
            /// Its name in a tenant's log.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// What the VM is told.
            #[must_use]
            pub const fn reason(self) -> DeniedReason {
                match self { $(Self::$name => DeniedReason::$reason,)+ }
            }
        }
    };
}

rules! {
    /// Report, signature and chain hold.
    Evidence = "evidence" => Evidence,
    /// Nothing of the chain was revoked, as far as the policy wants to know.
    Revocation = "revocation" => Evidence,
    /// The silicon is none that is simulated.
    Silicon = "simulated-silicon" => SimulatedSilicon,
    /// The report is VMPL 0's.
    Vmpl = "vmpl" => GuestPolicy,
    /// POLICY has the bits that it must have, and none of those that it must not.
    GuestFlags = "guest-policy" => GuestPolicy,
    /// POLICY asks for an ABI that is new enough.
    GuestAbi = "guest-abi" => GuestPolicy,
    /// HOST_DATA is the enrolled one.
    HostData = "host-data" => LaunchConfig,
    /// The configuration shown is the one that HOST_DATA names.
    Configuration = "configuration" => LaunchConfig,
    /// REPORT_DATA is of this session.
    Binding = "binding" => Binding,
    /// MEASUREMENT is allowed.
    Measurement = "measurement" => Measurement,
    /// ID_KEY_DIGEST is allowed.
    IdKey = "id-key" => GuestPolicy,
    /// AUTHOR_KEY_DIGEST is allowed.
    AuthorKey = "author-key" => GuestPolicy,
    /// GUEST_SVN is not below the floor, nor below what was granted before.
    GuestSvn = "guest-svn" => GuestPolicy,
    /// REPORTED_TCB is not below the floor.
    ReportedTcb = "reported-tcb" => Tcb,
    /// COMMITTED_TCB is not.
    CommittedTcb = "committed-tcb" => Tcb,
    /// LAUNCH_TCB is not.
    LaunchTcb = "launch-tcb" => Tcb,
    /// CURRENT and COMMITTED firmware are not below the floor.
    Firmware = "firmware" => Tcb,
    /// PLATFORM_INFO has the bits that it must have, and none of those that it must not.
    Platform = "platform" => GuestPolicy,
    /// The chip is allowed, or the provider.
    Chip = "chip" => Chip,
    /// The launch was not used under another key.
    Instance = "instance-reused" => InstanceReused,
    /// The VM may run.
    Lifecycle = "lifecycle" => Lifecycle,
    /// A guest's TPM is the VM's.
    UnlockTpm = "unlock-tpm" => Evidence,
    /// What the guest's TPM signed holds.
    UnlockQuote = "unlock-quote" => Binding,
    /// The guest's TPM is the newest instance's of a VM that may run.
    UnlockInstance = "unlock-instance" => Lifecycle,
    /// There is a secret of that name.
    UnlockName = "unlock-name" => Order,
    /// The guest was started as the tenant wants it.
    UnlockPcrs = "unlock-pcrs" => Measurement,
    /// The request fits the session.
    Order = "order" => Order,
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub rule: Rule,
    /// What it wants.
    pub wanted: String,
    /// What there was.
    pub seen: String,
}

impl Refusal {
    /// Takes the texts, as far as a log has room for them.
    #[must_use]
    pub fn new(rule: Rule, wanted: impl fmt::Display, seen: impl fmt::Display) -> Self {
        Self { rule, wanted: cut(&wanted.to_string()), seen: cut(&seen.to_string()) }
    }

    /// What the VM is told.
    #[must_use]
    pub const fn reason(&self) -> DeniedReason {
        self.rule.reason()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: wanted {}; seen {}", self.rule.word(), self.wanted, self.seen)
    }
}

impl From<DeniedReason> for Refusal {
    /// Of what the rules of one VM's row decide.
    fn from(reason: DeniedReason) -> Self {
        match reason {
            DeniedReason::Lifecycle => {
                Self::new(Rule::Lifecycle, "a VM that may run", "one that is halted, retired or worn out")
            }
            DeniedReason::GuestPolicy => {
                Self::new(Rule::GuestSvn, "at least the GUEST_SVN that had keys before", "an older one")
            }
            _ => Self::new(Rule::Order, "a request that fits the session", "another"),
        }
    }
}

/// `Ok` if `ok`, the refusal otherwise.
pub(crate) fn holds(ok: bool, refusal: impl FnOnce() -> Refusal) -> Result<(), Refusal> {
    if ok { Ok(()) } else { Err(refusal()) }
}

fn cut(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { '?' } else { one }).take(TEXT_CHARS_MAX).collect()
}

/// One of a list, as people read it.
pub(super) fn one_of(shown: impl ExactSizeIterator<Item = String>) -> String {
    let count = shown.len();
    if count == 0 {
        return "one of an empty list".to_owned();
    }
    let few = shown.take(SHOWN_MAX).collect::<Vec<_>>().join(" or ");
    if count > SHOWN_MAX { format!("{few} or one of {} more", count - SHOWN_MAX) } else { few }
}
