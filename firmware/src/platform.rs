//! The platform `Emulated`: what the component stands on where there is no SEV-SNP.
//!
//! **What.** [`Emulated`] gathers the component's seams over the firmware's own devices: the volume's disk, where there is one, the broker's port of
//! the channel, and reports from the simulated processor at the channel's other port.
//! **Trust.** None in disk and channel. The secrets page comes from the host, so whoever runs the host could forge every
//! report: that is what 'simulated' means, and why a broker refuses its root unless it is told to accept it. Messages and reports
//! themselves have the real format, and are checked as on silicon.
//! **Laws.** The secrets page is taken once, from memory that a launch filled, and never crosses the channel; its keys are wiped where
//! they were. A failed report is final.
//! **Not here.** Where the pages and frames go: `tools/launcher`.

use crate::virtio::DeviceFault;
use crate::virtio::disk::{Requests, VolumeDisk};
use crate::virtio::post::{Port, Post, PostError, ProcessorWord, Wire};
use core::cell::RefCell;
use core::fmt;
use husk::attest::guest_message::{
    GuestRequest, GuestRequestError, Messenger, PAGE_BYTES, SecretsPage, TscInfo,
};
use husk::attest::launch::{LaunchConfig, Mode};
use husk::attest::{AttestFault, binding, report};
use husk::seams::{
    Channel, ChannelError, Clock, Console, DerivedKeyRequest, Entropy, Platform, REPORT_BYTES,
    REPORT_DATA_BYTES, Reporter, ReporterError,
};
use husk::secret::Secret;
use zeroize::Zeroize;

/// How long the broker may take, in milliseconds.
const BROKER_PATIENCE_MS: u64 = 5_000;
/// How long the simulated processor may take, in milliseconds.
const PROCESSOR_PATIENCE_MS: u64 = 10_000;

/// The seams that need no device.
#[expect(missing_debug_implementations, reason = "the seams are trait objects")]
pub struct Own<'o> {
    /// Entropy of the processor.
    pub entropy: &'o mut dyn Entropy,
    /// The processor's own clock.
    pub clock: &'o dyn Clock,
    /// Where lines go.
    pub console: &'o mut dyn Console,
}

/// See the module's head.
pub struct Emulated<R, W> {
    disk: Option<VolumeDisk<R>>,
    post: RefCell<Post<W>>,
    messenger: Messenger,
}

impl<R, W> fmt::Debug for Emulated<R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Emulated")
    }
}

impl<R: Requests, W: Wire> Emulated<R, W> {
    /// Takes the devices and the secrets page of this launch, which is wiped: nobody here speaks with the other keys.
    ///
    /// # Errors
    /// [`DeviceFault::NoSecrets`].
    pub fn open(
        disk: Option<VolumeDisk<R>>,
        post: Post<W>,
        page: &mut [u8; PAGE_BYTES],
    ) -> Result<Self, DeviceFault> {
        let secrets = SecretsPage::take(page).map_err(|_| DeviceFault::NoSecrets);
        page.zeroize();
        Ok(Self { disk, post: RefCell::new(post), messenger: Messenger::new(secrets?) })
    }

    /// Whether the machine has what the TPM of that configuration needs, if it is this launch's: the component finds out.
    #[must_use]
    pub fn suffice_for(&self, config: &[u8]) -> bool {
        let keeps_nothing = || LaunchConfig::parse(config).is_ok_and(|config| config.mode == Mode::Ephemeral);
        self.disk.is_some() || keeps_nothing()
    }

    /// MEASUREMENT of this launch, as this VM's own report states it.
    ///
    /// # Errors
    /// [`DeviceFault::NoReport`].
    pub fn launch_measurement(&mut self) -> Result<[u8; 48], DeviceFault> {
        let mut bytes = [0; REPORT_BYTES];
        let mut processor = Processor { post: &self.post, messenger: &mut self.messenger };
        processor
            .report(&binding::identify_data(), &mut bytes)
            .map_err(|_: ReporterError| DeviceFault::NoReport)?;
        let report = report::Report::parse(&bytes).map_err(|_| DeviceFault::NoReport)?;
        Ok(*report.measurement())
    }

    /// How this launch's counter runs, as the processor says.
    ///
    /// # Errors
    /// [`DeviceFault::NoTscInfo`].
    pub fn tsc_info(&mut self) -> Result<TscInfo, DeviceFault> {
        let mut mailbox = Mailbox { post: &self.post };
        self.messenger.tsc_info(&mut mailbox).map_err(|_: AttestFault| DeviceFault::NoTscInfo)
    }

    /// Lends all seams for one call.
    pub fn with<T>(&mut self, own: Own<'_>, act: impl FnOnce(&mut Platform<'_>) -> T) -> T {
        let mut channel = Broker { post: &self.post };
        let mut reporter = Processor { post: &self.post, messenger: &mut self.messenger };
        act(&mut Platform {
            disk: &mut self.disk,
            channel: &mut channel,
            reporter: &mut reporter,
            entropy: own.entropy,
            clock: Some(own.clock),
            console: own.console,
        })
    }
}

struct Broker<'p, W> {
    post: &'p RefCell<Post<W>>,
}

impl<W: Wire> Channel for Broker<'_, W> {
    fn exchange(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, ChannelError> {
        let mut post = self.post.try_borrow_mut().map_err(|_| ChannelError::Unreachable)?;
        post.exchange(Port::Broker, &[request], reply, BROKER_PATIENCE_MS).map_err(|error| match error {
            PostError::NoAnswer => ChannelError::Unreachable,
            PostError::TooLong => ChannelError::ReplyTooLong,
        })
    }
}

/// The processor's mailbox: a page out, a page back.
struct Mailbox<'p, W> {
    post: &'p RefCell<Post<W>>,
}

impl<W: Wire> GuestRequest for Mailbox<'_, W> {
    fn exchange(
        &mut self,
        request: &[u8; PAGE_BYTES],
        response: &mut [u8; PAGE_BYTES],
    ) -> Result<(), GuestRequestError> {
        let mut post = self.post.try_borrow_mut().map_err(|_| GuestRequestError::Failed)?;
        let word = [ProcessorWord::GuestRequest as u8];
        match post.exchange(Port::Processor, &[&word, request], response, PROCESSOR_PATIENCE_MS) {
            Ok(PAGE_BYTES) => Ok(()),
            Ok(_) | Err(_) => Err(GuestRequestError::Failed),
        }
    }
}

struct Processor<'p, W> {
    post: &'p RefCell<Post<W>>,
    messenger: &'p mut Messenger,
}

impl<W: Wire> Reporter for Processor<'_, W> {
    fn report(
        &mut self,
        data: &[u8; REPORT_DATA_BYTES],
        report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), ReporterError> {
        let mut mailbox = Mailbox { post: self.post };
        self.messenger.report(&mut mailbox, data, 0, report).map_err(told)
    }

    fn derived_key(&mut self, asked: &DerivedKeyRequest) -> Result<Secret<32>, ReporterError> {
        let mut mailbox = Mailbox { post: self.post };
        self.messenger.derive_key(&mut mailbox, &asked.into()).map_err(told)
    }

    fn certificate(&mut self, into: &mut [u8]) -> usize {
        let word = [ProcessorWord::Certificate as u8];
        // None is an allegation like any other: the broker asks for the certificate, and says so.
        self.post.try_borrow_mut().map_or(0, |mut post| {
            post.exchange(Port::Processor, &[&word], into, PROCESSOR_PATIENCE_MS).unwrap_or_default()
        })
    }
}

/// What a fault of the messages is to who asked.
const fn told(fault: AttestFault) -> ReporterError {
    match fault {
        AttestFault::ProcessorRefused => ReporterError::Refused,
        _ => ReporterError::Failed,
    }
}
