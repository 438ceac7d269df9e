//! The file that says what a guest is.
//!
//! **What.** Its shape, and what of it is refused.
//! **Trust.** Its author is the tenant: what they ask for is theirs to know. A mistake is told, never guessed around.
//! **Laws.** A word that is not known is an error. Every word that reaches a tool's configuration is checked for what would change its meaning there.
//! **Not here.** What is made of it: the other modules.

use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The file is text that a person writes.
const FILE_BYTES_MAX: usize = 64 << 10;
/// What LUKS2 takes for its header (cryptsetup 2.7: 16 MiB), and ext4 for a journal beside some data.
const VOLUME_MIB_MIN: u64 = 64;
/// More than any disk that is made as one file should hold.
const VOLUME_MIB_MAX: u64 = 1 << 20;
/// Where the volume lies over all that the root has.
const OVER_ROOT: &str = "/";
/// Where the volume may be mounted: folders that the root has and that no unit needs before it.
const MOUNTS: [&str; 5] = [OVER_ROOT, "/var", "/home", "/srv", "/opt"];

/// What a guest is made of.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestConfig {
    /// Debian's release.
    #[serde(default = "suite")]
    pub suite: String,
    /// Where its archive lies.
    #[serde(default = "mirror")]
    pub mirror: String,
    /// A moment of `snapshot.debian.org`, such as `20250520T000000Z`, in place of the mirror.
    pub snapshot: Option<String>,
    /// The date of every file, in seconds since 1970 (reproducible-builds.org, `SOURCE_DATE_EPOCH`).
    pub epoch: u64,
    /// What partitions' identities are derived from: a UUID.
    pub seed: String,
    /// Packages beside those that every guest has.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Units that are switched on.
    #[serde(default)]
    pub units: Vec<String>,
    /// Words of the kernel's command line.
    #[serde(default)]
    pub kernel_arguments: Vec<String>,
    /// The volume that encrypts itself.
    pub volume: Volume,
    /// The tenant's keys.
    pub keys: Keys,
    /// Files that are put into the root.
    #[serde(default)]
    pub files: Vec<Extra>,
}

/// The volume that is made and encrypted at the first boot.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// How much room is left for it.
    pub size_mib: u64,
    /// Where it is mounted; `/` lays it over the root, so that all of it can be written.
    pub mount: String,
    /// Whether each block has a tag beside it, so that an altered one is an error (dm-integrity).
    #[serde(default)]
    pub integrity: bool,
    /// Encrypts it while the disk is built, to a TPM that is there already.
    pub prepared: Option<Prepared>,
    /// Encrypts it while the disk is built, under a key that the guest earns from its tenant's broker at each boot.
    pub attested: Option<Attested>,
}

/// A volume that its owner makes: for the TPM that `husk vm prepare` made.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    /// That TPM's storage root key, as `srk.pub` of `husk vm prepare`.
    pub storage_root_key: PathBuf,
    /// The firmware that the guest will begin in, as `husk run --firmware` takes it.
    pub firmware: PathBuf,
    /// The variables that it begins with, as `husk vm enroll --firmware-vars` takes them.
    pub firmware_vars: PathBuf,
    /// What is in the volume: paths begin at its root.
    #[serde(default)]
    pub files: Vec<Extra>,
}

/// A volume that its owner makes: for a guest that shows what it was started as.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attested {
    /// The file with its key, each byte of which counts: what `husk vm unlock put --secret` takes.
    pub key: PathBuf,
    /// `husk-unlock`, as `cargo xtask attester` builds it.
    pub program: PathBuf,
    /// A launch configuration of the tenant's, which says whose broker is believed.
    pub config: PathBuf,
    /// More words for the program, such as `--broker /dev/ttyS1`.
    #[serde(default)]
    pub options: Vec<String>,
    /// What is in the volume: paths are the guest's.
    #[serde(default)]
    pub files: Vec<Extra>,
}

impl Attested {
    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let files = self.files.iter_mut().map(|extra| &mut extra.from);
        [&mut self.key, &mut self.program, &mut self.config].into_iter().chain(files)
    }
}

impl Prepared {
    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let files = self.files.iter_mut().map(|extra| &mut extra.from);
        [&mut self.storage_root_key, &mut self.firmware, &mut self.firmware_vars].into_iter().chain(files)
    }
}

/// Files with keys; a relative path begins at the configuration's folder.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// Signs the kernel image for Secure Boot: RSA, PEM.
    pub secure_boot_key: PathBuf,
    /// The certificate of that key, which is in the firmware's `db`.
    pub secure_boot_certificate: PathBuf,
    /// Signs the values of PCR 11 under which the volume opens: RSA-2048, PEM.
    pub pcr_key: PathBuf,
}

/// A file of the tenant's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extra {
    /// Where it is, from the configuration's folder.
    pub from: PathBuf,
    /// Where it goes, in the guest.
    pub to: PathBuf,
    /// Whether the guest may run it.
    #[serde(default)]
    pub executable: bool,
}

/// Why a configuration is not used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] husk_files::PrivateFileError),
    /// It is no text, or not of that shape.
    #[error("{path}: {why}")]
    Malformed {
        /// The configuration.
        path: PathBuf,
        /// Line, column and what was expected there.
        why: String,
    },
    /// A value that no guest can be made of.
    #[error("`{key}` is {value:?}: {expected} is expected")]
    Value {
        /// Which.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it could be.
        expected: &'static str,
    },
}

fn suite() -> String {
    "trixie".into()
}

fn mirror() -> String {
    "http://deb.debian.org/debian".into()
}

impl Volume {
    /// Whether it lies over the root.
    pub(crate) fn is_over_root(&self) -> bool {
        self.mount == OVER_ROOT
    }

    /// What its owner puts into it while the disk is built; nothing where the guest makes it.
    pub(crate) fn owners_files(&self) -> Option<&[Extra]> {
        let prepared = self.prepared.as_ref().map(|prepared| prepared.files.as_slice());
        prepared.or_else(|| self.attested.as_ref().map(|attested| attested.files.as_slice()))
    }
}

impl GuestConfig {
    /// Reads and checks a configuration; its paths are absolute, or begin where the command does, afterwards.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let bytes = husk_files::read_public(path, FILE_BYTES_MAX)?;
        let malformed = |why: String| ConfigError::Malformed { path: path.to_owned(), why };
        let text = String::from_utf8(bytes).map_err(|_| malformed("it is no text".into()))?;
        let mut config = Self::parse(&text).map_err(|error| malformed(error.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let keys = &mut config.keys;
        let keys = [&mut keys.secure_boot_key, &mut keys.secure_boot_certificate, &mut keys.pcr_key];
        let files = config.files.iter_mut().map(|extra| &mut extra.from);
        let prepared = config.volume.prepared.iter_mut().flat_map(Prepared::paths);
        let attested = config.volume.attested.iter_mut().flat_map(Attested::paths);
        for file in keys.into_iter().chain(files).chain(prepared).chain(attested) {
            *file = folder.join(&*file);
        }
        config.check()?;
        Ok(config)
    }

    fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Where apt finds packages.
    pub(crate) fn archive(&self) -> String {
        match &self.snapshot {
            Some(moment) => format!("http://snapshot.debian.org/archive/debian/{moment}"),
            None => self.mirror.clone(),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        expect("suite", &self.suite, "a name of a release, as trixie (13 or later)", is_name)?;
        let url = |text: &str| text.starts_with("http") && text.chars().all(|c| c.is_ascii_graphic());
        expect("mirror", &self.mirror, "a URL of http or https", url)?;
        if let Some(moment) = &self.snapshot {
            let plain = |text: &str| text.len() == 16 && text.chars().all(|c| c.is_ascii_alphanumeric());
            expect("snapshot", moment, "a moment as 20250520T000000Z", plain)?;
        }
        expect("seed", &self.seed, "a UUID", is_uuid)?;
        for package in &self.packages {
            expect("packages", package, "a package's name", is_name)?;
        }
        for unit in &self.units {
            expect("units", unit, "a unit's name", is_name)?;
        }
        for word in &self.kernel_arguments {
            expect("kernel_arguments", word, "a word that sets no root, and no hash of one", is_harmless)?;
        }
        let size = self.volume.size_mib;
        let fits = |_: &str| (VOLUME_MIB_MIN..=VOLUME_MIB_MAX).contains(&size);
        expect("volume.size_mib", &size.to_string(), "a number from 64 to 1048576", fits)?;
        let known = |text: &str| MOUNTS.contains(&text);
        expect("volume.mount", &self.volume.mount, "one of /, /var, /home, /srv, /opt", known)?;
        self.volume.check()?;
        let in_volume = self.volume.owners_files().into_iter().flatten();
        for extra in self.files.iter().chain(in_volume) {
            expect("files.to", &extra.to.to_string_lossy(), "an absolute path without `..`", is_plain_path)?;
        }
        Ok(())
    }
}

impl Volume {
    /// Whether who makes it can make it so.
    fn check(&self) -> Result<(), ConfigError> {
        let possible = |_: &str| !self.integrity || self.owners_files().is_none();
        expect("volume.integrity", "true", "false, as for every volume that its owner makes", possible)?;
        let Some(attested) = &self.attested else { return Ok(()) };
        let alone = |_: &str| self.prepared.is_none();
        expect("volume.attested", "here", "either this or `volume.prepared`", alone)?;
        let over_root = |_: &str| self.is_over_root();
        expect(
            "volume.mount",
            &self.mount,
            "`/`, as for every volume whose key is earned in the initrd",
            over_root,
        )?;
        for word in &attested.options {
            expect("volume.attested.options", word, "a word that a shell takes as it is", is_plain_word)?;
        }
        Ok(())
    }
}

fn expect(
    key: &'static str,
    value: &str,
    expected: &'static str,
    holds: impl Fn(&str) -> bool,
) -> Result<(), ConfigError> {
    if holds(value) { Ok(()) } else { Err(ConfigError::Value { key, value: value.to_owned(), expected }) }
}

/// Debian policy, section 5.6.1, and what units' names have beside.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.@_".contains(c))
}

/// RFC 9562, section 4.
fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| part.chars().all(|c| c.is_ascii_hexdigit()))
}

/// In systemd's files of variables and in a shell (systemd.exec(5), "EnvironmentFile=").
fn is_plain_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_=/.:,@+".contains(c))
}

/// The root and its hash are the build's to name.
fn is_harmless(word: &str) -> bool {
    let graphic = !word.is_empty() && word.chars().all(|c| c.is_ascii_graphic() && c != '"');
    graphic
        && !["root=", "roothash=", "systemd.verity"].iter().any(|start| word.starts_with(start))
        && !word.starts_with('@')
}

fn is_plain_path(text: &str) -> bool {
    let path = Path::new(text);
    path.is_absolute()
        && text.chars().all(|c| c.is_ascii_graphic())
        && path.components().skip(1).all(|part| matches!(part, std::path::Component::Normal(_)))
        && path.file_name().is_some()
}

#[cfg(test)]
mod tests {
    use super::{ConfigError, GuestConfig};

    const GOOD: &str = r#"
epoch = 1735689600
seed = "8c0d6a5e-2f4b-4f2a-9f5e-0d6f1a2b3c4d"
packages = ["tpm2-tools"]
kernel_arguments = ["console=ttyS0"]
[volume]
size_mib = 256
mount = "/var"
[keys]
secure_boot_key = "boot.key"
secure_boot_certificate = "boot.pem"
pcr_key = "pcr.key"
[[files]]
from = "a"
to = "/usr/lib/a"
"#;

    const PREPARED: &str = r#"
[volume.prepared]
storage_root_key = "srk.pub"
firmware = "code.fd"
firmware_vars = "tenant.vars"
files = [{ from = "a", to = "/../a" }]
[keys]"#;

    const ATTESTED: &str = r#"
[volume.attested]
key = "volume.key"
program = "husk-unlock"
config = "config"
[keys]"#;

    fn refused(from: &str, to: &str) -> String {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD, "{from} is not there");
        match GuestConfig::parse(&text) {
            Err(error) => error.to_string(),
            Ok(config) => config.check().expect_err("refused").to_string(),
        }
    }

    #[test]
    fn a_small_file_is_enough() {
        let config = GuestConfig::parse(GOOD).expect("parses");
        config.check().expect("holds");
        assert_eq!((config.suite.as_str(), config.files[0].executable), ("trixie", false));
    }

    #[test]
    fn what_is_not_known_is_named_with_its_place() {
        assert!(refused("epoch =", "epochs =").contains("line 2"));
        assert!(refused("mount = ", "mounted = ").contains("unknown field `mounted`"));
    }

    #[test]
    fn a_value_that_would_mean_something_else_to_a_tool_is_refused() {
        for (from, to, key) in [
            ("\"tpm2-tools\"", "\"--no-check\"", "packages"),
            ("\"tpm2-tools\"", "\"a,b\"", "packages"),
            ("console=ttyS0", "roothash=00", "kernel_arguments"),
            ("console=ttyS0", "a b", "kernel_arguments"),
            ("console=ttyS0", "@/etc/shadow", "kernel_arguments"),
            ("/usr/lib/a", "/usr/../a", "files.to"),
            ("/usr/lib/a", "usr/lib/a", "files.to"),
            ("\"/var\"", "\"/usr\"", "volume.mount"),
            ("= 256", "= 8", "volume.size_mib"),
            ("8c0d6a5e-2f4b", "8c0d6a5e2f4b", "seed"),
            ("[keys]", PREPARED, "files.to"),
            ("[keys]", ATTESTED, "volume.mount"),
            (
                "[keys]",
                "integrity = true\n[volume.prepared]\nstorage_root_key = \"a\"\nfirmware = \"a\"\nfirmware_vars = \"a\"\n[keys]",
                "volume.integrity",
            ),
        ] {
            let said = refused(from, to);
            assert!(said.contains(&format!("`{key}`")), "{to}: {said}");
        }
    }

    #[test]
    fn a_missing_file_is_told_as_one() {
        let error = GuestConfig::read(std::path::Path::new("/nonexistent/guest.toml")).expect_err("missing");
        assert!(matches!(error, ConfigError::File(husk_files::PrivateFileError::Missing(_))), "{error}");
    }
}
