//! The comma-separated options that swtpm's words take.

use crate::cli::{PidPlace, Startup};
use crate::server::Address;
use anyhow::Context;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The volume's name in a folder.
const VOLUME_NAME: &str = "tpm2.husk";

/// The value of a word that is never taken.
#[derive(Clone, Copy, Debug)]
pub(super) enum Never {}

/// `--flags`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    pub(super) not_need_init: bool,
    pub(super) startup: Option<Startup>,
}

/// `--locality`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LocalityRules {
    pub(super) reject_4: bool,
}

/// `--log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Log {
    file: PathBuf,
    truncate: bool,
}

impl Log {
    pub(super) fn open(&self) -> anyhow::Result<File> {
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        let file = options
            .open(&self.file)
            .with_context(|| format!("cannot open the log {}", self.file.display()))?;
        if self.truncate {
            file.set_len(0).with_context(|| format!("cannot empty the log {}", self.file.display()))?;
        }
        Ok(file)
    }
}

/// Where a socket is.
pub(super) fn endpoint(text: &str) -> Result<Address, String> {
    let options = Options::parse(text, &["type", "port", "bindaddr", "path", "mode"])?;
    options.owner_alone()?;
    // swtpm takes a port alone for TCP.
    let implied = options.0.contains_key("port").then_some("tcp");
    match options.value("type")?.or(implied).ok_or("`type=` is missing")? {
        "unixio" => {
            options.without(&["port", "bindaddr"], "type=unixio")?;
            Ok(Address::Unix(PathBuf::from(options.needed("path")?)))
        }
        "tcp" => {
            options.without(&["path", "mode"], "type=tcp")?;
            let port = options.needed("port")?;
            let port: u16 = port.parse().map_err(|_| format!("`{port}` is not a port"))?;
            let address = match options.value("bindaddr")? {
                None => IpAddr::V4(Ipv4Addr::LOCALHOST),
                Some(bound) => bound.parse().map_err(|_| format!("`{bound}` is not an IP address"))?,
            };
            let whole = SocketAddr::new(address, port);
            format!("tcp:{whole}").parse().map_err(|error: crate::server::AddressError| error.to_string())
        }
        other => Err(format!("`{other}` is not a kind of socket; use tcp or unixio")),
    }
}

/// The volume: in a folder, or a file that is named.
pub(super) fn state(text: &str) -> Result<PathBuf, String> {
    let options = Options::parse(text, &["dir", "mode", "backend-uri"])?;
    options.owner_alone()?;
    let Some(uri) = options.value("backend-uri")? else {
        return Ok(Path::new(options.needed("dir")?).join(VOLUME_NAME));
    };
    options.without(&["dir"], "backend-uri")?;
    match uri.split_once("://") {
        Some(("dir", folder)) if !folder.is_empty() => Ok(Path::new(folder).join(VOLUME_NAME)),
        Some(("file", file)) if !file.is_empty() => Ok(PathBuf::from(file)),
        _ => Err(format!("`{uri}` is neither dir://FOLDER nor file://FILE")),
    }
}

pub(super) fn flags(text: &str) -> Result<Flags, String> {
    let known = ["not-need-init", "startup-clear", "startup-state", "startup-none", "startup-deactivated"];
    let options = Options::parse(text, &known)?;
    if options.has("startup-deactivated")? {
        return Err("startup-deactivated is TPM 1.2's; use startup-clear or startup-state".to_owned());
    }
    let mut startups = Vec::new();
    for (word, startup) in [
        ("startup-clear", Some(Startup::Clear)),
        ("startup-state", Some(Startup::State)),
        ("startup-none", None),
    ] {
        if options.has(word)? {
            startups.push(startup);
        }
    }
    match startups[..] {
        [] => Ok(Flags { not_need_init: options.has("not-need-init")?, startup: None }),
        [startup] => Ok(Flags { not_need_init: options.has("not-need-init")?, startup }),
        _ => Err("a TPM starts up in one way; give one of the startup words".to_owned()),
    }
}

pub(super) fn locality(text: &str) -> Result<LocalityRules, String> {
    let options = Options::parse(text, &["reject-locality-4", "allow-set-locality"])?;
    if options.has("allow-set-locality")? {
        let reason =
            "allow-set-locality is not offered: only the control channel sets the locality, never the data";
        return Err(reason.to_owned());
    }
    Ok(LocalityRules { reject_4: options.has("reject-locality-4")? })
}

pub(super) fn log(text: &str) -> Result<Log, String> {
    let options = Options::parse(text, &["file", "fd", "level", "truncate"])?;
    if let Some(level) = options.value("level")? {
        level.parse::<u32>().map_err(|_| format!("`{level}` is not a level"))?;
    }
    if let Some(file) = options.descriptor()? {
        return Ok(Log { file, truncate: options.has("truncate")? });
    }
    match options.needed("file")? {
        "-" => Err("`-` would hide every fault; name a file".to_owned()),
        file => Ok(Log { file: PathBuf::from(file), truncate: options.has("truncate")? }),
    }
}

pub(super) fn pid(text: &str) -> Result<PidPlace, String> {
    let options = Options::parse(text, &["file", "fd"])?;
    match options.descriptor()? {
        Some(inherited) => Ok(PidPlace::Inherited(inherited)),
        None => Ok(PidPlace::File(PathBuf::from(options.needed("file")?))),
    }
}

/// State files and blobs under a key that the host holds.
pub(super) fn key(_: &str) -> Result<Never, String> {
    Err("a key that the host holds protects nothing from the host; the volume is sealed by the broker's keys"
        .to_owned())
}

/// State blobs under a key that two hosts hold.
pub(super) fn migration_key(_: &str) -> Result<Never, String> {
    Err("a sealed TPM's state goes to no host, under no key; migrate cold: shut down here, start there with the same volume"
        .to_owned())
}

/// Giving up rights after the start.
pub(super) fn run_as(_: &str) -> Result<Never, String> {
    Err("this process gives up no rights; start it as that user".to_owned())
}

/// A descriptor to serve on.
pub(super) fn descriptor(_: &str) -> Result<Never, String> {
    Err("sockets are made here, for their owner alone; use --server or --ctrl with a path or a port"
        .to_owned())
}

/// A port on loopback.
pub(super) fn port(text: &str) -> Result<Address, String> {
    endpoint(&format!("type=tcp,port={text}"))
}

pub(super) fn seccomp(text: &str) -> Result<(), String> {
    match Options::parse(text, &["action"])?.needed("action")? {
        "none" => Ok(()),
        other => {
            Err(format!("there is no system call filter, so `{other}` cannot be obeyed; use action=none"))
        }
    }
}

/// `name=value` or `name`, each known and given once.
struct Options<'a>(BTreeMap<&'a str, Option<&'a str>>);

impl<'a> Options<'a> {
    fn parse(text: &'a str, known: &[&str]) -> Result<Self, String> {
        let mut found = BTreeMap::new();
        for word in text.split(',') {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            if !known.contains(&name) {
                return Err(format!("`{name}` is not taken here; taken are {}", known.join(", ")));
            }
            if found.insert(name, value).is_some() {
                return Err(format!("`{name}` is given twice"));
            }
        }
        Ok(Self(found))
    }

    /// The value of `name`, where it is given.
    fn value(&self, name: &str) -> Result<Option<&'a str>, String> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Some(value)) if !value.is_empty() => Ok(Some(value)),
            Some(_) => Err(format!("`{name}` needs a value")),
        }
    }

    fn needed(&self, name: &str) -> Result<&'a str, String> {
        self.value(name)?.ok_or_else(|| format!("`{name}=` is missing"))
    }

    /// Whether `name` is given; it takes no value.
    fn has(&self, name: &str) -> Result<bool, String> {
        match self.0.get(name) {
            None => Ok(false),
            Some(None) => Ok(true),
            Some(Some(_)) => Err(format!("`{name}` takes no value")),
        }
    }

    fn without(&self, names: &[&str], with: &str) -> Result<(), String> {
        match names.iter().find(|name| self.0.contains_key(**name)) {
            Some(name) => Err(format!("`{name}` does not go with {with}")),
            None => Ok(()),
        }
    }

    /// The path of the open descriptor that `fd` names, which goes with no `file`.
    fn descriptor(&self) -> Result<Option<PathBuf>, String> {
        let Some(number) = self.value("fd")? else { return Ok(None) };
        self.without(&["file"], "fd")?;
        let number: u32 = number.parse().map_err(|_| format!("`{number}` is not a descriptor"))?;
        Ok(Some(PathBuf::from(format!("/proc/self/fd/{number}"))))
    }

    /// What others may not reach is made with mode 0600; no other mode can be had.
    fn owner_alone(&self) -> Result<(), String> {
        match self.value("mode")? {
            None | Some("0600" | "600") => Ok(()),
            Some(other) => Err(format!("mode `{other}` cannot be had; what is made here has mode 0600")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Flags, descriptor, endpoint, flags, key, locality, log, migration_key, pid, run_as, seccomp, state,
    };
    use crate::cli::{PidPlace, Startup};
    use std::path::PathBuf;

    #[test]
    fn sockets_are_on_loopback_or_in_the_file_system() {
        for (text, address) in [
            ("type=tcp,port=2321", "tcp:127.0.0.1:2321"),
            ("port=2321", "tcp:127.0.0.1:2321"),
            ("port=2321,type=tcp,bindaddr=127.0.0.2", "tcp:127.0.0.2:2321"),
            ("type=tcp,port=1,bindaddr=::1", "tcp:[::1]:1"),
            ("type=unixio,path=/run/tpm", "unix:/run/tpm"),
            ("type=unixio,path=/run/tpm,mode=0600", "unix:/run/tpm"),
        ] {
            assert_eq!(endpoint(text).map(|found| found.to_string()), Ok(address.to_owned()));
        }
        for (text, reason) in [
            ("type=tcp,port=2321,bindaddr=0.0.0.0", "loopback"),
            ("type=tcp,port=2321,bindaddr=here", "not an IP address"),
            ("type=tcp,port=65536", "not a port"),
            ("type=tcp", "`port=` is missing"),
            ("path=/run/tpm", "`type=` is missing"),
            ("type=udp,port=1", "not a kind of socket"),
            ("type=unixio,path=", "`path` needs a value"),
            ("type=unixio,path=a,port=1", "does not go with"),
            ("type=tcp,port=1,path=a", "does not go with"),
            ("type=unixio,path=a,mode=0666", "0600"),
            ("type=tcp,port=1,disconnect", "`disconnect` is not taken"),
            ("type=unixio,fd=3", "`fd` is not taken"),
            ("type=tcp,port=1,port=2", "twice"),
            ("", "`` is not taken"),
        ] {
            let said = endpoint(text).unwrap_err();
            assert!(said.contains(reason), "{text}: {said}");
        }
    }

    #[test]
    fn a_startup_is_one_of_tpm_2s() {
        let clear = Flags { not_need_init: false, startup: Some(Startup::Clear) };
        assert_eq!(flags("startup-clear"), Ok(clear));
        assert_eq!(flags("not-need-init,startup-clear"), Ok(Flags { not_need_init: true, ..clear }));
        let state = Flags { startup: Some(Startup::State), ..clear };
        assert_eq!(flags("startup-state"), Ok(state));
        assert_eq!(flags("startup-none"), Ok(Flags::default()));
        for (text, reason) in [
            ("startup-deactivated", "TPM 1.2"),
            ("startup-clear,startup-state", "one way"),
            ("startup-clear=yes", "takes no value"),
            ("disable-auto-shutdown", "not taken"),
        ] {
            assert!(flags(text).unwrap_err().contains(reason), "{text}");
        }
    }

    #[test]
    fn a_word_that_could_not_be_obeyed_is_refused() {
        assert!(locality("reject-locality-4").is_ok_and(|rules| rules.reject_4));
        assert!(locality("reject-locality-4,allow-set-locality").unwrap_err().contains("not offered"));
        assert_eq!(seccomp("action=none"), Ok(()));
        assert!(seccomp("action=kill").unwrap_err().contains("no system call filter"));
        assert_eq!(pid("file=/run/pid"), Ok(PidPlace::File(PathBuf::from("/run/pid"))));
        assert_eq!(pid("fd=3"), Ok(PidPlace::Inherited(PathBuf::from("/proc/self/fd/3"))));
        for bad in ["file", "fd=x", "fd=-1", "fd=3,file=a", ""] {
            assert!(pid(bad).is_err(), "{bad}");
        }
        assert!(log("file=a,level=20,truncate").is_ok() && log("fd=7").is_ok());
        assert!(log("file=-").is_err() && log("file=a,level=x").is_err() && log("level=1").is_err());
        assert!(log("file=a,prefix=tpm").unwrap_err().contains("not taken"));
        for (refused, reason) in [
            (key("file=k"), "protects nothing from the host"),
            (migration_key("file=k"), "migrate cold"),
            (run_as("tss"), "start it as that user"),
            (descriptor("3"), "made here"),
        ] {
            assert!(refused.unwrap_err().contains(reason), "{reason}");
        }
    }

    #[test]
    fn a_state_is_a_volume_in_a_folder_or_a_file() {
        for (text, volume) in [
            ("dir=/var/tpm,mode=0600", "/var/tpm/tpm2.husk"),
            ("backend-uri=dir:///var/tpm", "/var/tpm/tpm2.husk"),
            ("backend-uri=dir://here", "here/tpm2.husk"),
            ("backend-uri=file:///dev/tpm-disk", "/dev/tpm-disk"),
        ] {
            assert_eq!(state(text), Ok(PathBuf::from(volume)));
        }
        for bad in [
            "backend-uri=a",
            "backend-uri=dir://",
            "backend-uri=http://a",
            "dir=a,backend-uri=dir://a",
            "dir=a,mode=0640",
        ] {
            assert!(state(bad).is_err(), "{bad}");
        }
    }
}
