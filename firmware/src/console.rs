//! The one place where the image speaks: a serial port that the host reads. Static text and codes, never data.
//!
//! # Soundness
//! [`PORT`] is the first serial port of a PC. The guest may use it too: what both write then mixes, and nothing else happens.

use core::hint::spin_loop;
use spin::Mutex;
use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550};

/// COM1.
const PORT: u16 = 0x3F8;
/// How often the transmitter is looked at before a byte is given up: a host that does not read stalls nobody.
const POLLS_MAX: u32 = 100_000;
/// How often the lock is tried by somebody who stops the machine, before it speaks anyway.
const TRIES_MAX: u32 = 10_000_000;

static UART: Mutex<Option<Uart16550<PioBackend>>> = Mutex::new(None);

/// Sets the port up. What was said before is lost.
pub fn open() {
    // SAFETY: PC hardware; whether it answers is seen by `init`.
    let Ok(mut uart) = (unsafe { Uart16550::new_port(PORT) }) else { return };
    // A port that does not answer stays silent: the console is not needed to be safe.
    *UART.lock() = uart.init(Config::default()).is_ok().then_some(uart);
}

/// Shows a line: `text`, a space, `code` in hexadecimal.
pub fn line(text: &'static str, code: u32) {
    if let Some(uart) = UART.lock().as_mut() {
        put_line(uart, text, &[u64::from(code)]);
    }
}

/// The same for somebody who stops the machine, whoever holds the lock.
pub(crate) fn last_line(text: &'static str, codes: &[u64]) {
    for _ in 0..TRIES_MAX {
        if let Some(mut uart) = UART.try_lock() {
            if let Some(uart) = uart.as_mut() {
                put_line(uart, text, codes);
            }
            return;
        }
        spin_loop();
    }
    // SAFETY: as in `open`. The port was set up there; its lock's holder has stopped in the middle of a line.
    if let Ok(mut uart) = unsafe { Uart16550::new_port(PORT) } {
        put_line(&mut uart, text, codes);
    }
}

fn put_line(uart: &mut Uart16550<PioBackend>, text: &'static str, codes: &[u64]) {
    text.bytes().for_each(|byte| put(uart, byte));
    for code in codes {
        b" 0x".iter().for_each(|byte| put(uart, *byte));
        let digits = ((u64::BITS - code.leading_zeros()).div_ceil(4)).max(8);
        for shift in (0..digits).rev().map(|digit| digit * 4) {
            let digit = (code >> shift & 0xF).to_le_bytes()[0];
            put(uart, if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
        }
    }
    b"\r\n".iter().for_each(|byte| put(uart, *byte));
}

fn put(uart: &mut Uart16550<PioBackend>, byte: u8) {
    for _ in 0..POLLS_MAX {
        if uart.try_send_byte(byte).is_ok() {
            return;
        }
        spin_loop();
    }
}

/// The component's seam.
#[derive(Clone, Copy, Debug)]
pub struct Serial;

impl husk::seams::Console for Serial {
    fn line(&mut self, text: &'static str, code: u32) {
        line(text, code);
    }
}
