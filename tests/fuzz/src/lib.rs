//! Any byte string against every parser and state machine that meets bytes from outside.
//!
//! **What.** [`TARGETS`]: for each a function of bytes that panics where a law is broken, and seeds that the project's own
//! encoders make. Two drivers run them: libFuzzer (`cargo xtask fuzz`, by the programs in `fuzz_targets/`) and an ordinary
//! test, which replays the corpus and then mutates it, the same way each time.
//! **Trust.** None in the bytes; the laws that the targets check are the product's own.
//! **Laws.** A target is a function of its bytes alone: no clock, no chance, nothing that an earlier input left.
//! **Not here.** Worlds that live longer than one input: `cargo xtask soak`.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a target stops at the first surprise"
)]

mod admin;
mod attest;
mod attester;
mod backup;
mod broker;
mod command;
#[cfg(test)]
mod corpus;
mod crb;
mod evidence;
mod guest;
mod guest_disk;
mod image;
mod input;
mod kbs;
#[cfg(test)]
mod mutator;
mod orders;
mod page;
mod release;
mod sockets;
mod state;
mod svsm;
mod tpm_evidence;
mod volume;

#[path = "../../support/attest_op.rs"]
mod attest_op;
#[expect(dead_code, reason = "a part of what the broker's tests use")]
#[path = "../../../tools/broker/tests/support/bench.rs"]
mod bench;
#[expect(dead_code, reason = "a part of what the session's laws use")]
#[path = "../../support/broker_end.rs"]
mod broker_end;
#[expect(dead_code, reason = "a part of what the broker's tests use")]
#[path = "../../../tools/broker/tests/support/brought.rs"]
mod brought;
#[expect(dead_code, reason = "a part of what the volume's laws use")]
#[path = "../../support/disk.rs"]
mod disk;
#[path = "../../support/guest_ram.rs"]
mod guest_ram;
#[path = "../../support/nothing.rs"]
mod nothing;
#[path = "../../../src/engine/reference/permall.rs"]
mod permall;
#[expect(dead_code, reason = "a part of what the session's laws use")]
#[path = "../../support/relay_world.rs"]
mod relay_world;
#[expect(dead_code, reason = "a part of what the laws of SVSM calls use")]
#[path = "../../svsm/stand_in.rs"]
mod stand_in;
#[expect(dead_code, reason = "a part of what the volume's laws use")]
#[path = "../../support/world.rs"]
mod store_world;
#[path = "../../support/tpm.rs"]
mod tpm;
#[path = "../../../tools/broker/tests/support/world.rs"]
mod world;

#[expect(dead_code, reason = "`permall.rs` uses a part of it")]
#[path = "../../../src/engine/reference/walk.rs"]
mod walk;
/// What `permall.rs` and `walk.rs` find in the crate that they are part of.
mod bytes {
    pub(crate) use husk::bytes::{Reader, Short};
}

use std::path::Path;
use std::process::ExitCode;

/// One way in for bytes from outside.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "functions")]
pub struct Target {
    /// The name of its program, its corpus and its line in the handbook.
    pub name: &'static str,
    /// Takes any bytes; panics where a law is broken.
    pub run: fn(&[u8]),
    /// Inputs made by the project's own encoders.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many mutated inputs the ordinary test tries: about half a second's worth.
    pub mutations: usize,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "command", run: command::run, seeds: command::seeds, mutations: 50_000 },
    Target { name: "crb_step", run: crb::step_events, seeds: crb::step_seeds, mutations: 20_000 },
    Target { name: "crb_trapped", run: crb::trapped, seeds: crb::trapped_seeds, mutations: 2_000 },
    Target { name: "crb_shared", run: page::shared, seeds: page::seeds, mutations: 2_000 },
    Target { name: "vtpmd_data", run: sockets::data, seeds: sockets::data_seeds, mutations: 2_000 },
    Target { name: "vtpmd_mssim", run: sockets::mssim, seeds: sockets::mssim_seeds, mutations: 2_000 },
    Target { name: "vtpmd_control", run: sockets::control, seeds: sockets::control_seeds, mutations: 2_000 },
    Target { name: "volume_open", run: volume::open, seeds: volume::open_seeds, mutations: 1_000 },
    Target { name: "volume_delta", run: volume::delta, seeds: volume::delta_seeds, mutations: 10_000 },
    Target { name: "release_wire", run: release::wire, seeds: release::wire_seeds, mutations: 20_000 },
    Target { name: "release_client", run: release::client, seeds: release::client_seeds, mutations: 40 },
    Target { name: "release_backup", run: backup::run, seeds: backup::seeds, mutations: 300 },
    Target { name: "release_orders", run: orders::shown, seeds: orders::seeds, mutations: 40 },
    Target { name: "kbs_answers", run: kbs::answers, seeds: kbs::answer_seeds, mutations: 300 },
    Target { name: "broker_frames", run: broker::frames, seeds: broker::frame_seeds, mutations: 40 },
    Target {
        name: "broker_unlock",
        run: broker::unlocking::run,
        seeds: broker::unlocking::seeds,
        mutations: 40,
    },
    Target { name: "broker_http", run: broker::http, seeds: broker::http_seeds, mutations: 300 },
    Target { name: "broker_policy", run: broker::policy, seeds: broker::policy_seeds, mutations: 10_000 },
    Target { name: "broker_admin", run: admin::requests, seeds: admin::seeds, mutations: 60 },
    Target { name: "report", run: evidence::report, seeds: evidence::report_seeds, mutations: 200 },
    Target { name: "certificate", run: evidence::certificate, seeds: evidence::seeds, mutations: 500 },
    Target { name: "guest_message", run: attest::guest_message, seeds: attest::seeds, mutations: 2_000 },
    Target { name: "launch_config", run: attest::launch, seeds: attest::launch_seeds, mutations: 20_000 },
    Target { name: "permall", run: state::permall, seeds: state::seeds, mutations: 20_000 },
    Target { name: "relay_frames", run: release::relay, seeds: release::relay_seeds, mutations: 20_000 },
    Target { name: "image_igvm", run: image::igvm, seeds: image::igvm_seeds, mutations: 3_000 },
    Target { name: "image_ovmf", run: image::ovmf, seeds: image::ovmf_seeds, mutations: 10_000 },
    Target { name: "svsm_call", run: svsm::call, seeds: svsm::call_seeds, mutations: 3_000 },
    Target { name: "manifest", run: svsm::manifest, seeds: svsm::manifest_seeds, mutations: 20_000 },
    Target { name: "payload_header", run: guest::payload, seeds: guest::payload_seeds, mutations: 50_000 },
    Target { name: "flash", run: guest::flash, seeds: guest::flash_seeds, mutations: 200 },
    Target { name: "guest_disk", run: guest_disk::run, seeds: guest_disk::seeds, mutations: 2000 },
    Target { name: "quote", run: tpm_evidence::quote, seeds: tpm_evidence::quote_seeds, mutations: 4_000 },
    Target {
        name: "ek_certificate",
        run: tpm_evidence::certificate,
        seeds: tpm_evidence::certificate_seeds,
        mutations: 1_000,
    },
    Target { name: "attest_frames", run: attester::frames, seeds: attester::frame_seeds, mutations: 50_000 },
    Target { name: "attest_tpm", run: attester::tpm, seeds: attester::tpm_seeds, mutations: 20_000 },
];

/// Runs the target of that name.
///
/// # Panics
/// Where a law is broken, and for a name that no target has.
pub fn run(name: &str, data: &[u8]) {
    (target(name).run)(data);
}

fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no target is named {name}"))
}

/// A target's program where it is not libFuzzer's: runs the files that it is given.
///
/// # Panics
/// Where a law is broken, which is what the program is for.
#[must_use]
pub fn by_hand(name: &str) -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        eprintln!("usage: {name} FILE…");
        return ExitCode::from(2);
    }
    for file in files {
        match std::fs::read(&file) {
            Ok(bytes) => run(name, &bytes),
            Err(error) => {
                eprintln!("cannot read {file}: {error}");
                return ExitCode::FAILURE;
            }
        }
        println!("{file}: nothing is broken");
    }
    ExitCode::SUCCESS
}

/// Writes every target's seeds below `folder`: a folder for each, a file for each seed.
///
/// # Errors
/// What the file system gives.
pub fn write_seeds(folder: &Path) -> std::io::Result<()> {
    for target in TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:03}")), seed)?;
        }
    }
    Ok(())
}
