//! The husk command: every tool under one name.
//!
//! Exit codes: 0 done · 1 failed or refused · 2 wrong command line · 3 something named is unknown · 4 something to be
//! made is there already · 5 another broker serves the database. `husk vtpmd` and `husk run` end with 10 and the number of the family
//! whose fault it is: 12 host · 13 broker · 14 seal · 15 engine · 16 a defect.

mod evidence;
mod prepare;

use clap::{Parser, Subcommand};
use husk::fault::Fault;
use husk_broker::cli::{AuditCommand, BrokerCommand, TenantCommand, VmCommand, exit_code};
use husk_launcher::run::Ended;
use std::process::ExitCode;

/// A fault's exit code is this and the number of its family.
const FAULT_BASE: u8 = 10;

/// A TPM for confidential VMs whose memory survives power-off.
#[derive(Parser, Debug)]
#[command(
    name = "husk",
    version,
    after_help = "Exit codes: 0 done, 1 failed or refused, 2 wrong command line, \
3 something named is unknown, 4 something to be made is there already, 5 another broker serves the database; \
of vtpmd and run: 12 the host's fault, 13 the broker's refusal, 14 the stored state is not the newest, 15 the engine's fault, \
16 a defect."
)]
struct Husk {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Make and run a key broker.
    #[command(subcommand)]
    Broker(BrokerCommand),
    /// Register tenants at a broker.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Enrol VMs, look at them, halt and retire them.
    #[command(subcommand)]
    Vm(Vm),
    /// A tenant's log of what its broker decided.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Measure, describe and sign what a VM is launched from.
    #[command(subcommand)]
    Image(husk_image::cli::ImageCommand),
    /// Build disks for guests.
    #[command(subcommand)]
    Guest(husk_guest::cli::GuestCommand),
    /// Play a secure processor, for machines without SEV-SNP.
    Psp(husk_psp::Args),
    /// Run the component as a host process.
    Vtpmd(Box<husk_vtpmd::daemon::Args>),
    /// Carry frames between a VM and its broker.
    Relay(husk_relay::cli::Args),
    /// Start a machine with the image in it.
    Run(Box<husk_launcher::cli::Args>),
    /// Say whether this host can start VMs under SEV-SNP.
    #[command(subcommand)]
    Host(husk_launcher::snp::cli::HostCommand),
    /// Show and verify attestation reports and SVSM manifests.
    #[command(subcommand)]
    Evidence(evidence::EvidenceCommand),
    /// Look at a sealed volume without its keys.
    #[command(subcommand)]
    Volume(husk_volume::cli::VolumeCommand),
}

/// The broker's, and what takes an engine.
#[derive(Subcommand, Debug)]
enum Vm {
    #[command(flatten)]
    Broker(VmCommand),
    /// Make a VM's TPM offline, sealed to the tenant's recovery key, and tell its public keys, so that a disk can be encrypted to it before there is a VM.
    Prepare(prepare::PrepareArgs),
}

fn main() -> ExitCode {
    let result = match Husk::parse().command {
        Command::Broker(command) => command.run(),
        Command::Tenant(command) => command.run(),
        Command::Vm(Vm::Broker(command)) => command.run(),
        Command::Vm(Vm::Prepare(args)) => args.run(),
        Command::Audit(command) => command.run(),
        Command::Image(command) => command.run(),
        Command::Guest(command) => command.run(),
        Command::Psp(args) => husk_psp::run(args),
        Command::Vtpmd(args) => husk_vtpmd::daemon::run(&args),
        Command::Relay(args) => husk_relay::cli::run(&args),
        Command::Run(args) => husk_launcher::cli::run(*args),
        Command::Host(command) => command.run(),
        Command::Evidence(command) => command.run(),
        Command::Volume(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("husk: {error:#}");
            let fault = error.downcast_ref::<Fault>().map(|fault| FAULT_BASE + fault.family() as u8);
            let ended = error.downcast_ref::<Ended>().map(Ended::exit_code);
            ExitCode::from(fault.or(ended).unwrap_or_else(|| exit_code(&error)))
        }
    }
}
