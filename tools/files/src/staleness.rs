//! The flags by which a tenant lets the newest commits of some NV indices be lost.

use husk::attest::launch::{NvIndices, Staleness};

/// What a launch configuration says of staleness.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct StalenessArgs {
    /// Answer commits of the indices of --staleness-nv before the broker knows of them, so many at most: at EVERY boot the host can have that
    /// many forgotten. Without this none ever is.
    #[arg(long, value_name = "N", requires_all = ["staleness_s", "staleness_nv"], value_parser = clap::value_parser!(u32).range(1..=i64::from(Staleness::COMMITS_MAX)))]
    staleness_commits: Option<u32>,
    /// And for so many seconds at most, while anything is asked of the TPM.
    #[arg(long, value_name = "N", requires = "staleness_commits", value_parser = clap::value_parser!(u32).range(1..=i64::from(Staleness::SECONDS_MAX)))]
    staleness_s: Option<u32>,
    /// The NV indices whose data may be lost, the first and the last: none that a policy rests on.
    #[arg(long, value_name = "HEX-HEX", requires = "staleness_commits", value_parser = indices)]
    staleness_nv: Option<NvIndices>,
}

impl StalenessArgs {
    /// What they say; nothing where none is given.
    #[must_use]
    pub fn staleness(self) -> Option<Staleness> {
        let (commits, seconds, indices) = (self.staleness_commits?, self.staleness_s?, self.staleness_nv?);
        Some(Staleness { commits, seconds, indices })
    }
}

fn indices(text: &str) -> Result<NvIndices, String> {
    NvIndices::parse(text).ok_or_else(|| {
        "give the first and the last NV index, 8 lowercase hex digits each, as in 01800100-018001ff"
            .to_owned()
    })
}
