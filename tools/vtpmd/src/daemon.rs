//! `husk vtpmd`: puts the component together and serves it.

use crate::cli::{DiskArgs, ServeArgs, serve};
use crate::component::{Component, SavedState};
use crate::footing::FootingArgs;
use crate::platform::FileDisk;
use crate::swtpm;
use anyhow::{Context, bail};

/// Run the component as a host process, for development and tests: it protects nothing from this host.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    words: Option<Words>,
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    disk: DiskArgs,
    #[command(flatten)]
    footing: FootingArgs,
    /// Print, in swtpm's JSON, which of swtpm's abilities are here
    #[arg(long)]
    print_capabilities: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Words {
    /// Take the words of `swtpm socket`
    #[command(after_help = swtpm::DIFFERENCES)]
    Socket(Box<swtpm::Socket>),
}

/// Runs the command.
///
/// # Errors
/// One line: what, whose fault, what to do.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(Words::Socket(socket)) = &args.words {
        return socket.run();
    }
    if args.print_capabilities {
        println!("{}", swtpm::CAPABILITIES);
        return Ok(());
    }
    launch(args.disk.open()?, &args.footing, &args.serve)
}

/// Puts the component together on `disk` and serves it until its end.
pub(crate) fn launch(disk: Option<FileDisk>, footing: &FootingArgs, ways: &ServeArgs) -> anyhow::Result<()> {
    match (&disk, footing.keeps_nothing()?) {
        (Some(_), false) | (None, true) => {}
        (None, false) => bail!("a TPM needs its volume; give --volume, or as swtpm's words --tpmstate"),
        (Some(_), true) => bail!(
            "the configuration names ephemeral, whose TPM keeps nothing; leave --volume and --tpmstate out"
        ),
    }
    let saved = footing.suspend_file.as_deref().map(SavedState::at).transpose()?;
    let component = Component::new(disk, footing.footing()?).context("this process has a TPM already")?;
    serve(ways, Box::new(component.saving(saved)))
}
