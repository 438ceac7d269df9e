//! A component's process: the whole TPM with the reference engine, one launch after the other, as the driver orders.

use crate::hardware::{Hardware, Launch, Link, draw};
use crate::pipe::{number, order, told};
use husk::attest::launch::LaunchConfig;
use husk::engine::reference::ReferenceEngine;
use husk::engine::{COMMAND_BYTES_MAX, Locality};
use husk::fault::Fault;
use husk::release::ReleaseFault;
use husk::release::session::SessionMemory;
use husk::seams::Platform;
use husk::volume::{STATE_BYTES_MAX, Workspace};
use husk::vtpm::{Asked, Cold, Identified, Memory, Released, Vtpm};
use std::fs::File;

/// How far a launch has come.
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
enum Stage<'m> {
    Cold(Cold<'m, ReferenceEngine>),
    Identified(Identified<'m, ReferenceEngine>),
    Released(Released<'m, ReferenceEngine>),
    Running(Vtpm<'m, ReferenceEngine>),
    /// It failed, and stays so.
    Over,
}

/// Serves the driver until it ends.
pub(crate) fn serve() {
    let link = Link::open();
    let (mut code, mut rest) = link.receive();
    loop {
        assert_eq!(code, order::LAUNCH, "nothing runs");
        (code, rest) = live(&link, &rest);
    }
}

/// One launch; the order that ends it.
fn live(link: &Link, order: &[u8]) -> (u8, Vec<u8>) {
    // Port, clock, mutant, seed, report id, length of the configuration, the configuration, the disk's path.
    let config_end = 46 + usize::from(u16::from_le_bytes([order[44], order[45]]));
    let config = &order[46..config_end];
    let launch = Launch {
        port: u16::from_le_bytes([order[0], order[1]]),
        has_clock: order[2] == 1,
        disk_lies: order[3] == 1,
        report_id: order[12..44].try_into().expect("32 bytes"),
        host_data: LaunchConfig::parse(config).expect("a configuration").host_data(),
    };
    let path = std::str::from_utf8(&order[config_end..]).expect("a path");
    let disk = File::options().read(true).write(true).open(path).expect("a disk");
    let hardware = Hardware::new(link, launch, number(order, 4), disk).expect("a disk that can be read");
    let (mut durable, mut current) = (boxed::<STATE_BYTES_MAX>(), boxed::<STATE_BYTES_MAX>());
    let (mut workspace, mut session) = (Box::new(Workspace::new()), Box::new(SessionMemory::new()));
    let memory = Memory {
        durable: &mut durable,
        current: &mut current,
        workspace: &mut workspace,
        session: &mut session,
    };
    let engine = ReferenceEngine::claim(draw).expect("no other engine lives");
    let mut stage = Stage::Cold(Cold::new(memory, engine));
    link.send(&[&[told::DONE]]);
    loop {
        let (code, rest) = link.receive();
        if code == order::LAUNCH {
            return (code, rest);
        }
        let before = std::mem::replace(&mut stage, Stage::Over);
        let (after, answer) = hardware.with(|platform| step(before, platform, (code, &rest), config));
        stage = after;
        link.send(&[&answer]);
    }
}

fn boxed<const N: usize>() -> Box<[u8; N]> {
    vec![0; N].try_into().expect("the length fits")
}

/// Carries out one order; what the driver is told.
fn step<'m>(
    stage: Stage<'m>,
    platform: &mut Platform<'_>,
    (code, rest): (u8, &[u8]),
    config: &[u8],
) -> (Stage<'m>, Vec<u8>) {
    let done = vec![told::DONE];
    match (code, stage) {
        (order::GRANT, Stage::Cold(cold)) => match cold.identify(platform, config) {
            Ok(identified) => ask(identified, platform),
            Err(fault) => (Stage::Over, failed(fault)),
        },
        (order::GRANT, Stage::Identified(identified)) => ask(identified, platform),
        (order::FINISH, Stage::Released(released)) => {
            match released.unseal(platform).and_then(|unsealed| unsealed.confirm(platform)) {
                Ok(vtpm) => (Stage::Running(vtpm), done),
                Err(fault) => (Stage::Over, failed(fault)),
            }
        }
        (order::COMMAND, Stage::Running(mut vtpm)) => {
            let mut buffer = [0; COMMAND_BYTES_MAX];
            let answer = match vtpm.execute(platform, Locality::Zero, rest, &mut buffer) {
                Ok(response) => [&done[..], response].concat(),
                Err(fault) => failed(fault),
            };
            (Stage::Running(vtpm), answer)
        }
        (order::RESET, Stage::Running(mut vtpm)) => {
            let answer = vtpm.reset(platform).map_or_else(failed, |()| done);
            (Stage::Running(vtpm), answer)
        }
        (order::SHUT_DOWN, Stage::Running(mut vtpm)) => {
            let answer = vtpm.shutdown(platform).map_or_else(failed, |()| done);
            (Stage::Running(vtpm), answer)
        }
        (_, stage) => (stage, failed(ReleaseFault::Misuse.fault())),
    }
}

fn ask<'m>(identified: Identified<'m, ReferenceEngine>, platform: &mut Platform<'_>) -> (Stage<'m>, Vec<u8>) {
    match identified.release(platform) {
        Asked::Released(released) => (Stage::Released(released), vec![told::DONE]),
        Asked::Busy { again, retry_ms } => {
            (Stage::Identified(again), [&[told::BUSY][..], &u64::from(retry_ms).to_le_bytes()].concat())
        }
        Asked::Refused { again, fault } => (Stage::Identified(again), failed(fault)),
    }
}

fn failed(fault: Fault) -> Vec<u8> {
    [&[told::FAULT][..], &u64::from(fault.code()).to_le_bytes()].concat()
}
