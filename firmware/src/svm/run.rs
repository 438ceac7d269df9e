//! A guest's processor from its claim to the end of the machine.

use super::bus::Below;
use super::counters::{Counter, SHOWN, count, value as value_of};
use super::emulate::{Verdict, emulate, input};
use super::gate::{self, Ruling};
use super::hardware::{self, Processor, port_in, port_out};
use super::machine::{Machine, machine};
use super::ports::{Access, Action};
use super::vcpu::{Life, Next};
use super::vmcb::{Event, Exit};
use super::{calls, cpuid, local_apic, msr, ports, processors, start};
use crate::stop::{self, Farewell, Stop, stop};
use crate::{clock, console, fw_cfg};
use core::hint::spin_loop;
use husk::frontend::svsm::Registers;

/// What the TPM's shutdown may take before the machine goes off without it.
const SHUT_DOWN_MS_MAX: u64 = 20_000;
const CR0_PG: u64 = 1 << 31;
const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const R8: usize = 8;
const R9: usize = 9;

/// Runs processor `cpu` of the guest, which is the calling one, for ever. The first one waits for [`processors::begin`].
pub fn run(cpu: usize) -> ! {
    let Some(machine) = machine() else { stop(Stop::Bug, line!()) };
    let processor = match Processor::claim(cpu) {
        Ok(processor) => processor,
        Err(unfit) => stop(Stop::Processor, unfit as u32),
    };
    let mut guest = Guest { machine, cpu, processor, life: Life::Waits, apic: local_apic::State::now() };
    loop {
        guest.wait();
        guest.inside();
    }
}

struct Guest {
    machine: &'static Machine,
    cpu: usize,
    processor: Processor,
    life: Life,
    apic: local_apic::State,
}

/// What follows an exit.
enum After {
    /// The guest goes on.
    On,
    /// The guest is left.
    Left,
}

impl Guest {
    /// Outside the guest until there is somewhere to begin.
    fn wait(&mut self) {
        processors::set_busy(self.cpu, false);
        loop {
            stop::halt_if_stopping();
            if self.cpu == 0
                && let Some(entry) = processors::take_entry()
            {
                processors::set_busy(self.cpu, true);
                let area = &mut *self.processor.area;
                let signature = hardware::raw_cpuid(1, 0).eax;
                start::first(&mut area.vmcb, &mut area.registers, &self.machine.fences, (&entry, signature));
                self.life = Life::Runs;
                break;
            }
            if !processors::mailbox(self.cpu).is_empty() {
                processors::set_busy(self.cpu, true);
                let (life, next) = self.life.step(processors::mailbox(self.cpu).take());
                self.life = life;
                if let (Next::Begin(page), 1..) = (next, self.cpu) {
                    let area = &mut *self.processor.area;
                    start::real(&mut area.vmcb, &mut area.registers, &self.machine.fences, page);
                    break;
                }
                self.life = Life::Waits;
                processors::set_busy(self.cpu, false);
            }
            spin_loop();
        }
        count(Counter::Start);
        hardware::clean_vector_state();
    }

    /// Inside the guest until somebody pulls this processor out for good.
    fn inside(&mut self) {
        loop {
            if let After::Left = self.heed() {
                return;
            }
            if processors::is_stale(self.cpu) {
                self.processor.area.vmcb.flush();
            }
            self.processor.run();
            count(Counter::Exits);
            self.exit();
        }
    }

    /// Does what others want of this processor.
    fn heed(&mut self) -> After {
        stop::halt_if_stopping();
        let mailbox = processors::mailbox(self.cpu);
        if mailbox.is_empty() {
            return After::On;
        }
        let (life, next) = self.life.step(mailbox.take());
        self.life = life;
        match next {
            Next::Same => After::On,
            Next::Nmi => {
                let vmcb = &mut self.processor.area.vmcb;
                if vmcb.is_injecting() || vmcb.holds_nmi() {
                    mailbox.nmi();
                } else {
                    vmcb.inject(Event::Nmi);
                }
                After::On
            }
            Next::Begin(page) => {
                let area = &mut *self.processor.area;
                start::real(&mut area.vmcb, &mut area.registers, &self.machine.fences, page);
                self.apic.restore();
                hardware::clean_vector_state();
                count(Counter::Start);
                After::On
            }
            Next::Leave => {
                self.apic.restore();
                After::Left
            }
            Next::Halt => {
                self.apic.restore();
                if self.cpu == 0 {
                    self.reset();
                }
                After::Left
            }
        }
    }

    /// The first processor resets what of the machine the layer must reset, and asks for a new start.
    fn reset(&self) {
        count(Counter::Reset);
        console::line("husk: the guest resets", 0);
        // Nobody of before drives a device any more when it is reset, so that none acts on the guest that comes.
        processors::await_others();
        local_apic::silence_machine();
        self.machine.reset_ports();
        processors::ask_for_start();
    }

    fn exit(&mut self) {
        match self.processor.area.vmcb.exit() {
            Exit::Nmi => {
                count(Counter::Nmi);
                // Asked first: another kick that comes meanwhile has an NMI of its own, which must not look like the guest's.
                let is_the_layers = processors::was_kicked(self.cpu);
                hardware::take_nmi();
                if !is_the_layers {
                    processors::mailbox(self.cpu).nmi();
                }
            }
            Exit::Iret => self.processor.area.vmcb.release_nmi(),
            Exit::Cpuid => self.cpuid(),
            Exit::Invd => {
                hardware::write_back_caches();
                self.advance(2);
            }
            Exit::Port => self.port(),
            Exit::Msr => self.msr(),
            Exit::Shutdown => processors::reset(),
            Exit::Vmmcall => self.call(),
            Exit::Undefined => {
                count(Counter::Refused);
                self.raise(Event::InvalidOpcode);
            }
            Exit::NestedFault => self.nested_fault(),
            Exit::Smi | Exit::Init => stop(Stop::Processor, 0x100),
            Exit::Other(code) => stop(Stop::Bug, u32::try_from(code).unwrap_or(u32::MAX)),
        }
    }

    /// A call to the layer, as `gate` judges it. Without an answer this processor's life ends, and RIP means nothing any more.
    fn call(&mut self) {
        count(Counter::Call);
        let area = &mut *self.processor.area;
        let held = &mut area.registers.0;
        let [rax, rcx, rdx, r8, r9] = [RAX, RCX, RDX, R8, R9].map(|register| held[register]);
        let registers = Registers { rax, rcx, rdx, r8, r9 };
        let answer = match gate::judge(self.machine.ways.gate, &area.vmcb.save, registers) {
            Ruling::Undefined => {
                count(Counter::Refused);
                return self.raise(Event::InvalidOpcode);
            }
            Ruling::Doorbell => {
                self.machine.ring();
                Some(Registers { rax: 0, ..registers })
            }
            Ruling::Call(call) => calls::ask(self.cpu, call),
        };
        if let Some(answer) = answer {
            let Registers { rax, rcx, rdx, r8, r9 } = answer;
            for (register, value) in [(RAX, rax), (RCX, rcx), (RDX, rdx), (R8, r8), (R9, r9)] {
                held[register] = value;
            }
            self.advance(3);
        }
    }

    fn cpuid(&mut self) {
        count(Counter::Cpuid);
        let cr4 = self.processor.area.vmcb.save.cr4;
        let registers = &mut self.processor.area.registers.0;
        let [leaf, subleaf] = [registers[RAX], registers[RCX]].map(low);
        let found = cpuid::filter(leaf, subleaf, hardware::raw_cpuid(leaf, subleaf), cr4);
        registers[RAX] = found.eax.into();
        registers[RBX] = found.ebx.into();
        registers[RCX] = found.ecx.into();
        registers[RDX] = found.edx.into();
        self.advance(2);
    }

    fn msr(&mut self) {
        count(Counter::Msr);
        let area = &mut *self.processor.area;
        let writes = area.vmcb.exit_info().0 & 1 != 0;
        let registers = &mut area.registers.0;
        let register = low(registers[RCX]);
        let written = u64::from(low(registers[RDX])) << 32 | u64::from(low(registers[RAX]));
        let mcg_cap = if msr::BANKS.contains(&register) { hardware::read_msr(msr::MCG_CAP) } else { 0 };
        let answer = if writes {
            let now = msr::Now {
                efer: area.vmcb.save.efer,
                paging: area.vmcb.save.cr0 & CR0_PG != 0,
                apic_base: hardware::read_msr(msr::APIC_BASE),
                mcg_cap,
            };
            msr::write(register, written, now)
        } else {
            msr::read(register, area.vmcb.save.efer, mcg_cap)
        };
        let mut show = |value: u64| {
            registers[RAX] = value & 0xFFFF_FFFF;
            registers[RDX] = value >> 32;
        };
        match answer {
            msr::Answer::Value(value) => show(value),
            msr::Answer::Real => show(hardware::read_msr(register)),
            msr::Answer::Efer(value) => {
                area.vmcb.save.efer = value | super::vmcb::EFER_SVME;
                area.vmcb.flush();
            }
            msr::Answer::Tsc(value) => area.vmcb.set_tsc(value, clock::ticks()),
            msr::Answer::Ignored => {}
            msr::Answer::Refused => {
                count(Counter::Refused);
                return self.raise(Event::GeneralProtection);
            }
        }
        self.advance(2);
    }

    fn port(&mut self) {
        count(Counter::Port);
        let (info, next) = self.processor.area.vmcb.exit_info();
        let access = Access::of(info);
        if access.is_string {
            return self.string_port(access, next);
        }
        let held = self.processor.area.registers.0[RAX];
        let written = low(held) & (u32::MAX >> (32 - 8 * u32::from(access.bytes)));
        let found = match self.machine.disk_access(self.cpu, access, written) {
            Some(found) => found,
            None => self.judged(access, written),
        };
        if access.reads {
            self.processor.area.registers.0[RAX] = match access.bytes {
                1 => held & !0xFF | u64::from(found & 0xFF),
                2 => held & !0xFFFF | u64::from(found & 0xFFFF),
                _ => found.into(),
            };
        }
        self.processor.area.vmcb.advance_to(next);
    }

    /// What comes of an access to any other port.
    fn judged(&self, access: Access, written: u32) -> u32 {
        let action = self.machine.ports.lock().judge(access, written);
        match action {
            Action::Pass if access.reads => port_in(access.port, access.bytes),
            Action::Pass => out(access, written),
            Action::Write(value) => out(access, value),
            Action::Hole => {
                count(Counter::HiddenPort);
                u32::MAX
            }
            Action::Configuration => self.configuration(access, written),
            Action::Select(key) => {
                fw_cfg::cabinet().select(key);
                u32::MAX
            }
            Action::Item => {
                let mut byte = [0];
                fw_cfg::cabinet().read(&self.machine.memory, &mut byte);
                byte[0].into()
            }
            Action::Reset => {
                processors::reset();
                u32::MAX
            }
            Action::PowerOff(word) => power_off(access.port, word),
        }
    }

    /// INS and OUTS: only what reads the layer's configuration device.
    fn string_port(&mut self, access: Access, next: u64) {
        let machine = self.machine;
        // Nothing is written here, whatever RAX holds: an OUTS is judged as one that nobody may.
        let action = if access.reads { machine.ports.lock().judge(access, 0) } else { Action::Hole };
        let mut source = |into: &mut [u8]| fw_cfg::cabinet().read(&machine.memory, into);
        if action != Action::Item {
            count(Counter::Refused);
            return self.raise(Event::GeneralProtection);
        }
        let area = &mut *self.processor.area;
        let mut below = Below { machine, cpu: self.cpu };
        match input(&mut area.vmcb.save, &mut area.registers, &mut below, &mut source) {
            Verdict::Done(_) => area.vmcb.advance_to(next),
            verdict => self.follow(verdict),
        }
    }

    fn configuration(&self, access: Access, written: u32) -> u32 {
        let is_address = access.port == ports::CONFIG_ADDRESS;
        let mut inventory = self.machine.inventory.lock();
        let pointed = inventory.pointed();
        let lane = u8::try_from(access.port & 3).unwrap_or(0);
        match (is_address, access.reads) {
            (true, true) => inventory.address(),
            (true, false) => {
                inventory.set_address(written);
                u32::MAX
            }
            (false, true) => {
                drop(inventory);
                let read =
                    pointed.map(|(function, offset)| self.machine.configuration_read(function, offset));
                read.map_or(u32::MAX, |register| register >> (8 * u32::from(lane)))
            }
            (false, false) => {
                drop(inventory);
                let counted = pointed.is_some_and(|(function, offset)| {
                    self.machine.configuration_write((function, offset | lane), written, access.bytes)
                });
                if !counted {
                    count(Counter::HiddenPort);
                }
                u32::MAX
            }
        }
    }

    fn nested_fault(&mut self) {
        const WALK: u64 = 1 << 33;
        const FETCH: u64 = 1 << 4;
        let area = &mut *self.processor.area;
        let (info, at) = area.vmcb.exit_info();
        if info & WALK != 0 {
            // Its tables lie in a hole: the next thing would be a triple fault.
            count(Counter::Odd);
            console::line("husk: the guest's page tables are where it has no memory, at", low(at));
            return processors::reset();
        }
        if info & FETCH != 0 {
            count(Counter::HiddenMemory);
            return self.raise(Event::InvalidOpcode);
        }
        let mut below = Below { machine: self.machine, cpu: self.cpu };
        let verdict = emulate(&mut area.vmcb.save, &mut area.registers, &mut below);
        self.follow(verdict);
    }

    /// What became of an instruction that was emulated.
    fn follow(&mut self, verdict: Verdict) {
        let area = &mut *self.processor.area;
        match verdict {
            Verdict::Done(bytes) => area.vmcb.advance(bytes.into()),
            Verdict::Again => {}
            Verdict::Raise(event, linear) => {
                count(Counter::Odd);
                if let Event::PageFault(_) = event {
                    area.vmcb.save.cr2 = linear;
                }
                area.vmcb.inject(event);
            }
        }
    }

    fn raise(&mut self, event: Event) {
        self.processor.area.vmcb.inject(event);
    }

    fn advance(&mut self, bytes: u64) {
        let vmcb = &mut self.processor.area.vmcb;
        match vmcb.next_rip() {
            Some(rip) => vmcb.advance_to(rip),
            None => vmcb.advance(bytes),
        }
    }
}

/// The TPM goes first, then what was counted is shown, then the layer's secrets are wiped and the machine goes off.
fn power_off(port: u16, word: u16) -> ! {
    let in_order = processors::await_shut_down(SHUT_DOWN_MS_MAX);
    console::line("husk: the guest is off; the TPM shut down first", u32::from(in_order));
    for (counter, text) in SHOWN {
        console::line(text, u32::try_from(value_of(counter)).unwrap_or(u32::MAX));
    }
    stop::power_off(Farewell { port, word })
}

/// Writes the port; what a read would find is nothing.
fn out(access: Access, value: u32) -> u32 {
    port_out(access.port, access.bytes, value);
    u32::MAX
}

const fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
