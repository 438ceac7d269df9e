//! `husk psp`: the simulated processor as a command.

use crate::{Identity, Processor, expected_measurement, os_entropy, server};
use anyhow::Context;
use std::path::PathBuf;

/// A simulated secure processor, for machines without SEV-SNP.
///
/// It proves nothing: only its root key tells it from silicon, and a broker refuses it unless told to accept that root.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a processor's roots and keys in a new folder; takes some seconds.
    Init {
        /// The new folder.
        #[arg(long)]
        dir: PathBuf,
        /// Make another chip under the root in this folder, instead of a new root.
        #[arg(long)]
        under: Option<PathBuf>,
    },
    /// Print the launch digest that a firmware gets here, for `husk vm enroll --measurement`.
    Measure {
        /// The firmware; `husk vtpmd` launches its own program unless told otherwise.
        #[arg(long)]
        firmware: PathBuf,
    },
    /// Play the processor at a unix socket.
    Serve {
        /// The folder that `init` made.
        #[arg(long)]
        dir: PathBuf,
        /// Where to listen.
        #[arg(long)]
        socket: PathBuf,
    },
}

/// Runs the command.
///
/// # Errors
/// One line: what, whose fault, what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Init { dir, under } => {
            let identity = match under {
                Some(root) => Identity::load(&root)?.sibling(&mut os_entropy())?,
                None => Identity::generate(&mut os_entropy())?,
            };
            identity.save(&dir)?;
            println!("made a SIMULATED processor in {}", dir.display());
            println!("a verifier that shall accept it needs {}", dir.join("chain.pem").display());
            Ok(())
        }
        Command::Measure { firmware } => {
            let bytes = std::fs::read(&firmware).with_context(|| {
                format!("cannot read the firmware {}; check the path", firmware.display())
            })?;
            println!("{}", hex::encode(expected_measurement(&bytes)));
            Ok(())
        }
        Command::Serve { dir, socket } => {
            let processor = Processor::shared(Identity::load(&dir)?, os_entropy());
            let listener = server::listen(&socket)
                .with_context(|| format!("cannot listen at {}; choose another path", socket.display()))?;
            println!("a SIMULATED processor listens at {}", socket.display());
            server::serve(&listener, &processor).context("the socket failed; start again")
        }
    }
}
