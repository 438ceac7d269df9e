//! A PostgreSQL server of the test's own: Debian's programs, a private data directory, a unix socket, no network.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

use postgres::{Client, NoTls};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a start may take on a machine that does much else.
const START_WAIT_MAX: Duration = Duration::from_secs(120);

/// A server that ends with the test.
pub(crate) struct Server {
    process: Option<Child>,
    programs: PathBuf,
    folder: TempDir,
}

impl Server {
    /// Makes a cluster and starts it with its defaults, durable as they are.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more settings, such as `fsync=off`.
    pub(crate) fn start_with(settings: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("husk-postgres").tempdir().unwrap();
        if is_root() {
            let (user, group) = (id("-u"), id("-g"));
            chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let mut server = Self { process: None, programs: programs(), folder };
        let data = server.path("data");
        let made = server
            .command("initdb")
            .args(["--auth=trust", "--username=husk", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success(), "initdb failed");
        server.run(settings);
        server
    }

    fn run(&mut self, settings: &[&str]) {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.path("data")).arg("-k").arg(self.folder.path());
        command.args(["-c", "listen_addresses=", "-c", "shared_buffers=32MB"]);
        // After a crash: one call for all of its files, which nobody else wrote.
        command.args(["-c", "recovery_init_sync_method=syncfs"]);
        for setting in settings {
            command.args(["-c", setting]);
        }
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        self.process = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let started = Instant::now();
        while Client::connect(&self.url("postgres"), NoTls).is_err() {
            assert!(started.elapsed() < START_WAIT_MAX, "{}", fs::read_to_string(self.path("log")).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Crashes it, as a power cut does to everything that is not on the disk, and starts it again.
    pub(crate) fn crash(&mut self) {
        self.stop();
        self.run(&[]);
    }

    /// Ends all its processes at once.
    pub(crate) fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // SIGQUIT: no checkpoint, no farewell.
        let quit = Command::new("kill").args(["-QUIT", &process.id().to_string()]).status();
        assert!(quit.unwrap().success());
        process.wait().unwrap();
    }

    /// Starts it again after [`Server::stop`].
    pub(crate) fn resume(&mut self) {
        self.run(&[]);
    }

    /// A new database of that name; its URL.
    pub(crate) fn database(&self, name: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE \"{name}\""));
        self.url(name)
    }

    /// Copies the broker's schema from one database to another, as an operator does.
    pub(crate) fn copied(&self, from: &str, to: &str) {
        let file = self.path("dump");
        let mut dump = self.command("pg_dump");
        dump.args(["--format=custom", "--schema=husk", "-f"]).arg(&file).arg(self.url(from));
        let mut restore = self.command("pg_restore");
        restore.arg("-d").arg(self.url(to)).arg(&file);
        for mut command in [dump, restore] {
            assert!(command.status().unwrap().success(), "{command:?}");
        }
    }

    /// Runs statements as the administrator.
    pub(crate) fn sql(&self, database: &str, statements: &str) {
        self.client(database).batch_execute(statements).unwrap();
    }

    /// A connection as the administrator.
    pub(crate) fn client(&self, database: &str) -> Client {
        Client::connect(&self.url(database), NoTls).unwrap()
    }

    /// The URL of a database.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("postgres://husk@/{name}?host={}", self.folder.path().display())
    }

    /// Where its files are.
    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One of its programs, which refuse to run as root and end with the test.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if is_root() {
            command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
        }
        command.arg(self.programs.join(program)).current_dir(self.folder.path());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The newest of Debian's versions.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.map(|entry| entry.unwrap().path()).max_by_key(|path| version(path));
    assert!(newest.is_some(), "PostgreSQL is not installed: cargo xtask setup");
    newest.unwrap().join("bin")
}

fn is_root() -> bool {
    own_user() == 0
}

/// The user of this process, from /proc: no crate is worth it.
fn own_user() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn id(what: &str) -> u32 {
    let output = Command::new("id").args([what, "postgres"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}
