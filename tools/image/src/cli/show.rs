//! `husk image inspect`

use super::read;
use crate::igvm_file::{FILE_BYTES_MAX, IgvmFile};
use crate::inspect::inspect;
use anyhow::Context as _;
use std::path::PathBuf;

/// `husk image inspect`
#[derive(clap::Args, Debug)]
pub struct InspectArgs {
    /// The IGVM file.
    #[arg(value_name = "IGVM")]
    igvm: PathBuf,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

impl InspectArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// One chain of causes for the operator.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let bytes = read(&self.igvm, FILE_BYTES_MAX)?;
        let file = IgvmFile::parse(&bytes).with_context(|| self.igvm.display().to_string())?;
        let inspection = inspect(&file);
        if self.json {
            println!("{}", inspection.json());
        } else {
            print!("{}", inspection.text());
        }
        Ok(())
    }
}
