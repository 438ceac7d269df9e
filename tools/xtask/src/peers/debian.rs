//! A Debian with initramfs-tools and sshd below the image: its initrd opens a volume with a key that it earns, and a client attests it by SSH.
//!
//! **What.** The hook and the keyscript of `tools/attester/guest`, taken along by Debian's own `update-initramfs` and run by its `cryptsetup-initramfs`; the forced command of the handbook's page on attesting a guest at work, behind Debian's sshd, with the
//! kernel's TPM and Debian's own rules for it. Two boots: in the second one the tenant keeps the key no more.
//! **Trust.** Debian's packages. Both ways out of the guest are serial lines, which write no memory.
//! **Laws.** Nobody types, and no file of the guest's has the key.
//! **Not here.** The conversations by themselves: `tools/attester/tests`, `peers/unlock.rs`.

use super::encrypted::formatted;
use super::{drawn_key, group, step};
use crate::below::{Below, PATIENCE};
use crate::failure::Failure;
use crate::guest::image;
use crate::process::Daemon;
use crate::product::text;
use crate::steps::{Step, Steps};
use crate::{attester, house, process, setup};
use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

const ARCHIVE: &str = "http://deb.debian.org/debian";
const SUITE: &str = "trixie";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// A kernel; what makes its initrd, and opens volumes there; who serves SSH, who owns the TPM, and what the first program asks for.
const PACKAGES: &str = "linux-image-cloud-amd64,initramfs-tools,cryptsetup-initramfs,busybox,zstd,openssh-server,tpm-udev,udev,kmod";
/// The volume's name in crypttab(5), and of its key at the broker; nothing extends this PCR where no firmware starts the kernel.
const NAME: &str = "data";
const PCR: &str = "sha256:12=";
const CRYPTTAB: &str = "data /dev/vda2 data luks,initramfs,keyscript=/usr/lib/husk/unlock-key\n";
const OPTIONS: &str = "HUSK_UNLOCK_OPTIONS=\"--broker /dev/ttyS1 --wait-seconds 120\"\n";
/// What clients may run.
const COMMAND: &str = "restrict,command=\"/usr/bin/husk-attest --bind /etc/ssh/ssh_host_ed25519_key.pub\" ";
/// Lines to the broker's relay and to clients.
const LINES: [&str; 2] = ["isa-serial,chardev=unlock,index=1", "isa-serial,chardev=ssh,index=2,irq=5"];
/// Sizes of the disk's two partitions, and where the first begins, in bytes.
const ROOT_BYTES: u64 = 768 << 20;
const VOLUME_BYTES: u64 = 32 << 20;
const FIRST_AT: u64 = 1 << 20;
const SECTOR_BYTES: u64 = 512;
/// A partition table's entries, their kind and the table's mark (UEFI 2.10, section 5.2.1: legacy MBR).
const ENTRIES_AT: u64 = 446;
const LINUX: u8 = 0x83;
const MARK: [u8; 2] = [0x55, 0xAA];

/// Runs both boots as steps, if `all` are run.
pub(super) fn into(steps: &mut Steps, all: bool) {
    if all {
        group(steps, "Debian with initramfs-tools and sshd", boots());
    }
}

/// What is made for the guest.
struct Made {
    kernel: PathBuf,
    initrd: PathBuf,
    disk: PathBuf,
    /// The client's own key.
    client: PathBuf,
}

fn boots() -> Result<Vec<Step>, Failure> {
    let folder = house::fresh_workshop("peers/debian")?;
    attester::make()?;
    let mut below = Below::set(&folder, setup::fetched_kernel()?, image()?)?;
    below.certify_keys()?;
    let key = folder.join("volume.key");
    let drawn = drawn_key(&key)?;
    let made = made(&folder, &below.vm.config, &key)?;
    let (_relay, unlock) = below.relay("unlock")?;
    let ssh = folder.join("ssh");
    let chardevs = [
        format!("socket,id=unlock,path={}", text(&unlock)),
        format!("socket,id=ssh,path={},server=on,wait=off", text(&ssh)),
    ];
    for (chardev, line) in chardevs.iter().zip(LINES) {
        below.qemu.extend(["-chardev", chardev, "-device", line].map(str::to_owned));
    }

    below.keep_secret(NAME, &key, &[&format!("{PCR}{}", "0".repeat(64))])?;
    let mut first = boot(&mut below, &made, 2)?;
    let mut steps =
        vec![step("initrd-opens-with-a-key-that-it-earned", says(&mut first, "GUEST volume open"))];
    says(&mut first, "GUEST listens 2")?;
    let known = folder.join("vm.known");
    let new = ["--known-hosts-out", &text(&known), "--host", "vm"];
    let anybody = ["-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile=/dev/null"];
    steps.push(step("attested-by-ssh", asked(&below, &made, (&ssh, &new), &anybody)));
    says(&mut first, "GUEST listens 1")?;
    let this_one = format!("UserKnownHostsFile={}", text(&known));
    let this_one = ["-o", "StrictHostKeyChecking=yes", "-o", &this_one];
    steps.push(step("and-again-as-the-host-that-was-attested", asked(&below, &made, (&ssh, &[]), &this_one)));
    first.wait_success(PATIENCE)?;
    if first.log_text().contains(&drawn) {
        return Err(Failure::failed("the console shows the key"));
    }

    below.forget_secret(NAME)?;
    let mut second = boot(&mut below, &made, 0)?;
    let shut =
        says(&mut second, "GUEST volume shut").and_then(|_| says(&mut second, "no secret of that name"));
    steps.push(step("removed-key-is-not-given", shut));
    second.wait_success(PATIENCE)?;
    let tree = made.kernel.with_file_name("");
    fs::remove_dir_all(&tree).map_err(|error| Failure::io("remove", &tree, &error))?;
    fs::remove_file(&made.disk).map_err(|error| Failure::io("remove", &made.disk, &error))?;
    Ok(steps)
}

fn boot(below: &mut Below, made: &Made, calls: u8) -> Result<Daemon, Failure> {
    let append =
        format!("console=ttyS0 panic=-1 root=/dev/vda1 init=/usr/local/sbin/init husk.calls={calls}");
    let [kernel, initrd, disk] = [&made.kernel, &made.initrd, &made.disk].map(|path| text(path));
    let words = ["--kernel", &kernel, "--initrd", &initrd, "--append", &append, "--disk", &disk];
    let volume = below.vm.disk.clone();
    below.start_words("debian", &volume, 1, &words)
}

/// Waits until the console has those words; the line.
fn says(machine: &mut Daemon, words: &str) -> Result<String, Failure> {
    let line = |console: &str| console.lines().find(|line| line.contains(words)).map(str::to_owned);
    machine.wait_until(PATIENCE, line).map(|line| line.trim().to_owned())
}

/// The verdict of `husk evidence ask`, through SSH.
fn asked(
    below: &Below,
    made: &Made,
    (socket, more): (&Path, &[&str]),
    hosts: &[&str],
) -> Result<String, Failure> {
    let product = below.product();
    let [authority, config, client] =
        [&product.path("authority.pem"), &below.vm.config, &made.client].map(|path| text(path));
    let proxy = format!("ProxyCommand=socat - UNIX-CONNECT:{}", text(socket));
    let expected = format!("{PCR}{}", "0".repeat(64));
    let mut ask = Command::new(&product.husk);
    ask.args(["evidence", "ask", "--ek-root", &authority, "--config", &config, "--broker", below.broker()]);
    ask.args(["--expect-pcr", &expected, "--timeout-seconds", "300"]).args(more);
    ask.args(["--", "ssh", "-F", "none", "-o", "GlobalKnownHostsFile=none", "-o", "BatchMode=yes"]);
    ask.args(["-o", &proxy, "-i", &client]).args(hosts).args(["attest@vm", "husk-attest"]);
    let told = process::output(&mut ask)?;
    let proven = told.lines().find(|line| line.contains("newest")).map(|line| line.trim().to_owned());
    proven.ok_or_else(|| Failure::failed(format!("it does not say that this is the newest instance: {told}")))
}

/// Installs the Debian, has it make its initrd, and puts it on a disk beside a volume that opens with that key.
fn made(folder: &Path, config: &Path, key: &Path) -> Result<Made, Failure> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| Failure::io("write", &path, &error)
    };
    let client = folder.join("client");
    process::output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&client))?;
    let public = client.with_extension("pub");
    let public = fs::read_to_string(&public).map_err(|error| Failure::io("read", &public, &error))?;
    let written = [
        ("crypttab", CRYPTTAB.to_owned()),
        ("options", OPTIONS.to_owned()),
        ("keys", COMMAND.to_owned() + &public),
    ];
    for (name, content) in written {
        fs::write(folder.join(name), content).map_err(io(&folder.join(name)))?;
    }
    let (tree, attester) = (folder.join("tree"), house::workshop("attester")?);
    let [root, guest] =
        ["tests/peers/debian", "tools/attester/guest/initramfs-tools"].map(|path| house::root().join(path));
    let installed: [(&str, PathBuf, &str); 9] = [
        ("755", attester.join("husk-unlock"), "usr/bin/husk-unlock"),
        ("755", attester.join("husk-attest"), "usr/bin/husk-attest"),
        ("755", guest.join("husk-unlock"), "etc/initramfs-tools/hooks/husk-unlock"),
        ("755", guest.join("unlock-key"), "usr/lib/husk/unlock-key"),
        ("644", config.to_owned(), "etc/husk/unlock/config"),
        ("644", folder.join("options"), "etc/husk/unlock/options"),
        ("644", folder.join("crypttab"), "etc/crypttab"),
        ("644", folder.join("keys"), "home/attest/.ssh/authorized_keys"),
        ("755", root.join("init"), "usr/local/sbin/init"),
    ];
    let mut install = Command::new("mmdebstrap");
    install.args(["--quiet", "--mode=root", "--variant=minbase", "--architectures=amd64"]);
    install.arg(format!("--keyring={KEYRING}")).arg(format!("--include={PACKAGES}"));
    install.arg("--aptopt=APT::Install-Recommends \"false\"");
    let installs =
        installed.map(|(mode, from, to)| format!("install -D -m {mode} '{}' \"$1/{to}\"", text(&from)));
    let first = "chroot \"$1\" useradd --create-home --shell /bin/sh --groups tss attest".to_owned();
    // Each guest makes host keys of its own.
    let last =
        ["rm \"$1\"/etc/ssh/ssh_host_*", "chroot \"$1\" update-initramfs -u -k all"].map(str::to_owned);
    for line in [first].into_iter().chain(installs).chain(last) {
        install.arg(format!("--customize-hook={line}"));
    }
    process::output(install.arg(SUITE).arg(&tree).arg(ARCHIVE))?;
    let disk = on_disk(folder, &tree, key)?;
    let [kernel, initrd] = ["vmlinuz", "initrd.img"].map(|name| tree.join(name));
    Ok(Made { kernel, initrd, disk, client })
}

/// A disk with two partitions: the root, and the volume.
fn on_disk(folder: &Path, tree: &Path, key: &Path) -> Result<PathBuf, Failure> {
    let [disk, root, volume] = ["disk.raw", "root.ext4", "volume.luks"].map(|name| folder.join(name));
    let empty = fs::File::create(&root).and_then(|file| file.set_len(ROOT_BYTES));
    empty.map_err(|error| Failure::io("write", &root, &error))?;
    process::output(Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).args([tree, &root]))?;
    formatted(&volume, VOLUME_BYTES, "luks2", key)?;
    let sectors = |bytes: u64| u32::try_from(bytes / SECTOR_BYTES).unwrap_or(u32::MAX).to_le_bytes();
    let entry =
        |at: u64, bytes: u64| [&[0, 0, 0, 0, LINUX, 0, 0, 0][..], &sectors(at), &sectors(bytes)].concat();
    let second_at = FIRST_AT + ROOT_BYTES;
    let table =
        [entry(FIRST_AT, ROOT_BYTES), entry(second_at, VOLUME_BYTES), vec![0; 32], MARK.to_vec()].concat();
    let written = || -> std::io::Result<()> {
        let mut file = fs::File::create(&disk)?;
        file.set_len(second_at + VOLUME_BYTES)?;
        file.seek(SeekFrom::Start(ENTRIES_AT))?;
        file.write_all(&table)?;
        for (part, at) in [(&root, FIRST_AT), (&volume, second_at)] {
            file.seek(SeekFrom::Start(at))?;
            std::io::copy(&mut fs::File::open(part)?, &mut file)?;
            fs::remove_file(part)?;
        }
        Ok(())
    };
    written().map_err(|error| Failure::io("write", &disk, &error))?;
    Ok(disk)
}
