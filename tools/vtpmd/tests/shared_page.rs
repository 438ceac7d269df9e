//! A guest's driver on a page of memory that it shares with the daemon, each in its own threads.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use husk::frontend::crb::Layout;
use husk::seams::GuestPage;
use husk_vtpmd::Serving;
use husk_vtpmd::cli::write_tables;
use husk_vtpmd::shared::{Poller, SharedError, Window, layout};
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{BenchMachine, turn};

const AT: u64 = 0x10_0000;
const RAM_BYTES: u64 = 0x20_0000;
/// Waiting longer than this is a defect, not a verdict on speed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A driver as Linux's `tpm_crb` does it, on a mapping of its own.
struct Driver {
    page: Window,
    base: u32,
}

impl Driver {
    fn wait(&self, what: &str, register: usize, mask: u32, wanted: u32) {
        let start = Instant::now();
        while self.page.load(register) & mask != wanted {
            assert!(start.elapsed() < PATIENCE, "the driver waits in vain for {what}");
            std::thread::yield_now();
        }
    }

    fn begin(&mut self, command: &[u8]) -> usize {
        self.page.store(0x08, 1);
        self.wait("the locality", 0x00, 0x82, 0x82);
        self.page.store(0x40, 1);
        self.wait("ready", 0x40, 1, 0);
        let buffer = (self.page.load(0x5C) - self.base) as usize;
        assert!(command.len() <= self.page.load(0x58) as usize);
        self.page.copy_out(buffer, command);
        self.page.store(0x48, 0);
        self.page.store(0x4C, 1);
        buffer
    }

    fn end(&mut self, buffer: usize) -> Vec<u8> {
        self.wait("the response", 0x4C, 1, 0);
        let mut header = [0; 10];
        self.page.copy_in(buffer, &mut header);
        let mut response = vec![0; u32::from_be_bytes(header[2..6].try_into().unwrap()) as usize];
        self.page.copy_in(buffer, &mut response);
        self.page.store(0x40, 2);
        self.wait("idle", 0x40, 2, 0);
        self.page.store(0x08, 2);
        self.wait("the release", 0x00, 0x82, 0x80);
        response
    }

    fn send(&mut self, command: &[u8]) -> Vec<u8> {
        let buffer = self.begin(command);
        self.end(buffer)
    }
}

/// RAM, a machine that is on, a poller and a driver.
struct House {
    serving: Arc<Serving>,
    poller: Option<Poller>,
    driver: Driver,
    _folder: tempfile::TempDir,
}

impl House {
    fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ram = folder.path().join("ram");
        File::create(&ram).unwrap().set_len(RAM_BYTES).unwrap();
        let layout: Layout = layout(AT).unwrap();
        let mut machine = BenchMachine::boxed();
        machine.power_on().unwrap();
        let serving = Serving::new(machine);
        let poller = Poller::start(&serving, layout, Window::open(&ram, &layout).unwrap());
        let driver = Driver { page: Window::open(&ram, &layout).unwrap(), base: layout.base() };
        driver.wait("the registers", 0x30, 0xF, 1);
        Self { serving, poller: Some(poller), driver, _folder: folder }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.serving.end();
        self.poller.take().unwrap().stop();
        self.serving.shut_down().unwrap();
    }
}

fn code(response: &[u8]) -> u32 {
    u32::from_be_bytes(response[6..10].try_into().unwrap())
}

const STARTUP_CLEAR: [u8; 12] = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0];

fn random(count: u8) -> [u8; 12] {
    [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7B, 0, count]
}

#[test]
fn a_driver_like_linux_gets_right_answers() {
    let _turn = turn();
    let mut house = House::open();
    assert_eq!(code(&house.driver.send(&random(8))), 0x100, "not started up");
    assert_eq!(code(&house.driver.send(&STARTUP_CLEAR)), 0);
    let mut seen = std::collections::HashSet::new();
    for count in 1..=32 {
        let response = house.driver.send(&random(count));
        assert_eq!((code(&response), response.len()), (0, 12 + usize::from(count)));
        seen.insert(response);
    }
    assert_eq!(seen.len(), 32);
    assert_eq!(code(&house.driver.send(&[0x80, 1, 0, 0, 0xFF, 0xFF, 0, 0, 1, 0x7B])), 0x142);
    assert_eq!(code(&house.driver.send(&[0x12, 0x34, 0, 0, 0, 10, 0, 0, 1, 0x7B])), 0x1E);
}

/// TPM2_CreatePrimary of an RSA-2048 key with fresh unique bytes, so that the search for primes takes its time.
fn create_primary(unique: u8) -> Vec<u8> {
    let session = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
    let sensitive = [0, 4, 0, 0, 0, 0];
    let template = [0, 1, 0, 0x0B, 0, 3, 4, 0x72, 0, 0, 0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 8, 0, 0, 0, 0, 0];
    let public = [&template[..], &[0, 4, unique, 1, 2, 3]].concat();
    let size = u16::try_from(public.len()).unwrap().to_be_bytes();
    let body = [&[0x40, 0, 0, 1], &session[..], &sensitive, &size, &public, &[0, 0, 0, 0, 0, 0]].concat();
    let whole = u32::try_from(10 + body.len()).unwrap().to_be_bytes();
    [&[0x80, 2], &whole[..], &[0, 0, 1, 0x31], &body].concat()
}

#[test]
fn a_cancel_during_a_command_is_seen_and_the_next_command_is_not_touched() {
    let _turn = turn();
    let mut house = House::open();
    assert_eq!(code(&house.driver.send(&STARTUP_CLEAR)), 0);
    let mut cancelled = 0;
    for unique in 0..20 {
        let buffer = house.driver.begin(&create_primary(unique));
        house.driver.page.store(0x48, 1);
        let response = house.driver.end(buffer);
        match code(&response) {
            0x909 => cancelled += 1,
            0 => {
                let handle: [u8; 4] = response[10..14].try_into().unwrap();
                let flush = [&[0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x65], &handle[..]].concat();
                assert_eq!(code(&house.driver.send(&flush)), 0);
            }
            other => panic!("neither done nor cancelled: {other:#x}"),
        }
        assert_eq!(code(&house.driver.send(&random(8))), 0);
    }
    assert!(cancelled > 0, "no cancel was ever seen");
}

#[test]
fn a_page_outside_the_memory_file_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let ram = folder.path().join("ram");
    let at = layout(AT).unwrap();
    assert!(matches!(Window::open(&ram, &at), Err(SharedError::Memory { .. })));
    File::create(&ram).unwrap().set_len(AT).unwrap();
    let refused = Window::open(&ram, &at).err().unwrap().to_string();
    assert!(refused.contains("the CRB would end at 0x101000"), "{refused}");
    assert!(matches!(layout(AT + 1), Err(SharedError::Address { .. })));
    assert!(write_tables(folder.path(), &at).is_ok());
    assert!(std::fs::read(folder.path().join("tpm2.aml")).unwrap().starts_with(b"TPM2"));
    assert!(write_tables(&ram, &at).is_err());
}

#[test]
fn tables_never_take_the_place_of_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = layout(AT).unwrap();
    let ssdt = folder.path().join("ssdt.aml");
    std::fs::write(&ssdt, "mine").unwrap();
    let refused = write_tables(folder.path(), &at).unwrap_err().to_string();
    assert!(refused.contains("is there already"), "{refused}");
    assert_eq!(std::fs::read(&ssdt).unwrap(), b"mine");
    std::fs::remove_file(&ssdt).unwrap();
    assert!(write_tables(folder.path(), &at).is_ok());
    assert!(write_tables(folder.path(), &at).is_ok(), "the same tables again are no other file");
    assert!(write_tables(folder.path(), &layout(AT + 0x10000).unwrap()).is_err());
}
