//! `husk tenant quota`: what a tenant may have of a broker that others share.

use super::{Database, Shape};
use crate::ids::TenantId;
use crate::store::{Allotted, QUOTA};
use clap::Args;
use serde_json::json;

/// `husk tenant quota`
#[derive(Args, Debug)]
pub struct QuotaArgs {
    #[command(flatten)]
    database: Database,
    /// The tenant.
    #[arg(long, value_name = "HEX")]
    tenant: TenantId,
    /// How many VMs it may have and still enrol one itself.
    #[arg(long, value_name = "N")]
    vms: Option<u32>,
    /// How many sessions of its running VMs are kept open; one more closes its oldest, whose VM makes a new one when it next asks.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sessions: Option<u32>,
    /// How many requests its operators may make in a minute.
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u32>,
    /// Forget what was said before: first, everything is as it is for a tenant of whom nothing was said.
    #[arg(long)]
    reset: bool,
    #[command(flatten)]
    shape: Shape,
}

pub(super) fn quota(args: &QuotaArgs) -> anyhow::Result<()> {
    let mut store = args.database.open()?;
    let says =
        args.reset || args.vms.is_some() || args.sessions.is_some() || args.requests_per_minute.is_some();
    let quota = if says {
        store.allot(args.tenant, |said| {
            let before = if args.reset { Allotted::default() } else { *said };
            *said = Allotted {
                vms: args.vms.or(before.vms),
                sessions: args.sessions.or(before.sessions),
                requests: args.requests_per_minute.or(before.requests),
            };
        })?
    } else {
        store.quota(args.tenant)?
    };
    args.shape.print(&json!({
        "tenant": args.tenant.to_string(),
        "vms": quota.vms,
        "sessions": quota.sessions,
        "requests_per_minute": quota.requests,
        "is_default": quota == QUOTA,
    }));
    Ok(())
}
