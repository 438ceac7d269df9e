//! What a policy is written in: each value is a word, in the database, in files and on the command line.

use super::{ChipId, KeyDigest, Measurement};
use bitflags::Flags as Bits;
use husk::attest::report::{Generation, PlatformInfo, Policy as GuestPolicy, Tcb};
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{SerializeMap as _, Serializer};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A value that is read from one word and written as it.
pub(super) trait Word: Sized {
    fn read(text: &str) -> Result<Self, String>;
    fn written(&self) -> String;
}

/// A word of a file.
struct Worded<T>(T);

impl<T: Word> Serialize for Worded<&T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0.written())
    }
}

impl<'de, T: Word> Deserialize<'de> for Worded<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        T::read(&text).map(Self).map_err(D::Error::custom)
    }
}

/// A list of words.
pub(super) mod list {
    use super::{Deserialize, Deserializer, Serialize as _, Serializer, Word, Worded};

    pub(in super::super) fn serialize<T: Word, S: Serializer>(all: &[T], to: S) -> Result<S::Ok, S::Error> {
        all.iter().map(Worded).collect::<Vec<_>>().serialize(to)
    }

    pub(in super::super) fn deserialize<'de, T: Word, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<T>, D::Error> {
        Ok(Vec::<Worded<T>>::deserialize(from)?.into_iter().map(|word| word.0).collect())
    }
}

/// A word that may be absent.
pub(super) mod maybe {
    use super::{Deserialize, Deserializer, Serialize as _, Serializer, Word, Worded};

    pub(in super::super) fn serialize<T: Word, S: Serializer>(
        one: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        one.as_ref().map(Worded).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, T: Word, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<T>, D::Error> {
        Ok(Option::<Worded<T>>::deserialize(from)?.map(|word| word.0))
    }
}

macro_rules! words {
    ($($type:ty: $read:path, $written:expr;)+) => {$(
        impl Word for $type {
            fn read(text: &str) -> Result<Self, String> { $read(text) }
            fn written(&self) -> String { $written(self) }
        }
    )+};
}

words! {
    Measurement: measurement, hex::encode;
    ChipId: chip, written_chip;
    Tcb: tcb, |tcb: &Self| TcbText(*tcb).to_string();
    Abi: Self::read_from, ToString::to_string;
    Firmware: Self::read_from, ToString::to_string;
}

/// Reads a measurement: 96 hexadecimal digits.
///
/// # Errors
/// One line that says so.
pub fn measurement(text: &str) -> Result<Measurement, String> {
    let mut out = [0; 48];
    hex::decode_to_slice(text, &mut out).map_err(|_| "a measurement is 96 hexadecimal digits".to_owned())?;
    Ok(out)
}

/// Reads the digest of an ID key or author key: 96 hexadecimal digits.
///
/// # Errors
/// One line that says so.
pub fn key_digest(text: &str) -> Result<KeyDigest, String> {
    measurement(text).map_err(|_| "a key's digest is 96 hexadecimal digits".to_owned())
}

/// Reads a CHIP_ID: 128 hexadecimal digits, or the 16 that Turin has.
///
/// # Errors
/// One line that says so.
pub fn chip(text: &str) -> Result<ChipId, String> {
    let mut out = [0; 64];
    let used = if text.len() == 16 { &mut out[..8] } else { &mut out[..] };
    hex::decode_to_slice(text, used).map_err(|_| "a chip id is 128 or 16 hexadecimal digits".to_owned())?;
    Ok(out)
}

/// Whether a chip id has the form of Turin's: 8 bytes, then zeros.
pub(super) fn is_short(chip: &ChipId) -> bool {
    chip[Generation::Turin.chip_id_bytes()..].iter().all(|byte| *byte == 0)
}

fn written_chip(chip: &ChipId) -> String {
    hex::encode(if is_short(chip) { &chip[..Generation::Turin.chip_id_bytes()] } else { &chip[..] })
}

/// Reads a TCB floor such as `bootloader=4,tee=0,snp=22,microcode=213`, with `fmc=1` for Turin.
///
/// # Errors
/// One line that says what is wrong.
pub fn tcb(text: &str) -> Result<Tcb, String> {
    let mut floor = Tcb { fmc: None, bootloader: 0, tee: 0, snp: 0, microcode: 0 };
    let mut seen = Vec::new();
    for part in text.split(',') {
        let (word, level) = part.split_once('=').ok_or_else(|| format!("`{part}` is not PART=LEVEL"))?;
        let level = level.parse().map_err(|_| format!("`{level}` is not a level from 0 to 255"))?;
        match word {
            "fmc" => floor.fmc = Some(level),
            "bootloader" => floor.bootloader = level,
            "tee" => floor.tee = level,
            "snp" => floor.snp = level,
            "microcode" => floor.microcode = level,
            _ => return Err(format!("`{word}` is none of bootloader, tee, snp, microcode, fmc")),
        }
        if seen.contains(&word) {
            return Err(format!("`{word}` is given twice"));
        }
        seen.push(word);
    }
    Ok(floor)
}

/// A TCB as [`tcb`] reads it.
pub(super) struct TcbText(pub(super) Tcb);

impl fmt::Display for TcbText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tcb { fmc, bootloader, tee, snp, microcode } = self.0;
        write!(f, "bootloader={bootloader},tee={tee},snp={snp},microcode={microcode}")?;
        fmc.map_or(Ok(()), |fmc| write!(f, ",fmc={fmc}"))
    }
}

macro_rules! versions {
    ($($(#[$doc:meta])* $name:ident($count:literal): $form:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub [u8; $count]);

        impl $name {
            fn read_from(text: &str) -> Result<Self, String> {
                let wrong = || format!("`{text}` is not a version such as {}", $form);
                let parts = text.split('.').map(str::parse).collect::<Result<Vec<u8>, _>>();
                parts.ok().and_then(|parts| parts.try_into().ok()).map(Self).ok_or_else(wrong)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0.map(|part| part.to_string()).join("."))
            }
        }
    )+};
}

versions! {
    /// The lowest ABI version that a guest's POLICY accepts: major, minor.
    Abi(2): "1.55";
    /// A version of the SNP firmware: major, minor, build.
    Firmware(3): "1.55.21";
}

/// Bits that must be set, and bits that must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound(serialize = "F: NamedBits", deserialize = "F: NamedBits"))]
pub struct FlagRule<F> {
    /// Each of these must be set.
    #[serde(default = "F::empty", with = "names")]
    pub required: F,
    /// None of these may be.
    #[serde(default = "F::empty", with = "names")]
    pub forbidden: F,
}

impl<F: Bits> Default for FlagRule<F> {
    fn default() -> Self {
        Self { required: F::empty(), forbidden: F::empty() }
    }
}

/// Bits that a policy may name.
pub trait NamedBits: Bits + Copy {
    /// The bits of the field that are flags.
    const NAMED: Self;
}

impl NamedBits for GuestPolicy {
    const NAMED: Self = Self::all().difference(Self::ABI).difference(Self::RESERVED_ONE);
}

impl NamedBits for PlatformInfo {
    const NAMED: Self = Self::all();
}

/// The names of bits.
pub(super) fn named<F: Bits>(bits: F) -> Vec<&'static str> {
    bits.iter_names().map(|(name, _)| name).collect()
}

/// A bit by its name.
struct Bit<F>(F);

impl<F: NamedBits> Word for Bit<F> {
    fn read(text: &str) -> Result<Self, String> {
        let bit = F::from_name(text).filter(|bit| F::NAMED.contains(*bit));
        bit.map(Self).ok_or_else(|| format!("`{text}` is none of {}", named(F::NAMED).join(", ")))
    }

    fn written(&self) -> String {
        named(self.0).join("|")
    }
}

/// A list of names.
mod names {
    use super::{Bit, Deserializer, NamedBits, Serialize as _, Serializer, list, named};

    pub(super) fn serialize<F: NamedBits, S: Serializer>(bits: &F, to: S) -> Result<S::Ok, S::Error> {
        named(*bits).serialize(to)
    }

    pub(super) fn deserialize<'de, F: NamedBits, D: Deserializer<'de>>(from: D) -> Result<F, D::Error> {
        let bits: Vec<Bit<F>> = list::deserialize(from)?;
        Ok(bits.into_iter().fold(F::empty(), |all, bit| all.union(bit.0)))
    }
}

/// The lowest patch levels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Floors {
    /// Any.
    #[default]
    None,
    /// These, of every generation.
    Every(Tcb),
    /// Of each generation its own; a chip of another generation is refused.
    Each(Vec<(Generation, Tcb)>),
}

impl From<Option<Tcb>> for Floors {
    fn from(floor: Option<Tcb>) -> Self {
        floor.map_or(Self::None, Self::Every)
    }
}

impl Serialize for Floors {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => to.serialize_none(),
            Self::Every(floor) => to.serialize_str(&floor.written()),
            Self::Each(floors) => {
                let mut map = to.serialize_map(Some(floors.len()))?;
                for (generation, floor) in floors {
                    map.serialize_entry(&generation.name().to_lowercase(), &floor.written())?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Floors {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(FloorsVisitor)
    }
}

struct FloorsVisitor;

impl<'de> Visitor<'de> for FloorsVisitor {
    type Value = Floors;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "patch levels such as \"bootloader=4,snp=22\", or a table of them with milan, genoa, turin",
        )
    }

    fn visit_unit<E>(self) -> Result<Floors, E> {
        Ok(Floors::None)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Floors, E> {
        tcb(text).map(Floors::Every).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Floors, A::Error> {
        let mut floors = Vec::new();
        while let Some((Worded(generation), Worded(floor))) =
            map.next_entry::<Worded<Generation>, Worded<Tcb>>()?
        {
            if floors.iter().any(|(known, _)| *known == generation) {
                return Err(A::Error::custom(format!("{} is given twice", generation.written())));
            }
            floors.push((generation, floor));
        }
        Ok(Floors::Each(floors))
    }
}

impl Word for Generation {
    fn read(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|generation| generation.written() == text);
        found.ok_or_else(|| format!("`{text}` is none of milan, genoa, turin"))
    }

    fn written(&self) -> String {
        self.name().to_lowercase()
    }
}
