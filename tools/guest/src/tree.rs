//! Installed Debians in folders, and programs that run inside them.
//!
//! **What.** [`Tree`] is a folder with a Debian in it, made by `mmdebstrap`; [`Workplace`] runs the programs of one on a folder that both see.
//! **Trust.** Debian's keyring on this machine: apt checks every package against it, and nothing switches that off.
//! **Laws.** What is mounted for a program is gone with it. A tree is whole, or it is not there. A kept one is used only for the very same request.
//! **Not here.** What is done with the programs: `disk`.

use crate::config::GuestConfig;
use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Debian's own, of the package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Nobody reads them in a guest.
const LEFT_OUT: [&str; 4] =
    ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"];
/// What differs from one installation to the next, and is made again where it is needed.
const WIPED: [&str; 6] =
    ["var/log", "var/cache", "var/lib/apt/lists", "var/lib/systemd", "var/lib/dpkg/info.bak", "tmp"];
/// Mounts what programs expect, in a namespace that ends with them. `$1` is the tree, `$2` the folder that both see; then pairs of a file and the
/// name that it has in `/tmp`, up to `--`.
const ENTER: &str = "tree=$1 shared=$2; shift 2
mount -t proc proc \"$tree/proc\"
mount --rbind /dev \"$tree/dev\"
mount -t tmpfs tmpfs \"$tree/tmp\"
mkdir -p \"$tree/build\"
mount --bind \"$shared\" \"$tree/build\"
while [ \"$1\" != -- ]; do touch \"$tree/tmp/$2\"; mount --bind \"$1\" \"$tree/tmp/$2\"; shift 2; done; shift
exec chroot \"$tree\" \"$@\"";

/// What a tree is made of.
#[derive(Debug)]
pub(crate) struct Wish<'a> {
    /// For the operator.
    pub(crate) name: &'static str,
    /// `mmdebstrap`'s word for what is there before any package is asked for.
    pub(crate) variant: &'static str,
    pub(crate) packages: Vec<&'a str>,
}

/// A Debian in a folder.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) folder: PathBuf,
}

impl Tree {
    /// Makes a tree, or takes the one that was made for this very request and is kept in `cache`.
    pub(crate) fn made(config: &GuestConfig, wish: &Wish<'_>, cache: &Path) -> anyhow::Result<Self> {
        let words = words(config, wish);
        let name = format!("{}-{}", wish.name, &hex::encode(Sha256::digest(words.join("\n")))[..16]);
        let folder = cache.join(&name);
        if folder.exists() {
            eprintln!("husk: {name}: kept from an earlier build");
            return Ok(Self { folder });
        }
        let partial = cache.join(format!("{name}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial).with_context(|| partial.display().to_string())?;
        }
        eprintln!("husk: {name}: {} packages are asked for, from {}", wish.packages.len(), config.archive());
        let mut command = Command::new("mmdebstrap");
        command.args(&words).arg(&config.suite).arg(&partial).arg(config.archive());
        run(command.env("SOURCE_DATE_EPOCH", config.epoch.to_string()))?;
        for wiped in WIPED {
            empty(&partial.join(wiped))?;
        }
        fs::rename(&partial, &folder).with_context(|| folder.display().to_string())?;
        Ok(Self { folder })
    }

    /// Names and versions of what is installed, one a line.
    pub(crate) fn packages(&self) -> anyhow::Result<Vec<String>> {
        let mut command = Command::new("dpkg-query");
        let admin = format!("--admindir={}", self.folder.join("var/lib/dpkg").display());
        let listing = output(command.args([&admin, "-W", "-f", "${Package}=${Version}\\n"]))?;
        Ok(listing.lines().map(str::to_owned).collect())
    }

    /// The one kernel that is installed.
    pub(crate) fn kernel(&self) -> anyhow::Result<String> {
        let modules = self.folder.join("usr/lib/modules");
        let entries = fs::read_dir(&modules).with_context(|| modules.display().to_string())?;
        let names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into()).collect();
        match <[String; 1]>::try_from(names) {
            Ok([name]) => Ok(name),
            Err(names) => bail!("{} kernels are in {}, one should be", names.len(), modules.display()),
        }
    }
}

/// `mmdebstrap`'s words, all but the release and the places.
fn words(config: &GuestConfig, wish: &Wish<'_>) -> Vec<String> {
    let mut words = vec![
        "--quiet".to_owned(),
        "--mode=root".into(),
        format!("--variant={}", wish.variant),
        "--architectures=amd64".into(),
        format!("--keyring={KEYRING}"),
        "--aptopt=APT::Install-Recommends \"false\"".into(),
        format!("--include={}", wish.packages.join(",")),
    ];
    words.extend(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")));
    if config.snapshot.is_some() {
        // A snapshot's release file has run out by its own word; its signature is checked as ever.
        words.push("--aptopt=Acquire::Check-Valid-Until \"false\"".into());
    }
    words
}

/// Leaves the folder, with nothing in it.
pub(crate) fn empty(folder: &Path) -> anyhow::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let shown = || folder.display().to_string();
    for entry in fs::read_dir(folder).with_context(shown)? {
        let entry = entry.with_context(shown)?;
        let is_folder = entry.file_type().with_context(shown)?.is_dir();
        let removed =
            if is_folder { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        removed.with_context(|| entry.path().display().to_string())?;
    }
    Ok(())
}

/// Programs of a tree, at work on a folder that they see as `/build`.
#[derive(Debug)]
pub(crate) struct Workplace<'a> {
    pub(crate) tools: &'a Tree,
    pub(crate) shared: &'a Path,
    pub(crate) epoch: u64,
}

impl Workplace<'_> {
    /// Runs a program to its end; what it wrote to its standard output.
    pub(crate) fn run(&self, settings: &[String], words: &[&str]) -> anyhow::Result<String> {
        self.run_with(&[], settings, words)
    }

    /// The same; while it runs, these files are in its `/tmp` by these names, and are copied nowhere.
    pub(crate) fn run_with(
        &self,
        files: &[(&Path, &str)],
        settings: &[String],
        words: &[&str],
    ) -> anyhow::Result<String> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--", "sh", "-ec", ENTER, "enter"]);
        command.arg(&self.tools.folder).arg(self.shared);
        for (from, name) in files {
            let from = from.canonicalize().with_context(|| from.display().to_string())?;
            command.arg(from).arg(name);
        }
        command.args(["--", "env", "-i", "LC_ALL=C", "HOME=/root"]);
        command.arg("PATH=/usr/sbin:/usr/bin").arg(format!("SOURCE_DATE_EPOCH={}", self.epoch));
        output(command.args(settings).args(words))
    }
}

/// Runs a command; its complaints are shown.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("{name} does not start; is its package installed?"))?;
    if status.success() { Ok(()) } else { bail!("{name} failed ({status}); what it said is above") }
}

/// Runs a command; its complaints are shown only if it fails.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into()).collect();
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{name} does not start; is its package installed?"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    std::io::stderr().write_all(&output.stderr)?;
    let last: Vec<&str> = words.iter().rev().take(4).rev().map(String::as_str).collect();
    bail!("{name} … {} failed ({}); what it said is above", last.join(" "), output.status)
}
