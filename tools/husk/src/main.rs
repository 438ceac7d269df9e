//! The husk command: every tool under one name.
//!
//! Exit codes: 0 done · 1 failed or refused · 2 wrong command line · 3 something named is unknown · 4 something to be
//! made is there already · 5 another broker serves the database.

use clap::{Parser, Subcommand};
use husk_broker::cli::{BrokerCommand, TenantCommand, VmCommand, exit_code};
use std::process::ExitCode;

/// A TPM for confidential VMs whose memory survives power-off.
#[derive(Parser, Debug)]
#[command(
    name = "husk",
    version,
    after_help = "Exit codes: 0 done, 1 failed or refused, 2 wrong command line, \
3 something named is unknown, 4 something to be made is there already, 5 another broker serves the database."
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
    Vm(VmCommand),
    /// Play a secure processor, for machines without SEV-SNP.
    Psp(husk_psp::Args),
    /// Run the component as a host process.
    Vtpmd(Box<husk_vtpmd::daemon::Args>),
    /// Carry frames between a VM and its broker.
    Relay(husk_relay::cli::Args),
}

fn main() -> ExitCode {
    let result = match Husk::parse().command {
        Command::Broker(command) => command.run(),
        Command::Tenant(command) => command.run(),
        Command::Vm(command) => command.run(),
        Command::Psp(args) => husk_psp::run(args),
        Command::Vtpmd(args) => husk_vtpmd::daemon::run(&args),
        Command::Relay(args) => husk_relay::cli::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("husk: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}
