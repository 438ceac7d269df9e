//! `cargo xtask soak`: commands of every kind from several clients, kills and reopenings, against a model.
//!
//! **What.** A [`site`] (processor, broker, relay) on which the TPM lives several lives. In each, [`client`]s send what
//! [`generate`] draws from the [`grammar`] and what the [`model`] understands; each life ends by SIGKILL or in order. After each start every
//! client's part of the TPM is what the model says, or one of exactly two where a command was lost.
//! **Trust.** The model, a hundred lines that know nothing of Husk.
//! **Laws.** A seed decides each client's choices, the lives' lengths and ends; how the clients' commands interleave it does
//! not. Memory is judged by readings at counted commands. A failure prints the seed and the line to run it again.
//! **Not here.** Other worlds (images under QEMU, migration): they bring a site of their own.

mod client;
mod dice;
mod generate;
mod grammar;
mod link;
mod memory;
mod model;
mod site;
mod templates;
mod wire;
mod world;
pub(crate) mod worlds;

use crate::failure::Failure;
use crate::house;
use crate::product::{Product, Profile};
use crate::steps::Steps;
use client::Client;
use dice::Dice;
use link::Fate;
use memory::{COMMANDS_MIN, GROWTH_KIB_MAX};
use site::Site;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use wire::{Reply, cc, command, hex, rc, rh, sized};
use world::{End, Lasting, World};

pub(crate) const HELP: &str = "\
cargo xtask soak [--minutes N] [--seed S] [--worlds]

Runs a sealed TPM (simulated processor, broker, relay, husk vtpmd) for N minutes (5 by
default) under four clients: every command of TPM 2.0 part 3, valid and malformed, and
commands that a model understands. The TPM is killed and started again all the time;
afterwards it must hold what the model says. Its memory must not grow. A failure prints
the seed; the same seed makes the same choices again, though not the same interleaving.
Disks and logs stay in target/husk/soak.
With --worlds it plays the worlds of tests/worlds.rs instead, one seed after the other
from S: two machines of one VM, the broker's real server, and every fault; it shows how
often each kind of fault came, and what memory, open files and databases grew.";

/// How long, if nothing else is said; in `test --all` too.
pub(crate) const MINUTES: u64 = 5;

/// How long in `test`, with a seed that is always the same.
pub(crate) const BRIEF: Wish = Wish { duration: Duration::from_secs(20), seed: Some(1) };

const CLIENTS: usize = 4;
const _: () = assert!(CLIENTS <= model::CLIENTS_MAX);

/// How long the TPM may take to end in order.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// The lives after which the services' memory counts.
const WARM_LIVES: usize = 2;

/// The passwords that nobody tries.
const PLATFORM: &[u8] = b"platform of the soak";
const LOCKOUT: &[u8] = b"lockout of the soak";
const ENDORSEMENT: &[u8] = b"endorsement of the soak";

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) duration: Duration,
    /// By the clock, if none is given.
    pub(crate) seed: Option<u64>,
}

/// Runs one soak.
pub(crate) fn run(wish: &Wish) -> Result<(), Failure> {
    let mut steps = Steps::default();
    into(&mut steps, wish);
    if steps.all_passed() { Ok(()) } else { Err(Failure::failed("soak: something failed, see above")) }
}

/// Runs one soak as a step.
pub(crate) fn into(steps: &mut Steps, wish: &Wish) {
    let seed = wish.seed.unwrap_or_else(by_clock);
    steps.attempt(&format!("soak with seed {seed}"), || {
        soak(wish.duration, seed).map_err(|failure| told(&failure, wish, seed))
    });
}

/// Seconds since 1970: a seed that no run before had.
fn by_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn told(failure: &Failure, wish: &Wish, seed: u64) -> Failure {
    let minutes = wish.duration.as_secs().div_ceil(60);
    Failure::failed(format!(
        "{failure}\n    seed {seed}; again: cargo xtask soak --minutes {minutes} --seed {seed}"
    ))
}

/// What the lives came to.
#[derive(Debug, Default)]
struct Tally {
    lives: usize,
    kills: usize,
    commands: u64,
    growth_kib: u64,
}

fn soak(duration: Duration, seed: u64) -> Result<String, Failure> {
    let folder = house::fresh_workshop("soak")?;
    let mut site = Site::set(Product::build(&folder, Profile::Dev)?)?;
    let mut clients: Vec<Client> = (0..CLIENTS).map(|number| Client::new(number, seed)).collect();
    let (lasting, mut dice, mut tally) = (Lasting::new(), Dice::of(seed, 0), Tally::default());
    let over = Instant::now() + duration;
    while tally.lives <= WARM_LIVES || Instant::now() < over {
        let outcome = life(&mut site, &mut clients, &lasting, &mut dice, &mut tally);
        outcome.map_err(|failure| {
            let last: String = clients.iter().map(Client::last_commands).collect();
            Failure::failed(format!("life {}: {failure}{last}", tally.lives))
        })?;
        if tally.lives >= WARM_LIVES {
            site.weigh();
        }
    }
    let Tally { lives, kills, commands, growth_kib } = tally;
    let services = site.judge()?;
    Ok(format!(
        "{commands} commands, {lives} lives, {kills} kills; growth: the TPM {growth_kib} KiB, {services}"
    ))
}

/// From a start of the TPM to its end.
fn life(
    site: &mut Site,
    clients: &mut [Client],
    lasting: &Lasting,
    dice: &mut Dice,
    tally: &mut Tally,
) -> Result<(), Failure> {
    tally.lives += 1;
    let end = if dice.once_in(4) { End::Order } else { End::Kill };
    // Now and then one that is long enough to see memory grow.
    let commands = if tally.lives % 4 == 2 { 1500 + dice.next() % 3000 } else { 20 + dice.next() % 600 };
    let (process, socket) = site.open()?;
    let world = World::new(socket, process, (end, commands), clients.len(), lasting);
    begin(&world, lasting, tally.lives == 1)?;
    for client in clients.iter_mut() {
        client.restart();
        client.verify(&world)?;
    }
    let lived: Vec<Result<(), Failure>> = thread::scope(|scope| {
        let threads: Vec<_> = clients.iter_mut().map(|client| scope.spawn(|| client.live(&world))).collect();
        let panicked = || Err(Failure::failed("soak: a client panicked"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked())).collect()
    });
    lived.into_iter().collect::<Result<(), _>>()?;
    tally.commands += world.sent();
    finish(world, end, commands, tally)
}

/// After power-on: the start, the passwords that last no longer than a life, and in the first life all others.
fn begin(world: &World<'_>, lasting: &Lasting, is_first: bool) -> Result<(), Failure> {
    must(world, &command(cc::STARTUP, &[], &[], &[0, 0]))?;
    let change = |who: u32, old: &[u8], new: &[u8]| command(cc::CHANGE_AUTH, &[who], &[old], &sized(new));
    must(world, &change(rh::PLATFORM, b"", PLATFORM))?;
    if is_first {
        // Never locked by failed attempts, which are never forgotten; lockout's own failure lasts until the next start.
        let parameters = [1_000_000u32, 1_000_000, 0].map(u32::to_be_bytes).concat();
        must(world, &command(cc::DA_PARAMETERS, &[rh::LOCKOUT], &[b""], &parameters))?;
        must(world, &change(rh::LOCKOUT, b"", LOCKOUT))?;
        must(world, &change(rh::ENDORSEMENT, b"", ENDORSEMENT))?;
        must(world, &change(rh::OWNER, b"", b"first owner"))?;
        lasting.settle_owner(b"first owner".to_vec());
        return Ok(());
    }
    for owner in lasting.owners() {
        // ClockRateAdjust by nothing: who may do it owns the TPM.
        let probe = command(0x130, &[rh::OWNER], &[&owner], &[0]);
        if asked(world, &probe)?.is_success() {
            lasting.settle_owner(owner);
            return Ok(());
        }
    }
    Err(Failure::failed("soak: after a start, the owner's password is none of those that it may be"))
}

fn asked(world: &World<'_>, command: &[u8]) -> Result<Reply, Failure> {
    match world.link()?.ask(command, || ())? {
        Fate::Answered(reply) => Ok(reply),
        Fate::Lost => Err(Failure::failed("soak: killed before its life began")),
    }
}

fn must(world: &World<'_>, command: &[u8]) -> Result<(), Failure> {
    match asked(world, command)?.code() {
        // `husk vtpmd` never starts a TPM up by itself, but who else did is no matter.
        rc::SUCCESS | rc::INITIALIZE => Ok(()),
        code => Err(Failure::failed(format!("soak: 0x{code:x} answers {}", hex(command)))),
    }
}

/// What was not killed ends in order; then its memory is judged.
fn finish(world: World<'_>, end: End, commands: u64, tally: &mut Tally) -> Result<(), Failure> {
    if end == End::Order {
        world.weigh();
        must(&world, &command(cc::SHUTDOWN, &[], &[], &[0, 0]))?;
    }
    let (process, memory) = world.over();
    match process {
        Some(process) => process.stop(END_PATIENCE)?,
        None => tally.kills += 1,
    }
    if commands >= COMMANDS_MIN {
        tally.growth_kib = tally.growth_kib.max(memory.judge("the TPM", GROWTH_KIB_MAX)?);
    }
    Ok(())
}
