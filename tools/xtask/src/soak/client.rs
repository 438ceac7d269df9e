//! One client: what it does next, what the model says must come of it, and what it sees.

use super::dice::Dice;
use super::generate::{Surroundings, command_of_any_kind};
use super::link::{Fate, Link};
use super::model::{self, Content, INDICES, KEYS, Kind, PCRS, SHAPES, Seen, View};
use super::templates::{index_public, storage_key};
use super::wire::{Reply, be32, cc, command, hex, rc, rh, sized, unsized_bytes};
use super::world::World;
use crate::failure::Failure;
use std::collections::VecDeque;

/// TPMA_NV: written and read by the index's own password.
const BY_AUTH: u32 = 1 << 2 | 1 << 18;
/// TPMA_NV_NO_DA.
const NO_DA: u32 = 1 << 25;

/// TPM_CAP_TPM_PROPERTIES and TPM_PT_LOCKOUT_COUNTER.
const LOCKOUT_COUNTER: [u32; 3] = [6, 0x20E, 1];
/// TPM_CAP_HANDLES from the first transient one.
const TRANSIENT_HANDLES: [u32; 3] = [1, 0x8000_0000, 16];

/// How many of the last commands a failure shows.
const REMEMBERED: usize = 4;

/// Whether a client goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Another,
    Over,
}

/// A client, over all lives of the TPM.
#[derive(Debug)]
pub(super) struct Client {
    number: usize,
    dice: Dice,
    view: View,
    /// What the TPM also may hold, if the last command was lost.
    or: Option<View>,
    last: VecDeque<String>,
}

impl Client {
    pub(super) fn new(number: usize, seed: u64) -> Self {
        let dice = Dice::of(seed, 100 + number as u64);
        Self { number, dice, view: View::new(), or: None, last: VecDeque::new() }
    }

    /// Its indices and keys, by number.
    pub(super) fn index(number: usize, at: usize) -> u32 {
        index_base(number) + u32::try_from(at).unwrap_or(0)
    }

    pub(super) fn key(number: usize, at: usize) -> u32 {
        0x8100_0100 + 0x10 * u32::try_from(number).unwrap_or(0) + u32::try_from(at).unwrap_or(0)
    }

    fn pcr(&self, at: usize) -> u32 {
        u32::try_from(self.number * PCRS + at).unwrap_or(0)
    }

    fn secret(&self) -> Vec<u8> {
        format!("secret of client {}", self.number).into_bytes()
    }

    /// What it did last, for who looks for the cause of a failure.
    pub(super) fn last_commands(&self) -> String {
        self.last.iter().map(|line| format!("\n      client {}: {line}", self.number)).collect()
    }

    /// The TPM starts again.
    pub(super) fn restart(&mut self) {
        self.view.restart();
        if let Some(or) = &mut self.or {
            or.restart();
        }
    }

    /// Its part of the TPM is what the model says, or one of the two that an outstanding command left possible.
    pub(super) fn verify(&mut self, world: &World<'_>) -> Result<(), Failure> {
        let seen = self.look(world)?;
        let or = self.or.take();
        if !self.view.is(&seen) && !or.as_ref().is_some_and(|or| or.is(&seen)) {
            let other = or.map_or_else(String::new, |or| format!("; nor is {}", or.difference(&seen)));
            return Err(self.failed(&format!("after a start, {}{other}", self.view.difference(&seen))));
        }
        self.view = seen;
        Ok(())
    }

    fn look(&self, world: &World<'_>) -> Result<Seen, Failure> {
        let mut link = world.link()?;
        let mut seen = View::new();
        for at in 0..INDICES {
            seen.indices[at] = self.look_at_index(&mut link, at)?;
        }
        for at in 0..KEYS {
            let reply = answered(
                link.ask(&command(cc::READ_PUBLIC, &[Self::key(self.number, at)], &[], &[]), || ())?,
            )?;
            seen.keys[at] = reply.is_success().then(|| unsized_bytes(reply.body()).to_vec());
        }
        for at in 0..PCRS {
            let reply = answered(link.ask(&pcr_read(self.pcr(at)), || ())?)?;
            seen.pcrs[at] = pcr_value(&reply).ok_or_else(|| self.failed("a PCR cannot be read"))?;
        }
        Ok(seen)
    }

    fn look_at_index(&self, link: &mut Link<'_>, at: usize) -> Result<Option<Content>, Failure> {
        let reply = answered(link.ask(&self.nv_read(at), || ())?)?;
        match reply.code() {
            rc::SUCCESS => Ok(Some(Content::Bytes(unsized_bytes(reply.parameters()).to_vec()))),
            rc::NV_UNINITIALIZED => Ok(Some(Content::Unwritten)),
            _ if reply.names_nothing() => Ok(None),
            code => Err(self.failed(&format!("index {at} cannot be read: 0x{code:x}"))),
        }
    }

    fn nv_read(&self, at: usize) -> Vec<u8> {
        let index = Self::index(self.number, at);
        let size = SHAPES[at].1.to_be_bytes();
        command(cc::NV_READ, &[index, index], &[&self.secret()], &[&size[..], &[0, 0]].concat())
    }

    /// Sends commands until the life is over or the TPM was killed.
    pub(super) fn live(&mut self, world: &World<'_>) -> Result<(), Failure> {
        let mut link = world.link()?;
        while self.act(world, &mut link)? == Next::Another {}
        Ok(())
    }

    fn act(&mut self, world: &World<'_>, link: &mut Link<'_>) -> Result<Next, Failure> {
        match self.dice.below(100) {
            0 => self.toggle_key(world, link),
            1 => self.toggle_index(world, link),
            2 if self.number == 0 => self.change_owner(world, link),
            3 | 4 => self.check_lockout_counter(world, link),
            5 => {
                let stated = [0, 9, 4097, u32::MAX];
                let stated = self.dice.one_of(&stated).unwrap_or(0);
                world.link_if_alive()?.map_or(Ok(()), |other| other.talk_nonsense(stated))?;
                Ok(Next::Another)
            }
            6..=17 => self.extend_pcr(world, link),
            18..=24 => self.read_pcr(world, link),
            25..=44 => self.change_index(world, link),
            45..=54 => self.read_index(world, link),
            _ => self.anything(world, link),
        }
    }

    /// A command that changes this client's part from what it is to `after`.
    fn changing(
        &mut self,
        world: &World<'_>,
        link: &mut Link<'_>,
        command: &[u8],
        after: View,
    ) -> Result<Option<Reply>, Failure> {
        self.or = Some(after);
        let Some(reply) = self.send(world, link, command)? else { return Ok(None) };
        if !reply.is_success() {
            return Err(self.failed(&format!("0x{:x} answers {}", reply.code(), hex(command))));
        }
        if let Some(after) = self.or.take() {
            self.view = after;
        }
        Ok(Some(reply))
    }

    /// Sends a command, unless the life is over; nothing if it is, or was ended meanwhile.
    fn send(
        &mut self,
        world: &World<'_>,
        link: &mut Link<'_>,
        command: &[u8],
    ) -> Result<Option<Reply>, Failure> {
        let Some(turn) = world.turn() else {
            // It was never sent.
            self.or = None;
            return Ok(None);
        };
        let dice = &mut self.dice;
        let fate = link.ask(command, || world.after_sending(turn, dice))?;
        let outcome = match &fate {
            Fate::Answered(reply) => format!("0x{:x}", reply.code()),
            Fate::Lost => "lost".to_owned(),
        };
        self.last.push_back(format!("{outcome} to {}", hex(command)));
        if self.last.len() > REMEMBERED {
            self.last.pop_front();
        }
        Ok(match fate {
            Fate::Answered(reply) => Some(reply),
            Fate::Lost => None,
        })
    }

    fn anything(&mut self, world: &World<'_>, link: &mut Link<'_>) -> Result<Next, Failure> {
        let owner = world.owner();
        let around = Surroundings { indices: &world.indices, persistent: &world.keys, owner: &owner };
        let (bytes, _) = command_of_any_kind(&mut self.dice, &around);
        Ok(next(self.send(world, link, &bytes)?.as_ref()))
    }

    fn change_index(&mut self, world: &World<'_>, link: &mut Link<'_>) -> Result<Next, Failure> {
        let at = self.dice.below(INDICES);
        let Some(content) = self.view.indices[at].clone() else { return self.define(world, link, at) };
        let index = Self::index(self.number, at);
        let (kind, bytes, _) = SHAPES[at];
        let (code, parameters, content) = match kind {
            Kind::Counter => (cc::NV_INCREMENT, Vec::new(), model::incremented(&content)),
            Kind::Bits => {
                let bits = 1 << self.dice.below(64);
                (cc::NV_SET_BITS, u64::to_be_bytes(bits).to_vec(), model::with_bits(&content, bits))
            }
            Kind::Extend => {
                let length = self.dice.below(64);
                let data = self.dice.bytes(length);
                (cc::NV_EXTEND, sized(&data), model::with_data(&content, &data))
            }
            Kind::Ordinary => {
                let (offset, data, content) = self.written(&content, usize::from(bytes));
                (cc::NV_WRITE, [sized(&data), offset.to_be_bytes().to_vec()].concat(), content)
            }
        };
        let secret = self.secret();
        let command = command(code, &[index, index], &[&secret], &parameters);
        let after = self.view.with_index(at, Some(content));
        let done = self.changing(world, link, &command, after)?;
        if done.is_some() && self.view.indices[at] == Some(Content::Started) {
            return self.read_index_at(world, link, at);
        }
        Ok(next(done.as_ref()))
    }

    /// A write of some bytes somewhere; the first is of all, since what a part of it leaves in the rest is the TPM's.
    fn written(&mut self, content: &Content, bytes: usize) -> (u16, Vec<u8>, Content) {
        let Content::Bytes(old) = content else {
            let data = self.dice.bytes(bytes);
            return (0, data.clone(), Content::Bytes(data));
        };
        let offset = self.dice.below(bytes);
        let length = 1 + self.dice.below(bytes - offset);
        let data = self.dice.bytes(length);
        let mut new = old.clone();
        new[offset..offset + length].copy_from_slice(&data);
        (u16::try_from(offset).unwrap_or(0), data, Content::Bytes(new))
    }

    fn define(&mut self, world: &World<'_>, link: &mut Link<'_>, at: usize) -> Result<Next, Failure> {
        let (kind, bytes, counts_failures) = SHAPES[at];
        let attributes = BY_AUTH | if counts_failures { 0 } else { NO_DA } | kind_bits(kind);
        let public = sized(&index_public(Self::index(self.number, at), attributes, bytes));
        let owner = world.owner();
        let parameters = [sized(&self.secret()), public].concat();
        let command = command(cc::NV_DEFINE, &[rh::OWNER], &[&owner], &parameters);
        let after = self.view.with_index(at, Some(Content::Unwritten));
        let done = self.changing(world, link, &command, after)?;
        Ok(next(done.as_ref()))
    }

    /// A counter stays: where its successor begins is the TPM's.
    fn toggle_index(&mut self, world: &World<'_>, link: &mut Link<'_>) -> Result<Next, Failure> {
        let at = 1 + self.dice.below(INDICES - 1);
        if self.view.indices[at].is_none() {
            return self.define(world, link, at);
        }
        let owner = world.owner();
        let command = command(cc::NV_UNDEFINE, &[rh::OWNER, Self::index(self.number, at)], &[&owner], &[]);
        let after = self.view.with_index(at, None);
        let done = self.changing(world, link, &command, after)?;
        Ok(next(done.as_ref()))
    }

    fn read_index(&mut self, world: &World<'_>, link: &mut Link<'_>) -> Result<Next, Failure> {
        let at = self.dice.below(INDICES);
        self.read_index_at(world, link, at)
    }

    fn read_index_at(&mut self, world: &World<'_>, link: &mut Link<'_>, at: usize) -> Result<Next, Failure> {
        let Some(reply) = self.send(world, link, &self.nv_read(at))? else { return Ok(Next::Over) };
        let seen = match reply.code() {
            rc::SUCCESS => Some(Content::Bytes(unsized_bytes(reply.parameters()).to_vec())),
            rc::NV_UNINITIALIZED => Some(Content::Unwritten),
            _ if reply.names_nothing() => None,
            code => return Err(self.failed(&format!("index {at} cannot be read: 0x{code:x}"))),
        };
        let seen = self.view.with_index(at, seen);
        self.same(&seen)
    }

    fn same(&mut self, seen: &Seen) -> Result<Next, Failure> {
        if !self.view.is(seen) {
            return Err(self.failed(&self.view.difference(seen)));
        }
        self.view = seen.clone();
        Ok(Next::Another)
    }

    fn extend_pcr(&mut self, world: &World<'_>, link: &mut Link<'_>) -> Result<Next, Failure> {
        let (at, digest) = (self.dice.below(PCRS), self.dice.bytes(32));
        let parameters = [&[0, 0, 0, 1, 0, 0x0B][..], &digest].concat();
        let command = command(cc::PCR_EXTEND, &[self.pcr(at)], &[b""], &parameters);
        let after = self.view.with_extended(at, &digest);
        let done = self.changing(world, link, &command, after)?;
        Ok(next(done.as_ref()))
    }

    fn read_pcr(&mut self, world: &World<'_>, link: &mut Link<'_>) -> Result<Next, Failure> {
        let at = self.dice.below(PCRS);
        let Some(reply) = self.send(world, link, &pcr_read(self.pcr(at)))? else { return Ok(Next::Over) };
        let mut seen = self.view.clone();
        seen.pcrs[at] = pcr_value(&reply).ok_or_else(|| self.failed("a PCR cannot be read"))?;
        self.same(&seen)
    }

    /// Makes a key persistent, or takes it away. Nobody else may use handles of loaded keys meanwhile.
    fn toggle_key(&mut self, world: &World<'_>, link: &mut Link<'_>) -> Result<Next, Failure> {
        let owner = world.owner_alone();
        let at = self.dice.below(KEYS);
        let persistent = Self::key(self.number, at);
        let mut after = self.view.clone();
        let (loaded, public) = if self.view.keys[at].is_some() {
            // Taking it away loads it for a moment.
            if !self.flush_all(world, link)? {
                return Ok(Next::Over);
            }
            (persistent, None)
        } else {
            let Some((loaded, public)) = self.primary(world, link, &owner)? else { return Ok(Next::Over) };
            (loaded, Some(public))
        };
        after.keys[at] = public;
        let parameters = persistent.to_be_bytes();
        let evict = command(cc::EVICT_CONTROL, &[rh::OWNER, loaded], &[&owner], &parameters);
        let done = self.changing(world, link, &evict, after)?;
        if done.is_none() || loaded == persistent {
            return Ok(next(done.as_ref()));
        }
        let flush = command(cc::FLUSH, &[], &[], &loaded.to_be_bytes());
        Ok(next(self.send(world, link, &flush)?.as_ref()))
    }

    /// A new primary key: its handle and public area. Slots that others have filled are emptied first.
    fn primary(
        &mut self,
        world: &World<'_>,
        link: &mut Link<'_>,
        owner: &[u8],
    ) -> Result<Option<(u32, Vec<u8>)>, Failure> {
        let public = storage_key(&self.dice.bytes(32));
        let parameters = [sized(&[0; 4]), sized(&public), sized(&[]), vec![0; 4]].concat();
        let create = command(cc::CREATE_PRIMARY, &[rh::OWNER], &[owner], &parameters);
        for _ in 0..2 {
            let Some(reply) = self.send(world, link, &create)? else { return Ok(None) };
            match reply.code() {
                // Handle, size of the parameters, public area.
                rc::SUCCESS => {
                    let public = reply.body().get(8..).unwrap_or_default();
                    return Ok(Some((reply.handle(), unsized_bytes(public).to_vec())));
                }
                rc::OBJECT_MEMORY => {
                    if !self.flush_all(world, link)? {
                        return Ok(None);
                    }
                }
                code => return Err(self.failed(&format!("no primary key: 0x{code:x}"))),
            }
        }
        Err(self.failed("no room for a key in empty slots"))
    }

    fn flush_all(&mut self, world: &World<'_>, link: &mut Link<'_>) -> Result<bool, Failure> {
        let Some(reply) = self.send(world, link, &capability(TRANSIENT_HANDLES))? else { return Ok(false) };
        // More data or not, the capability, how many, and each.
        let handles = reply.body().get(9..).unwrap_or_default();
        for loaded in handles.chunks(4).map(|handle| be32(handle, 0)) {
            let flush = command(cc::FLUSH, &[], &[], &loaded.to_be_bytes());
            if self.send(world, link, &flush)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn change_owner(&mut self, world: &World<'_>, link: &mut Link<'_>) -> Result<Next, Failure> {
        let mut owner = world.owner_alone();
        let new = self.dice.bytes(12).iter().map(|byte| byte | 1).collect::<Vec<u8>>();
        let change = command(cc::CHANGE_AUTH, &[rh::OWNER], &[&owner], &sized(&new));
        world.owner_may_become(Some(new.clone()));
        let same = self.view.clone();
        let done = self.changing(world, link, &change, same)?;
        if done.is_some() {
            *owner = new;
            world.owner_may_become(None);
        }
        Ok(next(done.as_ref()))
    }

    fn check_lockout_counter(&mut self, world: &World<'_>, link: &mut Link<'_>) -> Result<Next, Failure> {
        let floor = world.failures_at_least();
        let Some(reply) = self.send(world, link, &capability(LOCKOUT_COUNTER))? else {
            return Ok(Next::Over);
        };
        let count = lockout_count(&reply);
        if count < floor {
            return Err(self.failed(&format!("the lockout counter went back from {floor} to {count}")));
        }
        world.saw_failures(count);
        Ok(Next::Another)
    }

    fn failed(&self, what: &str) -> Failure {
        Failure::failed(format!("soak: client {}: {what}", self.number))
    }
}

fn index_base(number: usize) -> u32 {
    0x0150_0000 + 0x100 * u32::try_from(number).unwrap_or(0)
}

const fn next<T>(done: Option<&T>) -> Next {
    if done.is_some() { Next::Another } else { Next::Over }
}

fn kind_bits(kind: Kind) -> u32 {
    match kind {
        Kind::Ordinary => 0,
        Kind::Counter => 1 << 4,
        Kind::Bits => 2 << 4,
        Kind::Extend => 4 << 4,
    }
}

fn answered(fate: Fate) -> Result<Reply, Failure> {
    match fate {
        Fate::Answered(reply) => Ok(reply),
        Fate::Lost => Err(Failure::failed("soak: killed while it was looked at")),
    }
}

fn pcr_read(pcr: u32) -> Vec<u8> {
    let mut selection = [0, 0, 0, 1, 0, 0x0B, 3, 0, 0, 0];
    selection[7 + pcr as usize / 8] = 1 << (pcr % 8);
    command(cc::PCR_READ, &[], &[], &selection)
}

/// After the update counter, the selection (10 bytes) and a count.
fn pcr_value(reply: &Reply) -> Option<[u8; 32]> {
    unsized_bytes(reply.body().get(18..)?).try_into().ok()
}

pub(super) fn capability(words: [u32; 3]) -> Vec<u8> {
    command(cc::GET_CAPABILITY, &[], &[], &words.map(u32::to_be_bytes).concat())
}

/// More data or not, the capability, how many, the property, its value.
fn lockout_count(reply: &Reply) -> u32 {
    be32(reply.body(), 13)
}
