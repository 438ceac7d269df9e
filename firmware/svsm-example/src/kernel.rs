//! The shape of an SVSM's kernel, as far as a TPM sees it: what is there already where Husk is adopted.
//!
//! COCONUT-SVSM has these as traits (`BlockDriver`, `Read`, `Write`), as free functions (guest requests, guest memory, the counter) and as
//! statics. Here all are small traits in one value, so that a test can stand in for a kernel.

/// Why the kernel could not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SvsmError;

/// A block device: synchronous, nothing atomic above a block.
pub trait BlockDriver: Sync + Send {
    /// Fills `buf`, a multiple of the block size, from block `block_id`.
    ///
    /// # Errors
    /// [`SvsmError`].
    fn read_blocks(&self, block_id: usize, buf: &mut [u8]) -> Result<(), SvsmError>;

    /// Writes `buf`, a multiple of the block size, at block `block_id`, as one request.
    ///
    /// # Errors
    /// [`SvsmError`].
    fn write_blocks(&self, block_id: usize, buf: &[u8]) -> Result<(), SvsmError>;

    /// The size of a block, as a power of two.
    fn block_size_log2(&self) -> u8;

    /// The size of the device in bytes.
    fn size(&self) -> usize;

    /// Returns when what was written is durable.
    ///
    /// # Errors
    /// [`SvsmError`].
    fn flush(&self) -> Result<(), SvsmError>;
}

/// The device behind [`VsockStream`].
pub trait Vsock: Sync + Send {
    /// Opens a session to the host's `port`.
    ///
    /// # Errors
    /// [`SvsmError`] if nobody listens.
    fn connect(&self, port: u32) -> Result<u32, SvsmError>;

    /// Sends all of `buf`.
    ///
    /// # Errors
    /// [`SvsmError`] if the session is over, or not all was taken within `timeout_ms`.
    fn send(&self, session: u32, buf: &[u8], timeout_ms: u64) -> Result<(), SvsmError>;

    /// Fills `buf`.
    ///
    /// # Errors
    /// [`SvsmError`] if the stream ended before, or not all came within `timeout_ms`.
    fn recv(&self, session: u32, buf: &mut [u8], timeout_ms: u64) -> Result<(), SvsmError>;

    /// Ends the session; what is still under way in it is never received.
    fn shutdown(&self, session: u32);
}

/// A stream to the host; it ends with its value.
#[expect(missing_debug_implementations, reason = "a driver")]
pub struct VsockStream {
    device: &'static dyn Vsock,
    session: u32,
}

impl VsockStream {
    /// Opens a stream to the host's `port`.
    ///
    /// # Errors
    /// [`SvsmError`] if nobody listens.
    pub fn connect(device: &'static dyn Vsock, port: u32) -> Result<Self, SvsmError> {
        device.connect(port).map(|session| Self { device, session })
    }

    /// Sends all of `buf`.
    ///
    /// # Errors
    /// As [`Vsock::send`].
    pub fn write_all(&mut self, buf: &[u8], timeout_ms: u64) -> Result<(), SvsmError> {
        self.device.send(self.session, buf, timeout_ms)
    }

    /// Fills `buf`.
    ///
    /// # Errors
    /// As [`Vsock::recv`].
    pub fn read_exact(&mut self, buf: &mut [u8], timeout_ms: u64) -> Result<(), SvsmError> {
        self.device.recv(self.session, buf, timeout_ms)
    }
}

impl Drop for VsockStream {
    fn drop(&mut self) {
        self.device.shutdown(self.session);
    }
}

/// The kernel's driver of guest requests; nobody else speaks with VMPCK0.
pub trait GuestRequests: Sync + Send {
    /// Has the processor answer the MSG_REPORT_REQ at the front of `buffer`, and puts the decrypted MSG_REPORT_RSP there; its
    /// length in bytes. The host's table of certificates goes into `certs`, which stays zero where the host has none.
    ///
    /// # Errors
    /// [`SvsmError`]. It is final: the driver may have wiped its key.
    fn extended_report(&self, buffer: &mut [u8], certs: &mut [u8]) -> Result<usize, SvsmError>;
}

/// The memory of the guest whose call is served.
pub trait GuestMm: Sync + Send {
    /// Copies guest memory at `paddr` into `buf`.
    ///
    /// # Errors
    /// [`SvsmError`] unless all of it is the caller's own, private and validated memory.
    fn read_from_guest(&self, paddr: u64, buf: &mut [u8]) -> Result<(), SvsmError>;

    /// Copies `buf` to guest memory at `paddr`.
    ///
    /// # Errors
    /// As [`read_from_guest`](Self::read_from_guest).
    fn write_to_guest(&self, paddr: u64, buf: &[u8]) -> Result<(), SvsmError>;
}

/// The processor itself: its generator, its counter, and the log.
pub trait Cpu: Sync + Send {
    /// Fills `buf` from the kernel's generator, which RDSEED seeds.
    ///
    /// # Errors
    /// [`SvsmError`]; nothing may go on without randomness.
    fn random(&self, buf: &mut [u8]) -> Result<(), SvsmError>;

    /// The counter (RDTSC); trusted where Secure TSC is enabled.
    fn rdtsc(&self) -> u64;

    /// The counter's mean frequency in kilohertz (`TscInfo::mean_khz` of the component); `None` without Secure TSC.
    fn secure_tsc_khz(&self) -> Option<u64>;

    /// Lets others run for so many milliseconds.
    fn pause_ms(&self, span_ms: u32);

    /// Shows a line to the host.
    fn log(&self, line: &'static str, code: u32);

    /// Stops the machine: the C library called something that does not exist here.
    fn stop(&self, function: &'static str) -> !;
}

/// What the kernel lends a TPM, for ever.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "drivers")]
pub struct Kernel {
    /// The disk of the TPM alone.
    pub disk: &'static dyn BlockDriver,
    /// The way to the host's relay.
    pub vsock: &'static dyn Vsock,
    /// The way to the processor.
    pub greq: &'static dyn GuestRequests,
    /// The guest's memory.
    pub mm: &'static dyn GuestMm,
    /// The processor.
    pub cpu: &'static dyn Cpu,
}

/// The registers of a guest's call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestParams {
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// R8.
    pub r8: u64,
}
