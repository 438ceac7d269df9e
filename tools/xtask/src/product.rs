//! The words of the `husk` command, in one place.

use crate::failure::Failure;
use crate::process::Daemon;
use crate::{house, process};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a service may take until it serves.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long a VM may answer without asking its broker again: short, so that a power cut costs the demo little.
const LEASE_SECONDS: &str = "3";

/// The size of a volume in bytes, as `husk volume create` makes one.
const VOLUME_BYTES: u64 = 2080 << 10;

/// The program and the folder in which everything happens.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    pub(crate) husk: PathBuf,
    folder: PathBuf,
}

/// How the program is built.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Profile {
    /// As the tests do.
    Dev,
    /// As it would be used.
    Release,
}

/// An enrolled VM.
#[derive(Clone, Debug)]
pub(crate) struct Vm {
    pub(crate) config: PathBuf,
    pub(crate) disk: PathBuf,
}

/// One start of the component.
#[derive(Clone, Debug)]
pub(crate) struct Start<'a> {
    /// The program: what is measured.
    pub(crate) program: &'a Path,
    pub(crate) config: &'a Path,
    pub(crate) disk: &'a Path,
    pub(crate) relay: &'a Path,
    /// Where its log goes; the name is unique.
    pub(crate) name: &'a str,
}

impl Vm {
    /// Its id, as its launch configuration has it.
    pub(crate) fn id(&self) -> Result<String, Failure> {
        let path = &self.config;
        let config = std::fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error))?;
        let id = config.lines().find_map(|line| line.strip_prefix("\"husk.vm\" = \"")?.strip_suffix('"'));
        id.map(str::to_owned).ok_or_else(|| Failure::failed(format!("{} names no VM", path.display())))
    }
}

impl Product {
    /// Builds the program.
    pub(crate) fn build(folder: &Path, profile: Profile) -> Result<Self, Failure> {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--quiet", "--package", "husk-cli"]).current_dir(house::root());
        cargo.args(["--message-format", "json-render-diagnostics"]);
        match profile {
            Profile::Dev => {}
            Profile::Release => drop(cargo.arg("--release")),
        }
        let messages = process::output(&mut cargo)?;
        let husk = messages.lines().filter_map(|line| field(line, "executable")).next_back();
        let husk = husk.ok_or_else(|| Failure::failed("xtask: cargo built no `husk`"))?;
        Ok(Self { husk: husk.into(), folder: folder.to_owned() })
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The simulated processor, and where it listens.
    pub(crate) fn processor(&self) -> Result<(Daemon, PathBuf), Failure> {
        let [keys, socket] = ["psp", "psp.socket"].map(|name| self.path(name));
        self.husk(&["psp", "init", "--dir", &text(&keys)])?;
        let mut daemon =
            self.daemon("psp", &["psp", "serve", "--dir", &text(&keys), "--socket", &text(&socket)])?;
        daemon.wait_until(START_PATIENCE, |_| socket.exists().then_some(()))?;
        Ok((daemon, socket))
    }

    /// Makes the broker's keys and database, and a tenant; returns the tenant's id.
    pub(crate) fn broker_and_tenant(&self) -> Result<String, Failure> {
        let [database, key, root] =
            ["broker.db", "broker.key", "tenant.key"].map(|name| text(&self.path(name)));
        self.husk(&["broker", "init", "--database", &database, "--root-key", &key])?;
        let line =
            ["tenant", "init", "--json", "--database", &database, "--root-key", &key, "--root-out", &root];
        let made = self.husk(&line)?;
        field(&made, "tenant")
            .ok_or_else(|| Failure::failed(format!("xtask: no tenant in `{}`", made.trim())))
    }

    /// The broker at work, and its address.
    pub(crate) fn broker(&self, accepts_simulation: bool) -> Result<(Daemon, String), Failure> {
        let [database, key, ready, chain] =
            ["broker.db", "broker.key", "broker.ready", "psp/chain.pem"].map(|name| text(&self.path(name)));
        if Path::new(&ready).exists() {
            std::fs::remove_file(&ready).map_err(|error| Failure::io("remove", Path::new(&ready), &error))?;
        }
        let mut line =
            vec!["broker", "serve", "--database", &database, "--root-key", &key, "--listen", "127.0.0.1:0"];
        line.extend(["--plain-http", "--lease-seconds", LEASE_SECONDS, "--ready-file", &ready]);
        if accepts_simulation {
            line.extend(["--accept-simulated-silicon", &chain]);
        }
        let mut daemon = self.daemon("broker", &line)?;
        let address = daemon.wait_until(START_PATIENCE, |_| std::fs::read_to_string(&ready).ok())?;
        Ok((daemon, format!("http://{}", address.trim())))
    }

    /// Enrols a VM and gives it a blank disk.
    pub(crate) fn enrol(&self, tenant: &str, measurement: &str, name: &str) -> Result<Vm, Failure> {
        self.enrol_with(tenant, measurement, name, &[])
    }

    /// As [`Self::enrol`], with more words for `husk vm enroll`.
    pub(crate) fn enrol_with(
        &self,
        tenant: &str,
        measurement: &str,
        name: &str,
        words: &[&str],
    ) -> Result<Vm, Failure> {
        let [config, disk] = ["config", "disk"].map(|ending| self.path(&format!("{name}.{ending}")));
        let database = text(&self.path("broker.db"));
        let mut line = vec!["vm", "enroll", "--database", &database, "--tenant", tenant];
        let config_text = text(&config);
        line.extend(["--measurement", measurement, "--config-out", &config_text]);
        line.extend(words);
        self.husk(&line)?;
        blank_disk(&disk)?;
        Ok(Vm { config, disk })
    }

    /// Makes an authority for the endorsement keys of a tenant's VMs.
    pub(crate) fn authority(&self, tenant: &str) -> Result<(), Failure> {
        let [database, key, out] =
            ["broker.db", "broker.key", "authority.pem"].map(|name| text(&self.path(name)));
        let line = ["tenant", "authority", "init", "--database", &database, "--root-key", &key];
        self.husk(&[&line[..], &["--tenant", tenant, "--out", &out]].concat()).map(drop)
    }

    /// Keeps a secret for a VM's guest, by the values that its PCRs must have.
    pub(crate) fn keep_secret(
        &self,
        (tenant, vm): (&str, &Vm),
        name: &str,
        secret: &Path,
        pcrs: &[&str],
    ) -> Result<(), Failure> {
        let [database, key] = ["broker.db", "broker.key"].map(|name| text(&self.path(name)));
        let (id, secret) = (vm.id()?, text(secret));
        let line = ["vm", "unlock", "put", "--database", &database, "--root-key", &key, "--tenant", tenant];
        let named = ["--vm", &id, "--name", name, "--secret", &secret];
        let demanded = pcrs.iter().flat_map(|value| ["--expect-pcr", value]);
        let line: Vec<&str> = line.into_iter().chain(named).chain(demanded).collect();
        self.husk(&line).map(drop)
    }

    /// Keeps it no more.
    pub(crate) fn forget_secret(&self, (tenant, vm): (&str, &Vm), name: &str) -> Result<(), Failure> {
        let (database, id) = (text(&self.path("broker.db")), vm.id()?);
        let line = ["vm", "unlock", "remove", "--database", &database, "--tenant", tenant];
        self.husk(&[&line[..], &["--vm", &id, "--name", name]].concat()).map(drop)
    }

    /// A relay to the broker, hostile if told so, and its socket.
    pub(crate) fn relay(
        &self,
        name: &str,
        broker: &str,
        tamper: Option<&str>,
    ) -> Result<(Daemon, PathBuf), Failure> {
        let [socket, ready] = ["socket", "ready"].map(|ending| self.path(&format!("{name}.{ending}")));
        let [socket_text, ready_text] = [&socket, &ready].map(|path| text(path));
        let mut line =
            vec!["relay", "--socket", &socket_text, "--broker", broker, "--ready-file", &ready_text];
        line.extend(tamper.iter().flat_map(|mode| ["--test-tamper", mode]));
        let mut daemon = self.daemon(name, &line)?;
        daemon.wait_until(START_PATIENCE, |_| ready.exists().then_some(()))?;
        Ok((daemon, socket))
    }

    /// The launch digest of a program, as the processor would measure it.
    pub(crate) fn measurement(&self, program: &Path) -> Result<String, Failure> {
        self.husk(&["psp", "measure", "--firmware", &text(program)]).map(|hex| hex.trim().to_owned())
    }

    /// Starts the component; `more` says where it serves.
    pub(crate) fn component(&self, start: &Start<'_>, more: &[String]) -> Result<Daemon, Failure> {
        let line = self.component_line(start, more);
        Daemon::start(start.name, start.program, &line, &self.path(&format!("{}.log", start.name)))
    }

    /// As [`component`](Self::component), which waits by itself while another instance's lease is in the way.
    pub(crate) fn patient_component(
        &self,
        start: &Start<'_>,
        wait_seconds: u32,
        more: &[String],
    ) -> Result<Daemon, Failure> {
        let line = self.component_words(start, wait_seconds, more);
        Daemon::start(start.name, start.program, &line, &self.path(&format!("{}.log", start.name)))
    }

    /// The words of a start of the component, without the program. A lease in the way is the caller's to wait for.
    pub(crate) fn component_line(&self, start: &Start<'_>, more: &[String]) -> Vec<String> {
        self.component_words(start, 0, more)
    }

    fn component_words(&self, start: &Start<'_>, wait_seconds: u32, more: &[String]) -> Vec<String> {
        let [config, disk, relay, processor] =
            [start.config, start.disk, start.relay, &self.path("psp.socket")].map(text);
        let line = ["vtpmd", "--config", &config, "--volume", &disk, "--relay", &relay, "--psp", &processor];
        let wait_seconds = wait_seconds.to_string();
        let line = line.into_iter().chain(["--wait-for-lease-seconds", &wait_seconds]);
        line.map(str::to_owned).chain(more.iter().cloned()).collect()
    }

    /// Runs the program; what it wrote to its standard output.
    pub(crate) fn husk(&self, line: &[&str]) -> Result<String, Failure> {
        process::output(Command::new(&self.husk).args(line))
    }

    fn daemon(&self, name: &str, line: &[&str]) -> Result<Daemon, Failure> {
        let line: Vec<String> = line.iter().map(ToString::to_string).collect();
        Daemon::start(name, &self.husk, &line, &self.path(&format!("{name}.log")))
    }
}

/// Makes an empty disk of a volume's size.
pub(crate) fn blank_disk(path: &Path) -> Result<(), Failure> {
    let made = std::fs::File::create(path).and_then(|file| file.set_len(VOLUME_BYTES));
    made.map_err(|error| Failure::io("make", path, &error))
}

pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The text value of a field in one line of JSON, as our own tools and cargo print it.
fn field(json: &str, name: &str) -> Option<String> {
    let (_, rest) = json.split_once(&format!("\"{name}\":"))?;
    let value = rest.trim_start().strip_prefix('"')?;
    value.split('"').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn fields_are_found_in_json() {
        assert_eq!(field(r#"{"a":1,"tenant": "00ff","b":null}"#, "tenant").as_deref(), Some("00ff"));
        assert_eq!(field(r#"{"executable":null}"#, "executable"), None);
    }
}
