//! The TCG simulator's protocol: tpm2-tools by tpm2-tss' `mssim` TCTI, and clients that talk nonsense.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use husk_vtpmd::Serving;
use husk_vtpmd::server::{Address, Server, Sockets};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, MutexGuard};
use support::{BenchMachine, is_installed, turn};

/// A simulator's two sockets, for as long as this value lives.
struct Simulator {
    serving: Arc<Serving>,
    server: Option<Server>,
    data: SocketAddr,
    platform: SocketAddr,
    _turn: MutexGuard<'static, ()>,
}

impl Simulator {
    fn new() -> Self {
        let turn = turn();
        let pair = (0..100).find_map(|_| {
            let data = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut address = data.local_addr().unwrap();
            address.set_port(address.port().checked_add(1)?);
            let platform = TcpListener::bind(address).ok()?;
            Some((data.local_addr().unwrap(), platform.local_addr().unwrap()))
        });
        let (data, platform) = pair.unwrap();
        let serving = Serving::new(BenchMachine::boxed());
        let sockets = Sockets {
            data: Some(Address::Tcp(data)),
            mssim_platform: Some(Address::Tcp(platform)),
            ..Sockets::default()
        };
        let server = Some(Server::start(&serving, &sockets).unwrap());
        Self { serving, server, data, platform, _turn: turn }
    }

    /// A raw data channel that takes frames too, or does not.
    fn data_channel(takes_mssim_frames: bool) -> Self {
        let turn = turn();
        let data = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut machine = BenchMachine::boxed();
        machine.power_on().unwrap();
        let serving = Serving::new(machine);
        let sockets = Sockets { data: Some(Address::Tcp(data)), takes_mssim_frames, ..Sockets::default() };
        let server = Some(Server::start(&serving, &sockets).unwrap());
        Self { serving, server, data, platform: data, _turn: turn }
    }

    fn tool(&self, folder: &Path, line: &str) -> Vec<u8> {
        let mut words = line.split(' ');
        let output = Command::new(Path::new("/usr/bin").join(words.next().unwrap()))
            .args(words)
            .current_dir(folder)
            .env("TPM2TOOLS_TCTI", format!("mssim:host=127.0.0.1,port={}", self.data.port()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
        output.stdout
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.serving.end();
        self.server.take().unwrap().stop();
        self.serving.shut_down().unwrap();
    }
}

/// What comes after `bytes` until the other side has no more to say, or `expected` bytes have come.
fn ask(to: SocketAddr, bytes: &[u8], expected: u64) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(bytes).unwrap();
    let mut said = Vec::new();
    match stream.take(expected).read_to_end(&mut said) {
        Ok(_) => said,
        // The other side had left bytes of ours unread.
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            said
        }
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().copied().flat_map(u32::to_be_bytes).collect()
}

fn frame(locality: u8, command: &[u8]) -> Vec<u8> {
    let length = u32::try_from(command.len()).unwrap();
    [&words(&[8])[..], &[locality], &words(&[length]), command].concat()
}

const MSSIM_TCTI: &str = "/usr/lib/x86_64-linux-gnu/libtss2-tcti-mssim.so.0";
const POWER_ON: u32 = 1;
const POWER_OFF: u32 = 2;
const STARTUP_CLEAR: [u8; 12] = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0];
const READ_CLOCK: [u8; 10] = [0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x81];

#[test]
fn tpm2_tools_work_over_the_mssim_tcti() {
    if !is_installed("/usr/bin/tpm2_startup") || !is_installed(MSSIM_TCTI) {
        return;
    }
    let (simulator, folder) = (Simulator::new(), tempfile::tempdir().unwrap());
    let tool = |line: &str| simulator.tool(folder.path(), line);
    tool("tpm2_startup -c");
    assert_eq!(tool("tpm2_getrandom 16").len(), 16);
    std::fs::write(folder.path().join("eight"), b"8 bytes!").unwrap();
    tool("tpm2_nvdefine 0x1500020 -s 8 -a ownerwrite|ownerread");
    tool("tpm2_nvwrite 0x1500020 -C o -i eight");
    assert_eq!(tool("tpm2_nvread 0x1500020 -C o -s 8"), b"8 bytes!");
    tool("tpm2_createprimary -C o -G ecc -c primary.ctx");
    tool("tpm2_flushcontext -t");
    tool("tpm2_shutdown -c");
}

#[test]
fn the_platform_switches_the_tpm_and_a_frame_chooses_its_locality() {
    let simulator = Simulator::new();
    let platform = |signal: u32| ask(simulator.platform, &words(&[signal]), 4);
    let command = |locality, command: &[u8]| ask(simulator.data, &frame(locality, command), 14);
    let failure = [0, 0, 0, 10, 0x80, 1, 0, 0, 0, 10, 0, 0, 1, 1];
    assert_eq!(command(0, &READ_CLOCK), failure, "off is failure");
    assert_eq!(platform(POWER_ON), [0; 4]);
    assert_eq!(command(0, &STARTUP_CLEAR)[10..14], [0; 4]);
    assert_eq!(platform(POWER_ON), [0; 4], "it is on already");
    assert_eq!(command(0, &READ_CLOCK)[10..14], [0; 4], "and nothing happened to it");
    assert_eq!(command(3, &READ_CLOCK)[10..14], [0; 4]);
    assert_eq!(command(4, &READ_CLOCK)[10..14], [0, 0, 9, 7], "TPM_RC_LOCALITY: 4 is the platform's");
    assert_eq!(platform(17), [0; 4], "a reset");
    assert_eq!(command(0, &READ_CLOCK)[10..14], [0, 0, 1, 0], "TPM_RC_INITIALIZE");
    for signal in [9, 10, 11] {
        assert_eq!(platform(signal), [0; 4]);
    }
    assert_eq!(platform(POWER_OFF), [0; 4]);
    assert_eq!(command(0, &READ_CLOCK), failure);
    assert_eq!(ask(simulator.data, &words(&[15, 1]), 12), words(&[1, 1, 0]), "a handshake");
    assert_eq!(platform(21), Vec::<u8>::new(), "a stop is an end");
    simulator.serving.wait_for_end();
}

#[test]
fn what_is_no_frame_ends_its_connection_and_nothing_else() {
    let simulator = Simulator::new();
    let whole = frame(0, &STARTUP_CLEAR);
    for cut in 0..whole.len() {
        TcpStream::connect(simulator.data).unwrap().write_all(&whole[..cut]).unwrap();
    }
    let too_long = [&words(&[8])[..], &[0], &words(&[4097])].concat();
    for nonsense in [too_long, frame(5, &READ_CLOCK), READ_CLOCK.to_vec(), words(&[20]), words(&[21])] {
        assert_eq!(ask(simulator.data, &nonsense, 100), Vec::<u8>::new());
    }
    for unknown in [0, 3, 12, 13, 20, 30, u32::MAX] {
        assert_eq!(ask(simulator.platform, &words(&[unknown]), 100), Vec::<u8>::new());
    }
    assert!(!simulator.serving.is_over(), "the commands' socket stops nothing");
    assert_eq!(ask(simulator.platform, &words(&[POWER_ON]), 4), [0; 4]);
    assert_eq!(ask(simulator.data, &whole, 14)[10..14], [0; 4]);
    assert_eq!(
        ask(simulator.data, &frame(0, &[0x80]), 14)[..4],
        [0, 0, 0, 10],
        "too short is the TPM's to say"
    );
}

#[test]
fn frames_and_raw_commands_share_a_data_channel_only_where_that_is_asked_for() {
    let simulator = Simulator::data_channel(true);
    let framed = |locality| frame(locality, &READ_CLOCK);
    let end = words(&[20]);
    let said =
        ask(simulator.data, &[&STARTUP_CLEAR[..], &framed(3), &READ_CLOCK, &framed(4), &end].concat(), 1000);
    let (started, said) = said.split_at(10);
    let (in_frame, said) = said.split_at(4 + 35 + 4);
    let (raw, refused) = said.split_at(35);
    assert_eq!(started[6..], [0; 4]);
    assert_eq!(
        (&in_frame[..4], &in_frame[10..14], &in_frame[39..]),
        (&[0, 0, 0, 35][..], &[0; 4][..], &[0; 4][..])
    );
    assert_eq!((&raw[6..10], &raw[26..34]), (&[0; 4][..], &in_frame[30..38]), "the same counts, both ways");
    assert_eq!(refused, [0, 0, 0, 10, 0x80, 1, 0, 0, 0, 10, 0, 0, 9, 7, 0, 0, 0, 0], "never from locality 4");
    drop(simulator);
    let simulator = Simulator::data_channel(false);
    let refused = [0, 0xC4, 0, 0, 0, 10, 0, 0, 0, 0x1E];
    assert_eq!(ask(simulator.data, &framed(0), 100), refused, "TPM_RC_BAD_TAG, and the end");
}
