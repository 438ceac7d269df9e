//! Peers over the sockets: tpm2-tools by tpm2-tss' `swtpm` TCTI, swtpm_ioctl, and QEMU's emulator backend.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod support;

use husk_vtpmd::Serving;
use husk_vtpmd::server::{Address, Server, Sockets};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, MutexGuard};
use support::{BenchMachine, is_installed, turn};
use tempfile::TempDir;

const SWTPM_IOCTL: &str = "/usr/bin/swtpm_ioctl";
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// A machine with sockets, for as long as this value lives.
struct House {
    serving: Arc<Serving>,
    server: Option<Server>,
    data: Address,
    control: Address,
    folder: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl House {
    fn unix() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = |name| Address::Unix(folder.path().join(name));
        let (data, control) = (address("data"), address("control"));
        Self::open(folder, data, control)
    }

    /// On loopback, control one above data, as the TCTI expects it.
    fn tcp() -> Self {
        let pair = (0..100).find_map(|_| {
            let data = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut address = data.local_addr().unwrap();
            address.set_port(address.port().checked_add(1)?);
            let control = TcpListener::bind(address).ok()?;
            Some((data.local_addr().unwrap(), control.local_addr().unwrap()))
        });
        let (data, control) = pair.unwrap();
        Self::open(tempfile::tempdir().unwrap(), Address::Tcp(data), Address::Tcp(control))
    }

    fn open(folder: TempDir, data: Address, control: Address) -> Self {
        let turn = turn();
        let serving = Serving::new(BenchMachine::boxed());
        let sockets =
            Sockets { data: Some(data.clone()), control: Some(control.clone()), ..Sockets::default() };
        let server = Server::start(&serving, &sockets).unwrap();
        Self { serving, server: Some(server), data, control, folder, _turn: turn }
    }

    fn path(&self, address: &Address) -> PathBuf {
        match address {
            Address::Unix(path) => path.clone(),
            Address::Tcp(_) => panic!("a Unix socket is wanted"),
        }
    }

    fn port(&self) -> u16 {
        match &self.data {
            Address::Tcp(address) => address.port(),
            Address::Unix(_) => panic!("a TCP socket is wanted"),
        }
    }

    fn tool(&self, line: &str) -> Vec<u8> {
        let mut words = line.split(' ');
        let program = PathBuf::from("/usr/bin").join(words.next().unwrap());
        let output = Command::new(program)
            .args(words)
            .current_dir(self.folder.path())
            .env("TPM2TOOLS_TCTI", format!("swtpm:host=127.0.0.1,port={}", self.port()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
        output.stdout
    }

    fn ioctl(&self, line: &str) -> (bool, String) {
        let path = self.path(&self.control);
        let output =
            Command::new(SWTPM_IOCTL).arg("--unix").arg(path).args(line.split(' ')).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    fn ioctl_ok(&self, line: &str) -> String {
        let (succeeded, said) = self.ioctl(line);
        assert!(succeeded, "swtpm_ioctl {line}: {said}");
        said
    }

    /// One raw command on a data connection of its own.
    fn command(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(self.path(&self.data)).unwrap();
        stream.write_all(bytes).unwrap();
        response(&mut stream)
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.serving.end();
        self.server.take().unwrap().stop();
        self.serving.shut_down().unwrap();
    }
}

fn response(stream: &mut impl Read) -> Vec<u8> {
    let mut header = [0; 10];
    stream.read_exact(&mut header).unwrap();
    let size = u32::from_be_bytes(header[2..6].try_into().unwrap()) as usize;
    let mut rest = vec![0; size - 10];
    stream.read_exact(&mut rest).unwrap();
    [&header[..], &rest].concat()
}

fn code(response: &[u8]) -> u32 {
    u32::from_be_bytes(response[6..10].try_into().unwrap())
}

const STARTUP_CLEAR: [u8; 12] = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0];
const READ_CLOCK: [u8; 10] = [0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x81];

#[test]
fn tpm2_tools_work_over_the_swtpm_tcti() {
    if !is_installed("/usr/bin/tpm2_startup") {
        return;
    }
    let house = House::tcp();
    let mut control = TcpStream::connect(("127.0.0.1", house.port() + 1)).unwrap();
    control.write_all(&[0, 0, 0, 2, 0, 0, 0, 0]).unwrap();
    let mut result = [0; 4];
    control.read_exact(&mut result).unwrap();
    assert_eq!(result, [0; 4]);

    house.tool("tpm2_startup -c");
    assert_eq!(house.tool("tpm2_getrandom 16").len(), 16);
    let before = house.tool("tpm2_pcrread sha256:16");
    house.tool("tpm2_pcrextend 16:sha256=00000000000000000000000000000000000000000000000000000000000000aa");
    assert_ne!(house.tool("tpm2_pcrread sha256:16"), before);
    std::fs::write(house.folder.path().join("eight"), b"8 bytes!").unwrap();
    house.tool("tpm2_nvdefine 0x1500020 -s 8 -a ownerwrite|ownerread");
    house.tool("tpm2_nvwrite 0x1500020 -C o -i eight");
    assert_eq!(house.tool("tpm2_nvread 0x1500020 -C o -s 8"), b"8 bytes!");
    house.tool("tpm2_createprimary -C o -G ecc -c primary.ctx");
    house.tool("tpm2_flushcontext -t");
    house.tool("tpm2_create -C primary.ctx -i eight -u seal.pub -r seal.priv");
    house.tool("tpm2_flushcontext -t");
    house.tool("tpm2_load -C primary.ctx -u seal.pub -r seal.priv -c seal.ctx");
    house.tool("tpm2_flushcontext -t");
    assert_eq!(house.tool("tpm2_unseal -c seal.ctx"), b"8 bytes!");
    house.tool("tpm2_shutdown -c");
}

#[test]
fn swtpm_ioctl_works_every_switch() {
    if !is_installed(SWTPM_IOCTL) {
        return;
    }
    let house = House::unix();
    assert_eq!(code(&house.command(&READ_CLOCK)), 0x101, "off is failure, as QEMU expects before INIT");
    assert!(house.ioctl_ok("-c").contains("0x17cff"), "{}", house.ioctl_ok("-c"));
    house.ioctl_ok("-i");
    assert_eq!(code(&house.command(&STARTUP_CLEAR)), 0);
    assert!(house.ioctl_ok("-e").contains("tpmEstablished is 0"));
    house.ioctl_ok("-h measured");
    assert!(house.ioctl_ok("-e").contains("tpmEstablished is 1"));
    assert!(!house.ioctl("-r 2").0, "only localities 3 and 4 reset it");
    house.ioctl_ok("-r 3");
    assert!(house.ioctl_ok("-e").contains("tpmEstablished is 0"));
    house.ioctl_ok("-l 4");
    assert!(!house.ioctl("-l 5").0);
    house.ioctl_ok("-l 0");
    house.ioctl_ok("-C");
    assert!(house.ioctl_ok("--info 3").contains(r#""family":"2.0""#));
    house.ioctl_ok("-g");
    house.ioctl_ok("-v");
    house.ioctl_ok("--stop");
    assert_eq!(code(&house.command(&READ_CLOCK)), 0x101);
    house.ioctl_ok("-i");
    assert_eq!(code(&house.command(&READ_CLOCK)), 0, "resumed from volatile state: no Startup is needed");
    for blob in ["permanent", "volatile", "savestate"] {
        let file = house.folder.path().join(blob);
        let (succeeded, said) = house.ioctl(&format!("--save {blob} {}", file.display()));
        assert!(!succeeded, "no state leaves: {said}");
        assert!(std::fs::read(&file).unwrap_or_default().is_empty());
    }
    house.ioctl_ok("--stop");
    std::fs::write(house.folder.path().join("forged"), [7; 2000]).unwrap();
    let forged = house.folder.path().join("forged");
    assert!(!house.ioctl(&format!("--load permanent {}", forged.display())).0, "no state enters");
    assert!(!house.serving.is_over());
    house.ioctl_ok("-s");
    house.serving.wait_for_end();
}

#[test]
fn clients_that_vanish_or_talk_nonsense_harm_nobody() {
    let house = House::unix();
    let (data, control) = (house.path(&house.data), house.path(&house.control));
    let say = |path: &PathBuf, bytes: &[u8]| UnixStream::connect(path).unwrap().write_all(bytes);
    let init = [0, 0, 0, 2, 0, 0, 0, 0];
    for cut in 0..init.len() {
        say(&control, &init[..cut]).unwrap();
    }
    for cut in 0..STARTUP_CLEAR.len() {
        say(&data, &STARTUP_CLEAR[..cut]).unwrap();
    }
    let mut many: Vec<UnixStream> = (0..200).filter_map(|_| UnixStream::connect(&data).ok()).collect();
    drop(many.split_off(0));
    let mut stream = UnixStream::connect(&control).unwrap();
    stream.write_all(&[0xFF; 64]).unwrap();
    let mut said = vec![];
    stream.read_to_end(&mut said).unwrap();
    assert_eq!(said, [0, 0, 0, 10], "one refusal, then the end of the connection");
    for size in [0, 9, 4097, u32::MAX] {
        let mut stream = UnixStream::connect(&data).unwrap();
        let mut bytes = READ_CLOCK;
        bytes[2..6].copy_from_slice(&size.to_be_bytes());
        stream.write_all(&bytes).unwrap();
        let mut said = vec![];
        stream.read_to_end(&mut said).unwrap();
        assert_eq!((said.len(), code(&said)), (10, 0x142), "TPM_RC_COMMAND_SIZE, then the end");
    }
    let powered = UnixStream::connect(&control).map(|mut stream| {
        stream.write_all(&init).unwrap();
        let mut result = [0xFF; 4];
        stream.read_exact(&mut result).unwrap();
        result
    });
    assert_eq!(powered.unwrap(), [0; 4]);
    assert_eq!(code(&house.command(&STARTUP_CLEAR)), 0);
}

#[test]
fn a_buffer_size_is_agreed_on_only_while_the_tpm_is_off() {
    let house = House::unix();
    let mut stream = UnixStream::connect(house.path(&house.control)).unwrap();
    let mut ask = |message: [u32; 2]| {
        stream.write_all(&message.map(u32::to_be_bytes).concat()).unwrap();
        let mut reply = [0; 16];
        stream.read_exact(&mut reply).unwrap();
        [0, 4, 8, 12].map(|at| u32::from_be_bytes(reply[at..at + 4].try_into().unwrap()))
    };
    assert_eq!(ask([0x11, 0]), [0, 4096, 3968, 4096]);
    assert_eq!(ask([0x11, 100]), [0, 3968, 3968, 4096]);
    assert_eq!(ask([0x11, 5000]), [0, 4096, 3968, 4096]);
    stream.write_all(&[0, 0, 0, 2, 0, 0, 0, 0]).unwrap();
    let mut result = [0xFF; 4];
    stream.read_exact(&mut result).unwrap();
    assert_eq!(result, [0; 4]);
}

/// A child that dies with this value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            self.0.wait().unwrap();
        }
    }
}

/// QEMU without a guest: it works the whole control protocol up to a running machine, and again at a reset.
fn qemu_starts_resets_and_quits(device: &str) {
    let house = House::unix();
    let monitor = house.folder.path().join("monitor");
    let arguments = [
        "-M q35 -m 32 -nodefaults -display none -no-user-config".to_owned(),
        format!("-chardev socket,id=c,path={}", house.path(&house.control).display()),
        format!("-tpmdev emulator,id=t,chardev=c -device {device},tpmdev=t"),
        format!("-qmp unix:{},server=on,wait=off", monitor.display()),
    ];
    let words: Vec<String> = arguments.iter().flat_map(|line| line.split(' ').map(str::to_owned)).collect();
    let child = Command::new(QEMU).args(&words).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut qemu = Killed(child);
    let stream = (0..600).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        UnixStream::connect(&monitor).ok()
    });
    let Some(mut stream) = stream else {
        let mut said = String::new();
        qemu.0.kill().unwrap();
        qemu.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        panic!("QEMU's monitor does not appear: {said}");
    };
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut ask = |question: &str, answer: &str| {
        stream.write_all(question.as_bytes()).unwrap();
        assert!(lines.any(|line| line.unwrap().contains(answer)), "{question} has no {answer}");
    };
    ask(r#"{"execute":"qmp_capabilities"}"#, "return");
    ask(r#"{"execute":"query-tpm"}"#, "emulator");
    ask(r#"{"execute":"query-status"}"#, "\"running\": true");
    ask(r#"{"execute":"system_reset"}"#, "RESET");
    ask(r#"{"execute":"query-status"}"#, "\"running\": true");
    ask(r#"{"execute":"quit"}"#, "SHUTDOWN");
    assert!(qemu.0.wait().unwrap().success());
    house.serving.wait_for_end();
}

#[test]
fn qemu_drives_the_emulator_backend_with_a_crb() {
    if is_installed(QEMU) {
        qemu_starts_resets_and_quits("tpm-crb");
    }
}

#[test]
fn qemu_drives_the_emulator_backend_with_a_tis() {
    if is_installed(QEMU) {
        qemu_starts_resets_and_quits("tpm-tis");
    }
}

#[test]
fn a_machine_that_was_shut_down_answers_with_failure() {
    let house = House::unix();
    assert!(house.serving.shut_down().is_ok());
    assert_eq!(code(&house.command(&READ_CLOCK)), 0x101);
}
