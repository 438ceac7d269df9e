//! The commands `husk run --sev-snp` and `husk host check`.

use super::host::{Probe, State, missing};
use super::launch::Launch;
use super::libvirt::domain;
use super::machine::Machine;
use crate::child;
use crate::machine::shown;
use crate::run::Ended;
use crate::volume::{belongs, lock};
use anyhow::{Context as _, bail};
use husk::fault::Fault;
use husk_files::read_config;
use serde_json::json;
use std::path::{Path, PathBuf, absolute};

/// Position of the C-bit on the EPYCs that have SEV-SNP, for command lines that are made on another machine.
const C_BIT: u8 = 51;
/// By how many bits physical addresses are shorter there, as QEMU's documentation has it.
const REDUCED_BITS: u8 = 1;

/// Where a launch under SEV-SNP differs from one without.
#[derive(clap::Args, Clone, Debug)]
pub struct SnpArgs {
    /// Start an IGVM file under SEV-SNP, on a host that has it; see `husk host check`
    #[arg(long, requires = "igvm", conflicts_with_all = ["image", "kernel", "initrd", "psp", "broker", "test_tamper"])]
    sev_snp: bool,
    /// The IGVM file: an SVSM with Husk in it, and the guest's firmware
    #[arg(long, value_name = "FILE", requires = "sev_snp")]
    igvm: Option<PathBuf>,
    /// The socket at which `husk relay` listens
    #[arg(long, value_name = "PATH", requires = "sev_snp")]
    channel: Option<PathBuf>,
    /// QEMU's name of the processors' model; it counts in the measurement
    #[arg(long, value_name = "MODEL", default_value = "EPYC-v4")]
    vcpu_type: String,
    /// Print a libvirt domain of this name that would start the machine, and start nothing
    #[arg(long, value_name = "NAME", requires = "sev_snp", conflicts_with_all = ["print", "measure_only"])]
    libvirt: Option<String>,
}

/// What both kinds of launch take.
#[derive(Clone, Copy, Debug)]
pub struct Shared<'a> {
    /// Print the measurement alone.
    pub measure_only: bool,
    /// Print the command line alone.
    pub print: bool,
    /// The launch configuration.
    pub config: Option<&'a Path>,
    /// The volume's file.
    pub volume: Option<&'a Path>,
    /// Its block in bytes.
    pub block_bytes: u32,
    /// How many processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// QEMU.
    pub qemu: &'a Path,
    /// More words for it.
    pub extra: &'a [String],
}

impl SnpArgs {
    pub(crate) const fn is_asked_for(&self) -> bool {
        self.sev_snp
    }

    /// Runs the command.
    ///
    /// # Errors
    /// One line: what, whose fault, what to do; or [`Ended`].
    pub(crate) fn run(&self, shared: &Shared<'_>) -> anyhow::Result<()> {
        let igvm = self.igvm.as_deref().context("a launch under SEV-SNP needs --igvm")?;
        let launch = Launch::of(igvm, shared.vcpus, &self.vcpu_type)?;
        let measurement = hex::encode(launch.measurement);
        for remark in &launch.remarks {
            eprintln!("husk run: note: {remark}");
        }
        if shared.measure_only {
            println!("{measurement}");
            return Ok(());
        }
        let probe = Probe::this_host(shared.qemu);
        let machine = self.machine(shared, igvm, launch, &probe)?;
        eprintln!(
            "husk run: MEASUREMENT will be {measurement}\nhusk run: HOST_DATA will be {}",
            hex::encode(machine.host_data)
        );
        match &self.libvirt {
            Some(name) => {
                print!("{}", domain(name, &emulator(shared.qemu)?, &machine.with_absolute_paths()?))
            }
            None if shared.print => println!("{}", shown(shared.qemu, &machine.words())),
            None => start(&probe, shared.qemu, &machine)?,
        }
        Ok(())
    }

    fn machine(
        &self,
        shared: &Shared<'_>,
        igvm: &Path,
        launch: Launch,
        probe: &Probe,
    ) -> anyhow::Result<Machine> {
        let (Some(config), Some(channel)) = (shared.config, &self.channel) else {
            bail!("a launch under SEV-SNP needs --config and --channel");
        };
        let config = read_config(config)?;
        config.supported().map_err(Fault::from)?;
        belongs(shared.volume, config.mode)?;
        let (c_bit, reduced_bits) = probe.encryption_bits().unwrap_or((C_BIT, REDUCED_BITS));
        Ok(Machine {
            igvm: igvm.to_owned(),
            policy: launch.policy,
            identity: launch.identity,
            host_data: config.host_data(),
            c_bit,
            reduced_bits,
            model: self.vcpu_type.clone(),
            vcpus: shared.vcpus,
            memory_mib: shared.memory_mib,
            volume: shared.volume.map(Path::to_owned),
            block_bytes: shared.block_bytes,
            channel: channel.clone(),
            control: Path::new("RUN").join("control"),
            extra: shared.extra.to_vec(),
        })
    }
}

/// Where QEMU lies: libvirt looks for it nowhere.
fn emulator(qemu: &Path) -> anyhow::Result<PathBuf> {
    if qemu.components().count() > 1 {
        return Ok(absolute(qemu)?);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(qemu)).find(|file| file.is_file());
    found.with_context(|| format!("{} is nowhere on PATH; name QEMU with --qemu", qemu.display()))
}

/// Starts the machine on a host that can, and waits for its end.
fn start(probe: &Probe, qemu: &Path, machine: &Machine) -> anyhow::Result<()> {
    let missing = missing(&probe.checks());
    if !missing.is_empty() {
        bail!("this host cannot start VMs under SEV-SNP:\n  {}", missing.join("\n  "));
    }
    let _volume = machine.volume.as_deref().map(lock).transpose()?;
    if !machine.channel.exists() {
        bail!("nothing listens at {}; start `husk relay --socket` there", machine.channel.display());
    }
    let folder = tempfile::tempdir().context("cannot make a folder for this run")?;
    let machine = Machine { control: folder.path().join("control"), ..machine.clone() };
    let words = machine.words();
    eprintln!("husk run: {}", shown(qemu, &words));
    let status = child::run(qemu, &words, machine.control)?;
    if status.success() { Ok(()) } else { Err(Ended::Qemu(status).into()) }
}

/// `husk host`
#[derive(clap::Subcommand, Debug)]
pub enum HostCommand {
    /// Look for everything that a VM under SEV-SNP needs from its host. Starts nothing. Exit codes: 0 all is there, 1
    /// something is missing, 2 the command line is wrong.
    Check(CheckArgs),
}

/// `husk host check`
#[derive(clap::Args, Debug)]
pub struct CheckArgs {
    /// QEMU's x86-64 system emulator
    #[arg(long, value_name = "FILE", default_value = "qemu-system-x86_64")]
    qemu: PathBuf,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

impl HostCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// What is missing, after the table.
    pub fn run(&self) -> anyhow::Result<()> {
        let Self::Check(args) = self;
        let checks = Probe::this_host(&args.qemu).checks();
        let missing = checks.iter().filter(|check| check.state == State::Missing).count();
        if args.json {
            let rows: Vec<_> = checks
                .iter()
                .map(|check| {
                    let advice = (check.state == State::Missing).then_some(check.advice);
                    json!({ "name": check.name, "state": check.state.word(), "seen": check.seen, "advice": advice })
                })
                .collect();
            println!("{:#}", json!({ "ready": missing == 0, "checks": rows }));
        } else {
            for check in &checks {
                println!("{:<8} {:<21} {}", check.state.word(), check.name, check.seen);
                if check.state == State::Missing {
                    println!("{:<30} {}", "", check.advice);
                }
            }
        }
        if missing > 0 {
            bail!("{missing} of {} pieces are missing: no VM starts under SEV-SNP here", checks.len());
        }
        Ok(())
    }
}
