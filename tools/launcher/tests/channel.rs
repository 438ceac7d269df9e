//! Laws of the channel with both of its ends: the firmware's platform, and the launcher in front of a simulated processor.

use husk::attest::report::Report;
use husk::seams::{ChannelError, Clock, Console, Entropy, EntropyError, Geometry, Platform, REPORT_BYTES};
use husk_firmware::platform::{Emulated, Own};
use husk_firmware::virtio::DeviceFault;
use husk_firmware::virtio::disk::{Lost, Requests, VolumeDisk};
use husk_firmware::virtio::post::{Broken, Post, Wire};
use husk_launcher::channel::{Ends, serve};
use husk_psp::{
    Identity, Page, PageType, Processor, RemoteGuest, Stretch, expected_measurement_of, os_entropy, server,
};
use husk_relay::pipe::{Pipe, PipeError};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

const HOST_DATA: [u8; 32] = [0xD0; 32];
const POLICY: u64 = 0x3_0133;

/// The firmware's end of the stream, as a device would give it.
struct Socket(UnixStream, Instant);

impl Wire for Socket {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.1.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn send(&mut self, bytes: &[u8], _: u64) -> Result<(), Broken> {
        self.0.write_all(bytes).map_err(|_| Broken)
    }

    fn receive(&mut self, into: &mut [u8], deadline_ms: u64) -> Result<usize, Broken> {
        let left = deadline_ms.saturating_sub(self.now_ms()).max(1);
        self.0.set_read_timeout(Some(Duration::from_millis(left))).map_err(|_| Broken)?;
        Ok(self.0.read(into).unwrap_or_default())
    }
}

struct NoDisk;

impl Requests for NoDisk {
    fn request(&mut self, _: [&[u8]; 2], _: [&mut [u8]; 2], _: u64) -> Result<usize, Lost> {
        Err(Lost)
    }
}

/// A broker that says every frame backwards, and nothing to an empty one.
struct Backwards;

impl Pipe for Backwards {
    fn carry(&self, frame: &[u8]) -> Result<Vec<u8>, PipeError> {
        if frame.is_empty() { Err(PipeError::Dropped) } else { Ok(frame.iter().rev().copied().collect()) }
    }
}

struct Nothing;

impl Entropy for Nothing {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), EntropyError> {
        Err(EntropyError)
    }
}

impl Clock for Nothing {
    fn now_ms(&self) -> u64 {
        0
    }
}

impl Console for Nothing {
    fn line(&mut self, _: &'static str, _: u32) {}
}

fn stretches() -> Vec<Stretch> {
    let stretch =
        |page_type, gpa, byte, pages: usize| Stretch { page_type, gpa, bytes: vec![byte; pages * 4096] };
    vec![
        stretch(PageType::Normal, 0x1000_0000, 7, 300),
        stretch(PageType::Zero, 0x1012_C000, 0, 2),
        Stretch::secrets(0x107F_F000),
    ]
}

/// A launched machine: the firmware's post, whose other end is the launcher's, and its secrets page.
#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn launched() -> (Post<Socket>, Zeroizing<Page>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("psp");
    let listener = server::listen(&path).unwrap();
    let processor = Processor::shared(Identity::published(1).unwrap(), os_entropy());
    std::thread::spawn(move || server::serve(&listener, &processor));
    let (guest, secrets) = RemoteGuest::launch_stretches(&path, &stretches(), &HOST_DATA, POLICY).unwrap();
    let ends = Ends { broker: Arc::new(Backwards), processor: Arc::new(Mutex::new(guest)) };
    let (firmware, host) = UnixStream::pair().unwrap();
    std::thread::spawn(move || serve(host, &ends));
    (Post::new(Socket(firmware, Instant::now())), secrets)
}

#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn platform() -> Emulated<NoDisk, Socket> {
    let (post, mut page) = launched();
    Emulated::open(Some(disk()), post, &mut page).unwrap()
}

const fn disk() -> VolumeDisk<NoDisk> {
    VolumeDisk::new(NoDisk, Geometry { size_bytes: 1 << 20, block_bytes: 512 })
}

fn with<T>(emulated: &mut Emulated<NoDisk, Socket>, act: impl FnOnce(&mut Platform<'_>) -> T) -> T {
    emulated.with(Own { entropy: &mut Nothing, clock: &Nothing, console: &mut Nothing }, act)
}

#[test]
fn what_is_measured_ahead_of_the_launch_is_what_the_firmwares_own_report_states() {
    let mut emulated = platform();
    assert_eq!(emulated.launch_measurement(), Ok(expected_measurement_of(&stretches())));
    let mut bytes = [0; REPORT_BYTES];
    with(&mut emulated, |platform| platform.reporter.report(&[3; 64], &mut bytes)).unwrap();
    assert_eq!(Report::parse(&bytes).unwrap().host_data(), &HOST_DATA);
    let mut certificate = [0; 4096];
    assert!(with(&mut emulated, |platform| platform.reporter.certificate(&mut certificate)) > 500);
}

#[test]
fn frames_reach_the_broker_and_its_answers_come_back() {
    let mut emulated = platform();
    let mut reply = [0; 8192];
    for length in [1, 2, 4095, 8192] {
        let request: Vec<u8> = (0..length).map(|index: usize| index.to_le_bytes()[0]).collect();
        let got = with(&mut emulated, |platform| platform.channel.exchange(&request, &mut reply));
        assert_eq!(got, Ok(length));
        assert!(reply[..length].iter().rev().eq(request.iter()));
    }
    let got = with(&mut emulated, |platform| platform.channel.exchange(&[], &mut reply));
    assert_eq!(got, Err(ChannelError::Unreachable));
}

#[test]
fn the_secrets_page_serves_once_and_holds_no_key_afterwards() {
    let (post, mut page) = launched();
    assert!(Emulated::open(Some(disk()), post, &mut page).is_ok());
    assert_eq!(*page, [0; size_of::<Page>()]);
    let (post, _) = launched();
    assert_eq!(Emulated::open(Some(disk()), post, &mut page).err(), Some(DeviceFault::NoSecrets));
}
