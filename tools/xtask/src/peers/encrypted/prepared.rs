//! A volume that its owner encrypted to a TPM before there was a VM: it opens at the first boot, with what the owner put there, and in no other VM.

use super::below::{boot, enrolled, replace};
use super::{STOPS, Site, build, copied, opened, stopped, value};
use crate::below::Below;
use crate::failure::Failure;
use crate::house;
use crate::peers::{group, step};
use crate::product::{Product, text};
use crate::setup::OVMF;
use crate::steps::{Step, Steps};
use std::fs;
use std::path::{Path, PathBuf};

/// What the owner has to say, and where the guest finds it.
const SECRET: &str = "what-the-owner-put-there";
const FILE: &str = "/lib/owner";

/// Runs the boots as steps, if `all` are run.
pub(in crate::peers) fn into(steps: &mut Steps, all: bool) {
    if all {
        group(steps, "prepared disk", boots());
    }
}

/// A VM's TPM is made, and a disk for it; that is booted in its VM and in another one of the tenant's.
fn boots() -> Result<Vec<Step>, Failure> {
    let (site, _) = super::built(&house::fresh_workshop("peers/prepared")?, false)?;
    let folder = house::fresh_workshop("peers/prepared/host")?;
    let site = &site;
    let mut below = enrolled(site, &folder)?;
    below.prepare(&folder.join("public"))?;
    let disk = built(site, &below, &folder)?;
    let copy = folder.join("copy.raw");
    copied(&disk, &copy)?;
    below.take_over()?;
    let first = boot(&mut below, site, &disk);
    let second = boot(&mut below, site, &disk);
    replace(&mut below, site, "other")?;
    let elsewhere = boot(&mut below, site, &copy);
    Ok(vec![
        step("opens-at-its-first-boot", first.and_then(|said| owners(&said, "1"))),
        step("opens-at-its-second-boot", second.and_then(|said| owners(&said, "2"))),
        step("opens-in-no-other-vm", elsewhere.and_then(|said| stopped(&said, &STOPS[1..2]))),
    ])
}

/// The guest of the other steps, with a volume for this TPM.
fn built(site: &Site, below: &Below, folder: &Path) -> Result<PathBuf, Failure> {
    let config = site.folder.join("prepared.toml");
    let plain = site.folder.join("guest.toml");
    let [srk, variables] = [&folder.join("public/srk.pub"), &site.variables].map(|path| text(path));
    let io = |error| Failure::io("write", &config, &error);
    fs::write(site.folder.join("owner"), SECRET).map_err(io)?;
    let more = format!(
        "\n[volume.prepared]\nstorage_root_key = \"{srk}\"\nfirmware = \"{OVMF}\"\nfirmware_vars = \"{variables}\"\n\n\
         [[volume.prepared.files]]\nfrom = \"owner\"\nto = \"{FILE}\"\n"
    );
    let file = fs::read_to_string(&plain).map_err(|error| Failure::io("read", &plain, &error))?;
    fs::write(&config, file + &more).map_err(io)?;
    let output = folder.join("built");
    build(below.product(), &config, &output)?;
    Ok(output.join("disk.raw"))
}

/// The volume is open, and has what the owner put there.
fn owners(said: &str, number: &str) -> Result<String, Failure> {
    let seen = opened(said, number)?;
    match value(said, "owner ") {
        Some(SECRET) => Ok(seen),
        other => Err(Failure::failed(format!("the owner's file says {other:?}"))),
    }
}

impl Below {
    /// Makes the VM's TPM before its first launch, and a folder with its public keys.
    fn prepare(&self, public: &Path) -> Result<(), Failure> {
        let product = self.product();
        let [root, recovery, certificate, operator, prepared] =
            ["tenant.key", "recovery", "recovery.cert", "operator", "prepared"].map(|name| at(product, name));
        let tenant = ["--root", &root, "--tenant", self.tenant()];
        let keys = ["tenant", "recovery", "--recovery-out", &recovery, "--certificate-out", &certificate];
        product.husk(&[&keys[..], &tenant].concat())?;
        let orders = ["tenant", "operator", "--operator-out", &operator, "--order", "restore"];
        product.husk(&[&orders[..], &tenant].concat())?;
        let (config, public) = (text(&self.vm.config), text(public));
        let line = ["vm", "prepare", "--config", &config, "--recovery", &recovery];
        product.husk(&[&line[..], &["--out", &prepared, "--public-out", &public]].concat()).map(drop)
    }

    /// Has the VM's first launch take that TPM over.
    fn take_over(&self) -> Result<(), Failure> {
        let product = self.product();
        let [recovery, operator, prepared, key, opened, ticket] =
            ["recovery", "operator", "prepared", "restore.key", "restore.opened", "restore.ticket"]
                .map(|name| at(product, name));
        let config = text(&self.vm.config);
        let vm = ["--broker", self.broker(), "--config", &config];
        let shown = product.husk(&[&["vm", "restore-key", "--json", "--out", &key][..], &vm].concat())?;
        let open = ["tenant", "open-backup", "--recovery", &recovery, "--backup", &prepared];
        let files = ["--config", &config, "--restore-key", &key, "--out", &opened];
        product.husk(&[&open[..], &files].concat())?;
        let [token, generation] = ["token", "generation"].map(|name| number(&shown, name));
        let (token, generation, id) = (token?, generation?, self.vm.id()?);
        let order = ["vm", "ticket", "--operator", &operator, "--vm", &id, "--order", "restore"];
        let seen = ["--token", &token, "--generation", &generation, "--opened", &opened, "--out", &ticket];
        product.husk(&[&order[..], &seen].concat())?;
        let restore = ["vm", "restore", "--ticket", &ticket, "--backup", &prepared];
        product.husk(&[&restore[..], &vm].concat()).map(drop)
    }
}

fn at(product: &Product, name: &str) -> String {
    text(&product.path(name))
}

/// The digits of a number in one line of JSON, as our own tools print it.
fn number(json: &str, name: &str) -> Result<String, Failure> {
    let rest = json.split_once(&format!("\"{name}\":")).map(|(_, rest)| rest.trim_start());
    let digits: Option<String> = rest.map(|rest| rest.chars().take_while(char::is_ascii_digit).collect());
    let digits = digits.filter(|digits| !digits.is_empty());
    digits.ok_or_else(|| Failure::failed(format!("no number {name} in `{}`", json.trim())))
}
