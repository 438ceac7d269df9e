//! What of an image gets loaded, and how (ELF-64, System V ABI).

use std::ops::Range;

/// `memory::LAYER` of the firmware.
const LAYER: Range<u64> = 0x1000_0000..0x1080_0000;
const PT_LOAD: u32 = 1;
const EXECUTE: u32 = 1;
const WRITE: u32 = 2;

/// A part of the file that is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    flags: u32,
    memory: Range<u64>,
}

/// Everything that is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    entry: u64,
    segments: Vec<Segment>,
}

impl Shape {
    pub(super) fn parse(file: &[u8]) -> Result<Self, String> {
        let broken = || "not an ELF file for 64 bits".to_owned();
        let word = |at: usize, bytes: usize| -> Option<u64> {
            let mut word = [0; 8];
            word.get_mut(..bytes)?.copy_from_slice(file.get(at..at.checked_add(bytes)?)?);
            Some(u64::from_le_bytes(word))
        };
        if !file.starts_with(b"\x7FELF\x02\x01") {
            return Err(broken());
        }
        let read = || {
            let entry = word(24, 8)?;
            let (table, size, count) = (usize::try_from(word(32, 8)?).ok()?, word(54, 2)?, word(56, 2)?);
            let mut segments = Vec::new();
            for index in 0..count {
                let at = table.checked_add(usize::try_from(index * size).ok()?)?;
                let kind = u32::try_from(word(at, 4)?).ok()?;
                let flags = u32::try_from(word(at + 4, 4)?).ok()?;
                let (start, bytes) = (word(at + 24, 8)?, word(at + 40, 8)?);
                if kind == PT_LOAD {
                    segments.push(Segment { flags, memory: start..start.checked_add(bytes)? });
                }
            }
            Some(Self { entry, segments })
        };
        read().ok_or_else(broken)
    }

    /// Nothing is writable and executable, everything lies in the layer's region, and it begins in code.
    pub(super) fn check(&self) -> Result<(), String> {
        for Segment { flags, memory } in &self.segments {
            if flags & WRITE != 0 && flags & EXECUTE != 0 {
                return Err(format!("the segment at {:#x} is writable and executable", memory.start));
            }
            if memory.start < LAYER.start || memory.end > LAYER.end {
                return Err(format!("the segment at {:#x} leaves the layer's region", memory.start));
            }
        }
        let code = |segment: &Segment| segment.flags & EXECUTE != 0 && segment.memory.contains(&self.entry);
        if self.segments.iter().any(code) { Ok(()) } else { Err("the entry is not in code".to_owned()) }
    }

    /// From the first byte to the last, holes included: the region is one piece.
    pub(super) fn resident_bytes(&self) -> u64 {
        let start = self.segments.iter().map(|segment| segment.memory.start).min().unwrap_or(0);
        let end = self.segments.iter().map(|segment| segment.memory.end).max().unwrap_or(0);
        end - start
    }
}

#[cfg(test)]
mod tests {
    use super::{EXECUTE, LAYER, Segment, Shape, WRITE};

    fn shape(segments: &[(u32, u64, u64)]) -> Shape {
        let segment = |(flags, start, bytes): &(u32, u64, u64)| Segment {
            flags: *flags,
            memory: *start..start + bytes,
        };
        Shape { entry: LAYER.start, segments: segments.iter().map(segment).collect() }
    }

    #[test]
    fn an_image_that_breaks_a_rule_is_refused() {
        let code = (4 | EXECUTE, LAYER.start, 0x1000);
        let good = shape(&[code, (4 | WRITE, LAYER.start + 0x2000, 0x1000)]);
        assert_eq!((good.check(), good.resident_bytes()), (Ok(()), 0x3000));
        assert!(shape(&[code, (4 | WRITE | EXECUTE, LAYER.start + 0x2000, 0x1000)]).check().is_err());
        assert!(shape(&[code, (4, LAYER.end - 0x1000, 0x1001)]).check().is_err());
        assert!(shape(&[code, (4, LAYER.start - 1, 1)]).check().is_err());
        assert!(shape(&[(4, LAYER.start, 0x1000)]).check().is_err());
    }

    #[test]
    fn what_is_no_elf_file_is_refused_whatever_its_length() {
        let header = b"\x7FELF\x02\x01";
        assert!(Shape::parse(b"").is_err());
        for len in 0..64 {
            let mut file = header.to_vec();
            file.resize(header.len() + len, 0xFF);
            assert!(Shape::parse(&file).is_err());
        }
    }
}
