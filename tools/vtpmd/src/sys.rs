//! Calls of the kernel that the standard library does not have.
//!
//! # Soundness
//! Each function hands the kernel only pointers to live locals or slices of the stated length, and takes ownership of
//! each descriptor that the kernel made for us exactly once. [`Mapping`] owns a shared mapping until it is dropped.
//! Other processes write that memory at any time, so no reference to it ever exists: every access is one volatile read or
//! write of a byte or an aligned word, within the bounds that the constructor fixed. A host that truncates the file below
//! the mapping kills this process (SIGBUS): a denial of service that the owner of the file has anyway. The signal
//! handler touches nothing but an atomic, a descriptor that is never closed, and `errno`, which it restores.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI32, Ordering, fence};
use std::time::Duration;

#[expect(clippy::cast_possible_truncation, reason = "1")]
const AF_UNIX: libc::sa_family_t = libc::AF_UNIX as libc::sa_family_t;
#[expect(clippy::cast_possible_truncation, reason = "110")]
const SOCKADDR_BYTES: libc::socklen_t = size_of::<libc::sockaddr_un>() as libc::socklen_t;

/// Room for the control message of one descriptor, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
struct ControlRoom([u8; 64]);

/// Reads what has arrived, at most `into`'s length, and one descriptor if one came along.
pub(crate) fn receive(socket: &impl AsFd, into: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut room = ControlRoom([0; 64]);
    let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: all-zero is a valid `msghdr` (null pointers and lengths of zero).
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut room.0).cast();
    message.msg_controllen = room.0.len();
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `message` points to `into` and `room`, which outlive the call, with their own lengths.
    let count = unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    Ok((count, descriptor(&message)))
}

/// Takes the descriptors out of a received message, keeping the first and closing any other.
fn descriptor(message: &libc::msghdr) -> Option<OwnedFd> {
    let mut kept = None;
    // SAFETY: the kernel filled `message`'s control buffer and set its length.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while let Some(found) = NonNull::new(header) {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR yield aligned headers inside the buffer.
        let head = unsafe { found.read() };
        if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: the data of this header begins there.
            let data = unsafe { libc::CMSG_DATA(found.as_ptr()) };
            // SAFETY: arithmetic on a constant.
            let overhead = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = head.cmsg_len.saturating_sub(overhead) / size_of::<RawFd>();
            for n in 0..count {
                let at = data.cast::<RawFd>().wrapping_add(n);
                // SAFETY: `cmsg_len` says that `count` descriptors lie there; alignment is not assumed.
                let fd = unsafe { at.read_unaligned() };
                // SAFETY: the kernel made this descriptor for us, and nobody else has it.
                let owned = unsafe { OwnedFd::from_raw_fd(fd) };
                kept.get_or_insert(owned);
            }
        }
        // SAFETY: `found` is a header of `message`.
        header = unsafe { libc::CMSG_NXTHDR(message, found.as_ptr()) };
    }
    kept
}

/// Connects to a socket in the file system, waiting no longer than `timeout` for a listener whose queue is full.
pub(crate) fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    // SAFETY: all-zero is a valid `sockaddr_un`.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = AF_UNIX;
    let name = path.as_os_str().as_bytes();
    if name.len() >= address.sun_path.len() || name.contains(&0) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor for us, and nobody else has it.
    let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    // On a Unix socket the send timeout also bounds connect (unix(7), socket(7)).
    stream.set_write_timeout(Some(timeout))?;
    // SAFETY: `address` is a live `sockaddr_un` of that length, its path ended by a zero.
    match unsafe { libc::connect(fd, (&raw const address).cast(), SOCKADDR_BYTES) } {
        0 => Ok(stream),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes `file` this process's standard error.
pub(crate) fn stderr_into(file: &File) -> io::Result<()> {
    // SAFETY: no pointers are passed; `file` is open, and the standard error is closed only to be replaced at once.
    match unsafe { libc::dup2(file.as_raw_fd(), libc::STDERR_FILENO) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Leaves the terminal's session, so that its end is not this process's.
pub(crate) fn own_session() -> io::Result<()> {
    // SAFETY: no pointers are passed.
    match unsafe { libc::setsid() } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Milliseconds since boot, time spent suspended included.
pub(crate) fn boottime_ms() -> Option<u64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a live `timespec`.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) } != 0 {
        return None;
    }
    let seconds = u64::try_from(now.tv_sec).ok()?;
    let nanoseconds = u64::try_from(now.tv_nsec).ok()?;
    seconds.checked_mul(1000)?.checked_add(nanoseconds / 1_000_000)
}

/// The end of a pipe that a signal handler writes to; -1 before [`Signals::catch`].
static SIGNALLED: AtomicI32 = AtomicI32::new(-1);

/// SIGTERM and SIGINT, which no longer end the process.
pub(crate) struct Signals(UnixStream);

impl Signals {
    /// Catches both signals from now on, whichever thread they reach. Once in a process.
    pub(crate) fn catch() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        writer.set_nonblocking(true)?;
        let before = SIGNALLED.compare_exchange(-1, writer.as_raw_fd(), Ordering::AcqRel, Ordering::Acquire);
        if before.is_err() {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        // The handler uses this descriptor for as long as the process lives.
        std::mem::forget(writer);
        for signal in [libc::SIGTERM, libc::SIGINT] {
            catch(signal)?;
        }
        Ok(Self(reader))
    }

    /// Returns when one of them has come.
    pub(crate) fn wait(mut self) -> io::Result<()> {
        self.0.read_exact(&mut [0])
    }
}

fn catch(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: all-zero is a valid `sigaction`: an empty mask and no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int) = signalled;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `action` is live, and `signalled` does only what a signal handler may.
    match unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Only calls that signal-safety(7) lists, and leaves `errno` as it was. A full pipe already says what this would.
extern "C" fn signalled(_: libc::c_int) {
    // SAFETY: the thread's own `errno`, which lives as long as the thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { errno.read() };
    // SAFETY: one byte of a live array, to a descriptor that is never closed.
    unsafe { libc::write(SIGNALLED.load(Ordering::Acquire), [0u8].as_ptr().cast(), 1) };
    // SAFETY: as above.
    unsafe { errno.write(before) };
}

/// A part of a file that other processes have mapped too.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is memory that any thread may access; all accesses are volatile and the type has no other state.
unsafe impl Send for Mapping {}
// SAFETY: as above; concurrent volatile accesses to memory outside Rust's are what this type is for.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` of `file` from `offset`, a multiple of the page size, shared and writable.
    pub(crate) fn new(file: &File, offset: u64, bytes: usize) -> io::Result<Self> {
        let offset = i64::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that exists.
        let at =
            unsafe { libc::mmap(ptr::null_mut(), bytes, access, libc::MAP_SHARED, file.as_raw_fd(), offset) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(at.cast()) {
            Some(start) => Ok(Self { start, bytes }),
            None => Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The aligned word at `offset`; all ones outside.
    pub(crate) fn load(&self, offset: usize) -> u32 {
        let Some(at) = self.word(offset) else { return u32::MAX };
        // SAFETY: `at` is an aligned word inside the mapping.
        let value = unsafe { at.read_volatile() };
        // What the other side wrote before this word is read after it.
        fence(Ordering::Acquire);
        u32::from_le(value)
    }

    /// Writes the aligned word at `offset`; nothing outside.
    pub(crate) fn store(&self, offset: usize, value: u32) {
        let Some(at) = self.word(offset) else { return };
        // What was written before is seen before this word.
        fence(Ordering::Release);
        // SAFETY: `at` is an aligned word inside the mapping.
        unsafe { at.write_volatile(value.to_le()) }
    }

    /// Copies from `offset` on; what lies outside reads as ones.
    pub(crate) fn copy_in(&self, offset: usize, into: &mut [u8]) {
        for (n, byte) in into.iter_mut().enumerate() {
            *byte = match self.byte(offset, n) {
                // SAFETY: `at` is a byte inside the mapping.
                Some(at) => unsafe { at.read_volatile() },
                None => u8::MAX,
            };
        }
    }

    /// Copies to `offset` on; what would lie outside is dropped.
    pub(crate) fn copy_out(&self, offset: usize, from: &[u8]) {
        for (n, byte) in from.iter().enumerate() {
            if let Some(at) = self.byte(offset, n) {
                // SAFETY: `at` is a byte inside the mapping.
                unsafe { at.write_volatile(*byte) }
            }
        }
    }

    fn word(&self, offset: usize) -> Option<NonNull<u32>> {
        let inside = offset.is_multiple_of(4) && offset.checked_add(4)? <= self.bytes;
        // SAFETY: the offset is inside the mapping.
        inside.then(|| unsafe { self.start.add(offset) }.cast())
    }

    fn byte(&self, offset: usize, n: usize) -> Option<NonNull<u8>> {
        let at = offset.checked_add(n).filter(|at| *at < self.bytes)?;
        // SAFETY: the offset is inside the mapping.
        Some(unsafe { self.start.add(at) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping, and no reference to its memory exists.
        let unmapped = unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        if unmapped != 0 {
            eprintln!("vtpmd: cannot unmap the shared page: {}", io::Error::last_os_error());
        }
    }
}
