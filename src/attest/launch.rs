//! The launch configuration: whom this VM trusts, who it is and which promise it makes.
//!
//! **What.** A flat CoCo initdata document (version 0.1.0) with Husk's keys: [`LaunchConfig::parse`] reads it,
//! [`LaunchConfig::write`] writes it.
//! **Trust.** None until [`LaunchConfig::bind`] has compared its SHA-256 with the HOST_DATA of this VM's own report.
//! **Laws.** The grammar is for the whole file and has one spelling for each value: what parses is byte for byte what
//! `write` writes. Every key once, in order; lower-case hexadecimal; no leading zeros; nothing else, no other TOML. What this build
//! cannot do parses (the file is the tenant's), but never binds.
//! **Not here.** Whether a tenant enrolled it: the broker's.
//!
//! ```text
//! algorithm = "sha256"
//! version = "0.1.0"
//! [data]
//! "husk.tenant" = "<32 hex>"
//! "husk.vm" = "<32 hex>"
//! "husk.root" = "<96 hex: SHA-384 of the tenant root key's SEC 1 point>"
//! "husk.mode" = "strict"              (or ephemeral, hw-sealed)
//! "husk.serve" = "lease"              (or percmd, detect; none with hw-sealed, and only there)
//! "husk.kbs" = "none"                 (or required, with strict only)
//! "husk.min_key_generation" = "<u32>"
//! ```
//!
//! and, where a key of the processor is an input of the volume's key, three lines more. Their absence says that it is none:
//!
//! ```text
//! "husk.processor" = "chip"
//! "husk.processor_svn" = "any"        (or <u32>: images of a lower GUEST_SVN get another key or none)
//! "husk.processor_tcb" = "any"        (or <16 hex>, as in a report: firmware below it gets another key or none)
//! ```
//!
//! and, where commits that may be lost are answered before they are anchored ([`Staleness`]), three lines more. Their absence says
//! that every commit is anchored first:
//!
//! ```text
//! "husk.staleness_commits" = "<1 to 1000>"
//! "husk.staleness_s" = "<1 to 3600>"
//! "husk.staleness_nv" = "<8 hex>-<8 hex>"    (NV indices, the first and the last)
//! ```
//!
//! and, where a guest in a UEFI firmware begins with variables of the tenant's choice, and keeps them, one line more. Its absence says that the host brings
//! what it likes:
//!
//! ```text
//! "husk.firmware_variables" = "<96 hex: SHA-384 of the store that the first launch takes>"
//! ```

mod bound;
mod staleness;

pub use bound::{AnchoredConfig, BoundConfig, HwSealedConfig, Named};
pub use staleness::{NvIndices, Staleness};

use super::AttestFault;
use crate::seams::DerivedKeyRequest;
use core::fmt;
use sha2::{Sha256, Sha384};

/// The longest configuration in bytes.
pub const CONFIG_BYTES_MAX: usize = 2048;

/// What every configuration starts with.
const HEADER: &str = "algorithm = \"sha256\"\nversion = \"0.1.0\"\n[data]\n";

/// The only root of a processor's key: this chip's (VCEK).
const CHIP: &str = "chip";
/// The first of the lines on staleness, and the line on variables.
const STALENESS_FIRST: &str = "husk.staleness_commits";
const VARIABLES: &str = "husk.firmware_variables";
/// No particular value: the field is not mixed in.
const ANY: &str = "any";

macro_rules! words {
    ($($(#[$doc:meta])* pub enum $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }
        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The word in the configuration.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
            /// The value of that word, if there is one.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    )+};
}

words! {
    /// What protects the state against rollback.
    pub enum Mode {
        /// Every commit is anchored at the broker before its response leaves.
        Strict = "strict",
        /// There is no state: the TPM is made at each launch that a broker grants, and forgotten with it.
        Ephemeral = "ephemeral",
        /// No broker: a key of the processor alone, and no protection against rollback.
        HwSealed = "hw-sealed",
    }

    /// What keeps a second instance from answering.
    pub enum Serve {
        /// Answers only within a lease on a trusted clock.
        Lease = "lease",
        /// The broker permits each command that carries meaning outside.
        PerCommand = "percmd",
        /// Nothing: a second instance shows in resetCount only.
        Detect = "detect",
        /// Nothing, and a second instance may not show at all: there is no broker that counts launches.
        Nothing = "none",
    }

    /// Whether a static key of a CoCo KBS goes into the state's key.
    pub enum Kbs {
        /// No.
        None = "none",
        /// Yes; without it nothing opens.
        Required = "required",
    }
}

/// What the tenant wants of this launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    /// The tenant.
    pub tenant: [u8; 16],
    /// The VM.
    pub vm: [u8; 16],
    /// SHA-384 of the tenant root key's uncompressed SEC 1 point (97 bytes).
    pub root: [u8; 48],
    /// What protects against rollback.
    pub mode: Mode,
    /// What keeps a second instance from answering.
    pub serve: Serve,
    /// Whether a KBS key is an input.
    pub kbs: Kbs,
    /// Broker keys of an older generation are refused.
    pub min_key_generation: u32,
    /// Whether a key of the processor is an input of the volume's key, and what must be mixed into it.
    pub processor: Option<DerivedKeyRequest>,
    /// How much of what was answered may be lost at a boot; nothing: none of it.
    pub staleness: Option<Staleness>,
    /// SHA-384 of the variables that a UEFI firmware begins with, which are kept then in every launch in such a firmware; nothing: the host brings what it likes, or none, and the
    /// PCRs say what.
    pub variables: Option<[u8; 48]>,
}

impl LaunchConfig {
    /// Reads a configuration by the grammar above.
    ///
    /// # Errors
    /// [`AttestFault::ConfigMalformed`] for anything but that one spelling.
    pub fn parse(bytes: &[u8]) -> Result<Self, AttestFault> {
        if bytes.len() > CONFIG_BYTES_MAX {
            return Err(AttestFault::ConfigMalformed);
        }
        let text = core::str::from_utf8(bytes).map_err(|_| AttestFault::ConfigMalformed)?;
        Self::parse_text(text).ok_or(AttestFault::ConfigMalformed)
    }

    fn parse_text(text: &str) -> Option<Self> {
        let mut lines = Lines(text.strip_prefix(HEADER)?);
        let config = Self {
            tenant: hex(lines.value("husk.tenant")?)?,
            vm: hex(lines.value("husk.vm")?)?,
            root: hex(lines.value("husk.root")?)?,
            mode: Mode::from_word(lines.value("husk.mode")?)?,
            serve: Serve::from_word(lines.value("husk.serve")?)?,
            kbs: Kbs::from_word(lines.value("husk.kbs")?)?,
            min_key_generation: decimal(lines.value("husk.min_key_generation")?)?,
            processor: if lines.begins("husk.processor") { Some(processor(&mut lines)?) } else { None },
            staleness: if lines.begins(STALENESS_FIRST) { Some(Staleness::read(&mut lines)?) } else { None },
            variables: if lines.0.is_empty() { None } else { Some(hex(lines.value(VARIABLES)?)?) },
        };
        lines.0.is_empty().then_some(config)
    }

    /// Writes the configuration's one spelling.
    ///
    /// # Errors
    /// What `out` returns.
    pub fn write(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(out, "{}\"husk.tenant\" = \"{}\"", HEADER, Hex(&self.tenant))?;
        writeln!(out, "\"husk.vm\" = \"{}\"", Hex(&self.vm))?;
        writeln!(out, "\"husk.root\" = \"{}\"", Hex(&self.root))?;
        writeln!(out, "\"husk.mode\" = \"{}\"", self.mode.word())?;
        writeln!(out, "\"husk.serve\" = \"{}\"", self.serve.word())?;
        writeln!(out, "\"husk.kbs\" = \"{}\"", self.kbs.word())?;
        writeln!(out, "\"husk.min_key_generation\" = \"{}\"", self.min_key_generation)?;
        self.processor.map_or(Ok(()), |key| write_processor(&key, out))?;
        self.staleness.map_or(Ok(()), |staleness| staleness.write(out))?;
        self.variables.map_or(Ok(()), |digest| writeln!(out, "\"{VARIABLES}\" = \"{}\"", Hex(&digest)))
    }

    /// Writes the configuration's bytes to the front of `into` and returns how many there are.
    ///
    /// # Errors
    /// [`AttestFault::ConfigMalformed`] if they do not fit.
    pub fn write_to(&self, into: &mut [u8]) -> Result<usize, AttestFault> {
        let mut sink = Slice { into, len: 0 };
        self.write(&mut sink).map_err(|_| AttestFault::ConfigMalformed)?;
        Ok(sink.len)
    }

    /// SHA-384 of the configuration's bytes, as REPORT_DATA binds it.
    #[must_use]
    pub fn digest(&self) -> [u8; 48] {
        self.hashed::<Sha384>().into()
    }

    /// SHA-256 of the configuration's bytes: the HOST_DATA to launch with.
    #[must_use]
    pub fn host_data(&self) -> [u8; 32] {
        self.hashed::<Sha256>().into()
    }

    fn hashed<D: sha2::Digest>(&self) -> sha2::digest::Output<D> {
        let mut sink = Hashing(D::new());
        // A hash takes every byte, so that this cannot fail; if it did, the digest would match nothing.
        match self.write(&mut sink) {
            Ok(()) => sink.0.finalize(),
            Err(fmt::Error) => D::new().finalize(),
        }
    }

    /// Whether this build can do what the configuration asks.
    ///
    /// # Errors
    /// [`AttestFault::ConfigUnsupported`].
    pub const fn supported(&self) -> Result<(), AttestFault> {
        match (self.mode, self.serve, self.kbs, self.processor, self.staleness) {
            (
                Mode::Strict,
                Serve::Lease | Serve::PerCommand | Serve::Detect,
                Kbs::None | Kbs::Required,
                _,
                None,
            )
            | (Mode::Strict, Serve::Lease, Kbs::None | Kbs::Required, _, Some(_))
            | (Mode::Ephemeral, Serve::Lease | Serve::PerCommand | Serve::Detect, Kbs::None, None, None)
            | (Mode::HwSealed, Serve::Nothing, Kbs::None, Some(_), None) => Ok(()),
            _ => Err(AttestFault::ConfigUnsupported),
        }
    }

    /// Takes the configuration as this launch's, if the HOST_DATA of this VM's own report says so and this build
    /// can do what it asks.
    ///
    /// # Errors
    /// [`AttestFault::ConfigUnbound`] or [`AttestFault::ConfigUnsupported`].
    pub fn bind(&self, report_host_data: &[u8; 32]) -> Result<BoundConfig, AttestFault> {
        if self.host_data() != *report_host_data {
            return Err(AttestFault::ConfigUnbound);
        }
        self.supported()?;
        Ok(BoundConfig(*self))
    }
}

/// What is left of the file, taken line by line.
struct Lines<'a>(&'a str);

impl<'a> Lines<'a> {
    /// Whether the next line is of `key`.
    fn begins(&self, key: &str) -> bool {
        let line = self.0.strip_prefix('"').and_then(|line| line.strip_prefix(key));
        line.is_some_and(|line| line.starts_with('"'))
    }

    /// Takes the next line, which must be `"key" = "value"`, and yields the value.
    fn value(&mut self, key: &str) -> Option<&'a str> {
        let (line, rest) = self.0.split_once('\n')?;
        self.0 = rest;
        let line = line.strip_prefix('"')?.strip_prefix(key)?;
        line.strip_prefix("\" = \"")?.strip_suffix('"')
    }
}

/// The lines of a processor's key.
fn processor(lines: &mut Lines<'_>) -> Option<DerivedKeyRequest> {
    if lines.value("husk.processor")? != CHIP {
        return None;
    }
    let guest_svn = any_or(lines.value("husk.processor_svn")?, decimal)?;
    let tcb = any_or(lines.value("husk.processor_tcb")?, hex)?;
    Some(DerivedKeyRequest { guest_svn, tcb })
}

fn write_processor(key: &DerivedKeyRequest, out: &mut dyn fmt::Write) -> fmt::Result {
    writeln!(out, "\"husk.processor\" = \"{CHIP}\"")?;
    match key.guest_svn {
        None => writeln!(out, "\"husk.processor_svn\" = \"{ANY}\"")?,
        Some(svn) => writeln!(out, "\"husk.processor_svn\" = \"{svn}\"")?,
    }
    match key.tcb {
        None => writeln!(out, "\"husk.processor_tcb\" = \"{ANY}\""),
        Some(tcb) => writeln!(out, "\"husk.processor_tcb\" = \"{}\"", Hex(&tcb)),
    }
}

/// `any`, which is nothing in particular, or what `read` makes of the text.
fn any_or<T>(text: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if text == ANY { Some(None) } else { read(text).map(Some) }
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// A number without sign or leading zeros.
fn decimal(text: &str) -> Option<u32> {
    let plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|digit| digit.is_ascii_digit()));
    if plain { text.parse().ok() } else { None }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

struct Hashing<D>(D);

impl<D: sha2::Digest> fmt::Write for Hashing<D> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

struct Slice<'a> {
    into: &'a mut [u8],
    len: usize,
}

impl fmt::Write for Slice<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.into.get_mut(self.len..).and_then(|rest| rest.get_mut(..text.len()));
        room.ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

#[cfg(test)]
#[path = "tests/launch.rs"]
mod tests;
