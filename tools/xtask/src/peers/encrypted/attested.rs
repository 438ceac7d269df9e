//! A Debian guest whose TPM keeps nothing, and whose disk opens with a key that its initrd earns from the tenant's broker.
//!
//! **What.** Two boots; then the same disk where the tenant keeps the key for another kernel image, or keeps none, and where the host exchanged the volume.
//! **Trust.** As [`super`]. The way to the broker is a serial line to a relay.
//! **Laws.** Nobody types, and the disk's key is in no file of the disk, of the guest or of the host but the tenant's own.
//! **Not here.** The conversation without a disk: `peers/unlock.rs`.

use super::below::boot;
use super::tagged::variant;
use super::{REFUSED, SHUT, Site, UNEARNED, expected, opened, planted, stopped, value};
use crate::below::Below;
use crate::failure::Failure;
use crate::peers::{drawn_key, group, step};
use crate::product::text;
use crate::steps::{Step, Steps};
use crate::{attester, house};
use std::fs;
use std::path::Path;

/// What the owner has to say, and where the guest finds it.
const SECRET: &str = "what-the-owner-put-there";
const FILE: &str = "/etc/husk-owner";
/// The name of the volume, and of its key at the broker.
const NAME: &str = "encrypted";
/// What says that a guest is the one it should be, while its initrd runs.
const PCRS: [&str; 5] = ["7", "8", "11", "12", "13"];
/// What the program says of each refusal.
const OTHER_VALUES: &str = "other values than the tenant allows";
const NOTHING_THERE: &str = "no secret of that name";
/// The third serial line: a UEFI firmware writes to the first two. It writes no memory, so that the layer has nothing against it.
const LINE: &str = "isa-serial,chardev=unlock,index=2,irq=5";
const DEVICE: &str = "/dev/ttyS2";

/// Runs the boots as steps, if `all` are run.
pub(in crate::peers) fn into(steps: &mut Steps, all: bool) {
    if all {
        group(steps, "disk whose key is earned", boots());
    }
}

fn boots() -> Result<Vec<Step>, Failure> {
    let (base, _) = super::built(&house::fresh_workshop("peers/attested")?, false)?;
    let folder = house::fresh_workshop("peers/attested/host")?;
    attester::make()?;
    let mut below = super::below::enrolled(&base, &folder)?;
    below.certify_keys()?;
    below.keep_nothing(&["--firmware-vars", &text(&base.variables)])?;
    let key = folder.join("volume.key");
    let drawn = drawn_key(&key)?;
    let site = built(&base, &below, &key)?;
    let (_relay, socket) = below.relay("unlock")?;
    let chardev = format!("socket,id=unlock,path={},reconnect=1", text(&socket));
    below.qemu = ["-chardev", &chardev, "-device", LINE].map(str::to_owned).to_vec();

    let right = values(&site)?;
    below.keep_secret(NAME, &key, &each(&right))?;
    let first = boot(&mut below, &site, &site.disk);
    let second = boot(&mut below, &site, &site.disk);
    let exchanged = folder.join("exchanged.raw");
    let exchange = planted::own_volume(&site.disk, "luks2", &exchanged)
        .and_then(|()| boot(&mut below, &site, &exchanged));
    below.forget_secret(NAME)?;
    let gone = boot(&mut below, &site, &site.disk);
    let other: Vec<String> = right.iter().map(|value| another(value)).collect();
    below.keep_secret(NAME, &key, &each(&other))?;
    let other = boot(&mut below, &site, &site.disk);
    Ok(vec![
        step("opens-with-a-key-that-it-earned", first.and_then(|said| owners(&said, "1", &drawn))),
        step(
            "and-again-by-a-tpm-that-knows-nothing-of-it",
            second.and_then(|said| owners(&said, "2", &drawn)),
        ),
        step("exchanged-volume-is-refused", exchange.and_then(|said| stopped(&said, &[SHUT, REFUSED]))),
        step("removed-key-is-not-given", gone.and_then(|said| unearned(&said, NOTHING_THERE))),
        step("other-kernel-image-earns-nothing", other.and_then(|said| unearned(&said, OTHER_VALUES))),
    ])
}

/// The guest of the other steps, with a volume over its root that opens with that key.
fn built(base: &Site, below: &Below, key: &Path) -> Result<Site, Failure> {
    let owner = base.folder.join("owner");
    fs::write(&owner, SECRET).map_err(|error| Failure::io("write", &owner, &error))?;
    let program = house::workshop("attester")?.join("husk-unlock");
    let [key, program, config, owner] = [key, &program, &below.vm.config, &owner].map(text);
    let words = format!(
        "mount = \"/\"\n\n[volume.attested]\nkey = \"{key}\"\nprogram = \"{program}\"\nconfig = \"{config}\"\n\
         options = [\"--broker\", \"{DEVICE}\", \"--wait-seconds\", \"120\"]\n\n\
         [[volume.attested.files]]\nfrom = \"{owner}\"\nto = \"{FILE}\"\n"
    );
    variant(base, "attested", &words)
}

/// What the PCRs hold while the initrd of this guest runs, as `husk vm unlock put` takes it.
fn values(site: &Site) -> Result<Vec<String>, Failure> {
    let told = expected::told(site, &["--phase", "enter-initrd"])?;
    let named = |line: &str| line.strip_prefix("sha256:")?.split_once('=').map(|(pcr, _)| pcr.to_owned());
    let wanted = told.lines().filter(|line| named(line).is_some_and(|pcr| PCRS.contains(&pcr.as_str())));
    let values: Vec<String> =
        wanted.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    if values.len() == PCRS.len() {
        Ok(values)
    } else {
        Err(Failure::failed(format!("too little follows: {told}")))
    }
}

/// Of PCR 11 another one than this guest's; all else as it is.
fn another(value: &str) -> String {
    match value.split_once('=') {
        Some((pcr @ "sha256:11", digits)) => format!("{pcr}={}", "5a".repeat(digits.len() / 2)),
        _ => value.to_owned(),
    }
}

fn each(values: &[String]) -> Vec<&str> {
    values.iter().map(String::as_str).collect()
}

/// The volume is over the root, has what the owner put there, and the key is on no console.
fn owners(said: &str, number: &str, key: &str) -> Result<String, Failure> {
    let seen = opened(said, number)?;
    if said.contains(key) {
        return Err(Failure::failed("the console shows the key"));
    }
    match (value(said, "owner "), value(said, "root "), value(said, "key-file")) {
        (Some(SECRET), Some("overlay"), Some("")) => Ok(seen),
        found => Err(Failure::failed(format!("the owner's file, the root and the key's file: {found:?}"))),
    }
}

/// Nothing was given, and the console says why.
fn unearned(said: &str, why: &str) -> Result<String, Failure> {
    let stopped = stopped(said, &[UNEARNED])?;
    if said.contains(why) {
        Ok(format!("{why}; {stopped}"))
    } else {
        Err(Failure::failed(format!("the console does not say `{why}`")))
    }
}
