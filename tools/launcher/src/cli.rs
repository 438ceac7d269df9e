//! The command `husk run`.

use crate::image::Image;
use crate::machine::{self, Acceleration, GUEST_CPUS_MAX};
use crate::payload::{Inputs, Sources};
use crate::run::Plan;
use crate::snp::cli::{Shared, SnpArgs};
use crate::{disk, volume};
use anyhow::{Context, bail};
use husk::attest::launch::{Kbs, Mode as Trusted};
use husk_firmware::wishes::{CrbPlace, Gate, Ways};
use husk_image::vcpu::VCPUS_MAX;
use husk_relay::client::{BrokerCa, is_url};
use husk_relay::kbs::Fork;
use husk_relay::pipe::{HttpPipe, Pipe, PipeError};
use husk_relay::tamper::{Mode, Tampered};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Start a machine with the image in it, and an unmodified kernel below.
///
/// QEMU's standard input and output are the guest's serial console; the firmware's own lines are among it. Ctrl-C cuts
/// the machine's power. The exit code is 0 for an orderly end, 10 and the family for a fault of the firmware's (12 host,
/// 13 broker, 14 seal, 15 engine, 16 a defect), 1 for QEMU's own.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the launch measurement of the image, for `husk vm enroll --measurement`, and start nothing
    #[arg(long)]
    measure_only: bool,
    #[command(flatten)]
    snp: SnpArgs,
    /// The image [default: husk-image beside this program]
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// A UEFI firmware in which the guest begins, such as Debian's /usr/share/OVMF/OVMF_CODE_4M.fd; what --kernel names is then any program that it loads
    #[arg(long, value_name = "FILE", conflicts_with = "sev_snp")]
    firmware: Option<PathBuf>,
    /// The firmware's variables before any are kept, such as a copy of Debian's /usr/share/OVMF/OVMF_VARS_4M.fd with the tenant's keys [default: those in the firmware's own file, if there are any]; once a launch has taken them, those are used that the volume keeps
    #[arg(long, value_name = "FILE", requires = "firmware")]
    firmware_vars: Option<PathBuf>,
    /// The guest's kernel, a bzImage
    #[arg(long, value_name = "FILE", required_unless_present_any = ["measure_only", "sev_snp", "firmware"])]
    kernel: Option<PathBuf>,
    /// The guest's initial RAM file system
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "WORDS", default_value = "console=ttyS0")]
    append: String,
    /// The volume file; one machine at a time. None with a configuration that names ephemeral, whose TPM keeps nothing
    #[arg(long, value_name = "FILE")]
    volume: Option<PathBuf>,
    /// The guest's disk, a raw image, as a virtio block device that the firmware drives for it. The host can read and change what the guest does not encrypt and verify
    #[arg(long, value_name = "FILE", conflicts_with = "sev_snp")]
    disk: Option<PathBuf>,
    /// The unit that the volume's medium writes without touching neighbours, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 512, value_parser = block_bytes)]
    block_bytes: u32,
    /// The broker, such as `https://broker.example:8630`; none with a configuration that names hw-sealed
    #[arg(long, value_name = "URL", value_parser = is_url)]
    broker: Option<String>,
    #[command(flatten)]
    ca: BrokerCa,
    /// The CoCo KBS, such as http://127.0.0.1:8080, with a configuration that requires one
    #[arg(long, value_name = "URL", requires = "broker", value_parser = is_url)]
    kbs: Option<String>,
    /// The launch configuration that `husk vm enroll` wrote, or, for a VM without a broker, `husk image config`
    #[arg(long, value_name = "FILE", required_unless_present_any = ["measure_only", "sev_snp"])]
    config: Option<PathBuf>,
    /// The socket of `husk psp serve`, which plays the secure processor
    #[arg(long, value_name = "PATH", required_unless_present_any = ["measure_only", "sev_snp"])]
    psp: Option<PathBuf>,
    /// Where the guest finds its TPM: trapped, at the usual address, or private, in memory of its own that is reserved for it
    #[arg(long, value_name = "WORD", default_value = "trapped", value_parser = crb_place)]
    crb: CrbPlace,
    /// Offer SVSM calls besides, by VMMCALL
    #[arg(long, conflicts_with = "sev_snp")]
    svsm_calls: bool,
    /// How many processors the guest has: as many as KVM takes under SEV-SNP; without it at most 7, and the machine has one more, which serves the TPM
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(VCPUS_MAX)))]
    vcpus: u32,
    /// The machine's memory in MiB; the guest gets what firmware and payload leave
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: u64,
    /// QEMU's x86-64 system emulator
    #[arg(long, value_name = "FILE", default_value = "qemu-system-x86_64")]
    qemu: PathBuf,
    /// What runs the machine's processors: tcg, or kvm on an AMD host with nested virtualisation
    #[arg(long, value_name = "WORD", default_value = "tcg", value_parser = acceleration)]
    accel: Acceleration,
    /// Print the command line that would run, and start nothing
    #[arg(long, conflicts_with = "measure_only")]
    print: bool,
    /// Do to the broker's frames what a hostile host would, to see it fail; see `husk relay --help`
    #[arg(long, value_name = "MODE")]
    test_tamper: Option<Mode>,
    /// More words for QEMU. A device that could write memory makes the firmware refuse to start
    #[arg(last = true, value_name = "QEMU ARGUMENTS")]
    extra: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// One line: what, whose fault, what to do; or [`Ended`](crate::run::Ended).
pub fn run(args: Args) -> anyhow::Result<()> {
    if args.snp.is_asked_for() {
        return args.snp.run(&args.shared());
    }
    let guest_cpus = guest_cpus(args.vcpus)?;
    let image_path = args.image.clone().map_or_else(beside, Ok)?;
    let image = Image::open(&image_path)?;
    if args.measure_only {
        println!("{}", hex::encode(image.measurement()));
        return Ok(());
    }
    let check = (!args.print).then(|| machine::Check::begin(args.qemu.clone(), args.accel));
    let (Some(config), Some(psp)) = (&args.config, &args.psp) else {
        bail!("a machine needs --config and --psp");
    };
    if let Some(disk) = &args.disk {
        disk::check(disk, args.volume.as_deref())?;
    }
    let sources = args.sources(config)?;
    let inputs = Inputs::read(&sources, args.memory)?;
    volume::belongs(args.volume.as_deref(), inputs.launch.mode)?;
    if let Some(words) = where_variables_are(&inputs) {
        eprintln!("husk run: {words}");
    }
    let pipe = match (inputs.launch.mode, &args.broker) {
        (Trusted::Strict | Trusted::Ephemeral, Some(broker)) => {
            if inputs.launch.kbs == Kbs::Required && args.kbs.is_none() {
                bail!("the configuration requires a KBS; give --kbs");
            }
            let broker = HttpPipe::new(broker, args.ca.roots(broker)?);
            pipe(broker, args.kbs.as_deref(), args.test_tamper)?
        }
        (Trusted::Strict | Trusted::Ephemeral, None) => {
            bail!("the configuration names a mode with a broker; give --broker")
        }
        (Trusted::HwSealed, None) => {
            eprintln!(
                "husk run: HW-SEALED: there is no broker, and an old copy of the volume can be put back"
            );
            Arc::new(NoBroker)
        }
        (Trusted::HwSealed, Some(_)) => {
            bail!(
                "the configuration names hw-sealed, which has no broker; leave --broker out, or enrol the VM"
            )
        }
    };
    let plan = Plan {
        qemu: args.qemu,
        image_path,
        image,
        inputs,
        volume: args.volume.clone(),
        block_bytes: args.block_bytes,
        disk: args.disk,
        psp: psp.clone(),
        guest_cpus,
        memory_mib: args.memory,
        acceleration: args.accel,
        ways: Ways { crb: args.crb, gate: if args.svsm_calls { Gate::Open } else { Gate::Closed } },
        extra: args.extra,
    };
    if let Some(check) = check {
        return plan.run(pipe, check);
    }
    let machine = plan.machine(Path::new("RUN"));
    println!("{}", machine::shown(&plan.qemu, &machine.words()));
    Ok(())
}

/// What the image takes: fewer processors than a launch under SEV-SNP does.
fn guest_cpus(vcpus: u32) -> anyhow::Result<u8> {
    let fitting = u8::try_from(vcpus).ok().filter(|vcpus| *vcpus <= GUEST_CPUS_MAX);
    fitting.with_context(|| {
        format!("the image takes at most {GUEST_CPUS_MAX} processors of a guest; lower --vcpus")
    })
}

/// Where the variables of a guest's firmware are, if it has one.
fn where_variables_are(inputs: &Inputs) -> Option<&'static str> {
    let flash = inputs.flash();
    match (flash.firmware.is_empty(), flash.variables.is_empty(), inputs.launch.mode) {
        (true, _, _) => None,
        (false, true, _) => Some(
            "the firmware's variables are in memory: they end with the machine, and so does Secure Boot; --firmware-vars has them kept",
        ),
        (false, false, Trusted::Strict) => Some(
            "the firmware's variables are kept in the sealed volume, as fresh as the TPM's memory; those that are brought count on the first launch alone",
        ),
        (false, false, Trusted::Ephemeral) => Some(
            "the firmware's variables are in memory, as the TPM is: each launch begins with those that are brought",
        ),
        (false, false, Trusted::HwSealed) => Some(
            "the firmware's variables are kept in the HW-SEALED volume: an old copy of it, with Secure Boot's keys of then, can be put back",
        ),
    }
}

/// The way to a broker that there is none of.
struct NoBroker;

impl Pipe for NoBroker {
    fn carry(&self, _: &[u8]) -> Result<Vec<u8>, PipeError> {
        Err(PipeError::Unreachable("this VM has no broker".to_owned()))
    }
}

impl Args {
    /// What the guest starts from, as far as words can contradict each other.
    fn sources<'s>(&'s self, config: &'s Path) -> anyhow::Result<Sources<'s>> {
        if self.firmware.is_some() && self.crb == CrbPlace::Private {
            bail!("a UEFI firmware finds the TPM at its usual address only; leave --crb private away");
        }
        if self.kernel.is_none() && self.initrd.is_some() {
            bail!("an initrd is for a kernel; give --kernel, or leave --initrd away");
        }
        Ok(Sources {
            kernel: self.kernel.as_deref(),
            initrd: self.initrd.as_deref(),
            command_line: if self.kernel.is_some() { &self.append } else { "" },
            config,
            firmware: self.firmware.as_deref(),
            variables: self.firmware_vars.as_deref(),
        })
    }

    /// What a launch under SEV-SNP takes from here.
    fn shared(&self) -> Shared<'_> {
        Shared {
            measure_only: self.measure_only,
            print: self.print,
            config: self.config.as_deref(),
            volume: self.volume.as_deref(),
            block_bytes: self.block_bytes,
            vcpus: self.vcpus,
            memory_mib: self.memory,
            qemu: &self.qemu,
            extra: &self.extra,
        }
    }
}

fn beside() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is; give --image")?;
    Ok(own.with_file_name("husk-image"))
}

fn pipe(broker: HttpPipe, kbs: Option<&str>, tamper: Option<Mode>) -> anyhow::Result<Arc<dyn Pipe>> {
    let http = Fork::new(broker, kbs);
    match tamper {
        None => Ok(Arc::new(http)),
        Some(mode) => {
            eprintln!("husk run: the way to the broker is hostile, as it was told to: {mode:?}");
            Ok(Arc::new(Tampered::new(http, mode).context("the recording failed")?))
        }
    }
}

fn block_bytes(text: &str) -> Result<u32, String> {
    let bytes =
        text.parse().ok().filter(|bytes: &u32| bytes.is_power_of_two() && (512..=4096).contains(bytes));
    bytes.ok_or_else(|| "a block is a power of two from 512 to 4096".to_owned())
}

fn crb_place(text: &str) -> Result<CrbPlace, String> {
    match text {
        "trapped" => Ok(CrbPlace::Trapped),
        "private" => Ok(CrbPlace::Private),
        _ => Err("trapped or private".to_owned()),
    }
}

fn acceleration(text: &str) -> Result<Acceleration, String> {
    match text {
        "tcg" => Ok(Acceleration::Emulation),
        "kvm" => Ok(Acceleration::Kvm),
        _ => Err("tcg or kvm".to_owned()),
    }
}
