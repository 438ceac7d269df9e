//! `cargo xtask bench broker`: how many anchors and boots a broker decides, and what each costs it.
//!
//! The brokers are processes of their own: this program again, with the words of `husk broker`. The VMs are the
//! component's own client code, their reports the simulated processor's. All share this machine's processors.

#[path = "broker/client.rs"]
mod client;
#[path = "broker/load.rs"]
mod load;
#[path = "../../../tests/support/nothing.rs"]
mod nothing;
#[path = "../tests/support/server.rs"]
#[expect(clippy::unwrap_used, reason = "a test's support ends where its world fails")]
mod server;
#[path = "broker/site.rs"]
mod site;

use anyhow::Context as _;
use clap::Parser;
use husk_broker::cli::BrokerCommand;
use load::{Outcome, Plan};
use site::{Kind, Site};
use std::time::Duration;

/// What the child processes are started with.
#[derive(Parser)]
struct Child {
    #[command(subcommand)]
    command: BrokerCommand,
}

const RUN: Duration = Duration::from_millis(2_000);
/// Anchors a second at which the target for p99 holds.
const HALF_OF_THE_TARGET: f64 = 2_500.0;
const CLIENTS_MAX: usize = 256;
const FEW_ROWS: u32 = 10;
const MANY_ROWS: u32 = 100_000;

fn main() -> anyhow::Result<()> {
    let mut words: Vec<String> = std::env::args().filter(|word| word != "--bench").collect();
    if words.get(1).is_some_and(|word| word == "child") {
        words.remove(1);
        return Child::parse_from(words).command.run();
    }
    let json = words.iter().any(|word| word == "--json");
    let show = if json { Outcome::json } else { Outcome::line };
    if !json {
        println!("{}", Outcome::heading());
    }
    for kind in [Kind::Sqlite, Kind::Postgres(1), Kind::Postgres(3)] {
        let site = Site::start(kind).with_context(|| format!("{kind:?}"))?;
        for rows in [FEW_ROWS, MANY_ROWS] {
            site.fill(rows)?;
            let mut vms = load::boots(&site, CLIENTS_MAX, rows, |outcome| println!("{}", show(outcome)))?;
            let clients: &[usize] = if rows == FEW_ROWS { &[1, 16, 64, CLIENTS_MAX] } else { &[1, 64] };
            let mut best = 0.0_f64;
            for &clients in clients {
                let plan = Plan { clients, rows, per_second: None, run: RUN };
                let outcome = load::anchors(&site, &mut vms, &plan)?;
                best = best.max(outcome.per_second);
                println!("{}", show(&outcome));
            }
            for rate in [HALF_OF_THE_TARGET, best / 2.0] {
                let plan = Plan { clients: 64, rows, per_second: Some(rate), run: RUN };
                println!("{}", show(&load::anchors(&site, &mut vms, &plan)?));
            }
        }
    }
    Ok(())
}
