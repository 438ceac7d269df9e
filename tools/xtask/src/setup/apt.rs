//! Debian's archive: what a package needs, and its files, unpacked and never installed.

use crate::failure::Failure;
use crate::{house, process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the newest of Debian lies, and the keys that this machine's own release trusts for it.
const NEWEST: &str =
    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main\n";

/// An archive that apt can ask.
#[derive(Debug)]
pub(super) struct Apt {
    options: Vec<String>,
}

impl Apt {
    /// The archive that this machine is installed from.
    pub(super) fn of_this_release() -> Self {
        Self { options: options(&["APT::Sandbox::User=root"]) }
    }

    /// Debian's newest, asked beside this machine's own settings; its lists are fetched into `target/husk/apt-newest`.
    pub(super) fn of_the_newest() -> Result<Self, Failure> {
        let folder = house::fresh_workshop("apt-newest")?;
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).map_err(|error| Failure::io("make", &part, &error))?;
        }
        let sources = folder.join("sources.list");
        fs::write(&sources, NEWEST).map_err(|error| Failure::io("write", &sources, &error))?;
        let place = |setting: &str, name: &str| format!("{setting}={}", folder.join(name).display());
        let settings = [
            place("Dir::State::lists", "lists"),
            place("Dir::Cache", "cache"),
            place("Dir::Etc::SourceList", "sources.list"),
            "Dir::Etc::SourceParts=-".into(),
            "Acquire::Languages=none".into(),
            "APT::Sandbox::User=root".into(),
        ];
        let apt = Self { options: options(&settings) };
        apt.ask("apt-get", &["-q", "update"])?;
        Ok(apt)
    }

    /// The names of the packages that `package` depends on.
    pub(super) fn dependencies(&self, package: &str) -> Result<Vec<String>, Failure> {
        let listing = self.ask("apt-cache", &["depends", package])?;
        let named = listing.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(named.map(str::to_owned).collect())
    }

    /// Unpacks a package's files into `folder`.
    pub(super) fn unpack(&self, package: &str, folder: &Path) -> Result<(), Failure> {
        let fetched = house::fresh_workshop("apt-fetched")?;
        let mut command = Command::new("apt-get");
        command.args(&self.options).args(["-q", "download", package]).current_dir(&fetched);
        process::output(&mut command)?;
        let entries = fs::read_dir(&fetched).map_err(|error| Failure::io("read", &fetched, &error))?;
        let archives: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        let [archive] = archives.as_slice() else {
            return Err(Failure::failed(format!(
                "setup: apt fetched {} files for {package}",
                archives.len()
            )));
        };
        process::output(Command::new("dpkg-deb").arg("-x").args([archive, &folder.to_owned()]))?;
        fs::remove_dir_all(&fetched).map_err(|error| Failure::io("remove", &fetched, &error))
    }

    fn ask(&self, program: &str, words: &[&str]) -> Result<String, Failure> {
        process::output(Command::new(program).args(&self.options).args(words))
    }
}

fn options(settings: &[impl AsRef<str>]) -> Vec<String> {
    settings.iter().flat_map(|setting| ["-o".to_owned(), setting.as_ref().to_owned()]).collect()
}
