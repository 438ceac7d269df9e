//! The layer's memory, looked at from outside: what lies where, and everything that a machine holds.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// The layer's region (`memory::LAYER` of the firmware).
pub(crate) const LAYER: Range<u64> = 0x1000_0000..0x1080_0000;

/// Its last page (`memory::SECRETS_PAGE`).
const SECRETS_PAGE: u64 = 0x107F_F000;

const ACCESSED: u8 = 1 << 5;
const DIRTY: u8 = 1 << 6;

/// One name of the image.
#[derive(Clone, Debug)]
struct Symbol {
    name: String,
    range: Range<u64>,
}

/// What `cargo xtask image` lists beside the image.
pub(crate) struct Symbols(Vec<Symbol>);

impl Symbols {
    /// The symbols of an image.
    pub(crate) fn of(image: &Path) -> Self {
        let path = image.with_extension("symbols");
        let text = std::fs::read_to_string(&path).expect("`cargo xtask image` lists the symbols");
        Self(text.lines().filter_map(symbol).collect())
    }

    /// Where a name stands.
    pub(crate) fn place(&self, name: &str) -> u64 {
        let found = self.0.iter().find(|symbol| symbol.name == name);
        found.unwrap_or_else(|| panic!("no {name} in the image")).range.start
    }

    /// What has that name, all of it.
    pub(crate) fn whole(&self, name: &str) -> Range<u64> {
        let found = self.0.iter().find(|symbol| symbol.name == name && !symbol.range.is_empty());
        found.unwrap_or_else(|| panic!("no {name} in the image")).range.clone()
    }

    /// The name of what lies at an address; what has none is called by what is before it.
    pub(crate) fn at(&self, address: u64) -> &str {
        if address >= LAYER.end {
            return "the payload, or what lies behind it";
        } else if address >= SECRETS_PAGE {
            return "the secrets page";
        }
        let after = self.0.partition_point(|symbol| symbol.range.start <= address);
        let before = self.0[..after].iter().rev();
        // Borders may stand at the same address.
        let found = before.clone().take(4).find(|symbol| symbol.range.contains(&address));
        found.or(before.clone().next()).map_or("nothing", |symbol| symbol.name.as_str())
    }

    /// The region in which secrets lie and which is wiped.
    pub(crate) fn secrets(&self) -> Range<u64> {
        self.place("husk_secrets_start")..self.place("husk_secrets_end")
    }
}

/// `address [size] kind name`, in hexadecimal digits of 16 places.
fn symbol(line: &str) -> Option<Symbol> {
    let (address, rest) = line.split_once(' ')?;
    let start = u64::from_str_radix(address, 16).ok()?;
    let (first, after) = rest.split_once(' ')?;
    let (size, name) = match u64::from_str_radix(first, 16) {
        Ok(size) if first.len() == 16 => (size, after.split_once(' ')?.1),
        _ => (0, after),
    };
    Some(Symbol { name: name.to_owned(), range: start..start + size })
}

/// What a machine's memory held at one instant.
pub(crate) struct Memory {
    start: u64,
    bytes: Vec<u8>,
}

impl Memory {
    /// These bytes, from an address on.
    pub(crate) const fn new(start: u64, bytes: Vec<u8>) -> Self {
        Self { start, bytes }
    }

    /// The bytes of a range.
    pub(crate) fn at(&self, range: &Range<u64>) -> &[u8] {
        let place = |at: u64| usize::try_from(at - self.start).expect("an address");
        &self.bytes[place(range.start)..place(range.end)]
    }

    /// All of it.
    pub(crate) fn all(&self) -> &[u8] {
        &self.bytes
    }

    /// The same, as if every page that is mapped in these tables had been read and written: processors set two bits of an entry where it
    /// was used (AMD64 APM volume 2, section 5.4.2).
    pub(crate) fn with_marks_in(mut self, tables: &[Range<u64>]) -> Self {
        for table in tables {
            let place = |at: u64| usize::try_from(at - self.start).expect("an address");
            let entries = &mut self.bytes[place(table.start)..place(table.end)];
            entries.iter_mut().step_by(8).for_each(|entry| *entry |= ACCESSED | DIRTY);
        }
        self
    }

    /// Where it is not what it was, by the names of what lies there, each with its first and last address.
    pub(crate) fn changed_since<'s>(
        &self,
        before: &Self,
        symbols: &'s Symbols,
    ) -> BTreeMap<&'s str, [u64; 2]> {
        assert_eq!((self.start, self.bytes.len()), (before.start, before.bytes.len()), "the same stretch");
        let mut changed = BTreeMap::new();
        for (at, (now, then)) in (self.start..).zip(self.bytes.iter().zip(&before.bytes)) {
            if now != then {
                changed.entry(symbols.at(at)).or_insert([at; 2])[1] = at;
            }
        }
        changed
    }
}
