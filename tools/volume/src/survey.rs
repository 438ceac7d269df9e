//! The clear headers of an image, and the digest chains over its bytes (`src/volume/format.md` §3, §4).

use husk::keys::{Mode, ObjectSort};
use husk::release::HEAD_DIGEST_BYTES;
use husk::release::hw_sealed::Permit;
use husk::seams::Geometry;
use husk::volume::layout::{Area, CheckpointHeader, FORMAT, Layout, RecordHeader, UNIT_BYTES_MIN};
use husk::volume::seal;
use serde::Serialize;

/// Why an image cannot be surveyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SurveyError {
    /// No volume fits.
    #[error("{0} bytes are too few for a volume, which has at least 16384: this is not a volume's image")]
    TooSmall(u64),
    /// Fewer bytes than its size promises.
    #[error("the image was cut short while it was read: try again with nothing writing to it")]
    Short,
}

/// One point of a chain: what the broker calls a head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeadSurvey {
    /// The commit's number.
    pub sequence: u64,
    /// The chain's digest there, in hexadecimal.
    pub digest: String,
}

/// What one area alleges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AreaSurvey {
    /// `A` or `B`.
    pub area: char,
    /// `blank`, `permit` (to make a TPM without a broker), `rubbish`, `other-format`, `malformed` or `chain`.
    pub content: &'static str,
    /// The checkpoint's header, where there is one of this format.
    pub checkpoint: Option<CheckpointSurvey>,
    /// Every point of the plausible chain, the checkpoint first.
    pub chain: Vec<HeadSurvey>,
    /// Bytes from the area's start to the chain's end.
    pub used_bytes: usize,
}

/// A checkpoint's header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckpointSurvey {
    /// `sealed`, with what else its key takes (`also by the chip`, `also by a KBS`), `HW-SEALED` or `UNSEALED FOR TESTING`.
    pub mode: &'static str,
    /// The tenant, in hexadecimal.
    pub tenant: String,
    /// The VM, in hexadecimal.
    pub vm: String,
    /// Raised by each operator restore.
    pub generation: u32,
    /// One per boot.
    pub epoch: u64,
    /// The fencing token of who wrote it.
    pub token: u64,
    /// The commit's number.
    pub sequence: u64,
    /// Which engine wrote the state: text where it is text.
    pub engine: String,
    /// The unit in bytes.
    pub unit_bytes: u32,
    /// The checkpoint's size in bytes.
    pub checkpoint_bytes: u32,
    /// The chain's digest before it, in hexadecimal.
    pub previous: String,
}

/// What an image alleges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// Size of the disk in bytes.
    pub size_bytes: u64,
    /// Size of an area in bytes.
    pub area_bytes: usize,
    /// A and B.
    pub areas: [AreaSurvey; 2],
}

impl Survey {
    /// The newest point of both chains. It may be one that was never acknowledged.
    #[must_use]
    pub fn newest(&self) -> Option<&HeadSurvey> {
        self.areas.iter().filter_map(|area| area.chain.last()).max_by_key(|head| head.sequence)
    }

    /// Whether either chain goes through that head.
    #[must_use]
    pub fn contains(&self, head: &HeadSurvey) -> bool {
        self.areas.iter().any(|area| area.chain.contains(head))
    }

    /// Whether any checkpoint says that anyone can read it.
    #[must_use]
    pub fn is_unsealed(&self) -> bool {
        self.any_mode(UNSEALED)
    }

    /// Whether any checkpoint says that nobody remembers which state is the newest, or a permit says that a TPM may be made so.
    #[must_use]
    pub fn is_hw_sealed(&self) -> bool {
        self.any_mode(HW_SEALED) || self.areas.iter().any(|area| area.content == PERMIT)
    }

    fn any_mode(&self, mode: &str) -> bool {
        self.areas.iter().filter_map(|area| area.checkpoint.as_ref()).any(|header| header.mode == mode)
    }
}

const SEALED: &str = "sealed";
const ON_CHIP: &str = "sealed, also by the chip";
const WITH_KBS: &str = "sealed, also by a KBS";
const WITH_KBS_ON_CHIP: &str = "sealed, also by a KBS and the chip";
const HW_SEALED: &str = "HW-SEALED";
const PERMIT: &str = "permit";
const UNSEALED: &str = "UNSEALED FOR TESTING";

/// Surveys `image`, the beginning (1 MiB is enough) of a disk of `size_bytes`.
///
/// # Errors
/// [`SurveyError`]
pub fn survey(image: &[u8], size_bytes: u64) -> Result<Survey, SurveyError> {
    let layout = Layout::of(&Geometry { size_bytes, block_bytes: 512 })
        .map_err(|_| SurveyError::TooSmall(size_bytes))?;
    let area = |area: Area, name| {
        let start = usize::try_from(layout.start(area)).map_err(|_| SurveyError::Short)?;
        let bytes = image.get(start..start + layout.area_bytes).ok_or(SurveyError::Short)?;
        Ok(survey_area(name, bytes))
    };
    let areas = [area(Area::A, 'A')?, area(Area::B, 'B')?];
    Ok(Survey { size_bytes, area_bytes: layout.area_bytes, areas })
}

fn survey_area(area: char, bytes: &[u8]) -> AreaSurvey {
    let nothing = |content| AreaSurvey { area, content, checkpoint: None, chain: Vec::new(), used_bytes: 0 };
    let Some(header) = CheckpointHeader::parse(bytes) else {
        let blank = bytes[..UNIT_BYTES_MIN].iter().all(|byte| *byte == 0);
        return nothing(match Permit::read(bytes) {
            Some(_) => PERMIT,
            None if blank => "blank",
            None => "rubbish",
        });
    };
    if header.format.get() != FORMAT {
        return nothing("other-format");
    }
    let Some(object) = bytes.get(..header.total_bytes.get() as usize).filter(|_| header.is_well_formed())
    else {
        return AreaSurvey { checkpoint: Some(describe(&header)), ..nothing("malformed") };
    };
    let first = seal::chain(ObjectSort::Checkpoint, &header.previous, object);
    let mut walk = Walk { bytes, unit: header.unit_bytes.get() as usize, at: object.len(), digest: first };
    let mut last = header.sequence.get();
    let mut chain = vec![head(last, &first)];
    while let Some(sequence) = walk.next_after(last) {
        chain.push(head(sequence, &walk.digest));
        last = sequence;
    }
    AreaSurvey { area, content: "chain", checkpoint: Some(describe(&header)), chain, used_bytes: walk.at }
}

struct Walk<'b> {
    bytes: &'b [u8],
    unit: usize,
    at: usize,
    digest: [u8; HEAD_DIGEST_BYTES],
}

impl Walk<'_> {
    /// Steps over the record that follows sequence `last`, if what lies there links.
    fn next_after(&mut self, last: u64) -> Option<u64> {
        let rest = self.bytes.get(self.at..)?;
        let header = RecordHeader::read(rest)?;
        let sequence = last.checked_add(1)?;
        let links = header.sequence.get() == sequence && header.previous == self.digest;
        let object = rest.get(..header.total_bytes.get() as usize)?;
        if !links || !header.is_well_formed(self.unit, rest.len()) {
            return None;
        }
        self.digest = seal::chain(ObjectSort::Record, &self.digest, object);
        self.at += object.len();
        Some(sequence)
    }
}

fn head(sequence: u64, digest: &[u8; HEAD_DIGEST_BYTES]) -> HeadSurvey {
    HeadSurvey { sequence, digest: hex::encode(digest) }
}

fn describe(header: &CheckpointHeader) -> CheckpointSurvey {
    let text = header.fingerprint.split(|byte| *byte == 0).next().unwrap_or_default();
    let engine = match std::str::from_utf8(text) {
        Ok(text) if text.chars().all(|c| c.is_ascii_graphic() || c == ' ') => text.to_owned(),
        _ => hex::encode(header.fingerprint),
    };
    let mode = match Mode::from_number(header.mode) {
        Some(Mode::Sealed) => SEALED,
        Some(Mode::UnsealedForTesting) => UNSEALED,
        Some(Mode::HwSealed) => HW_SEALED,
        Some(Mode::SealedOnChip) => ON_CHIP,
        Some(Mode::SealedWithKbs) => WITH_KBS,
        Some(Mode::SealedWithKbsOnChip) => WITH_KBS_ON_CHIP,
        None => "unknown",
    };
    CheckpointSurvey {
        mode,
        tenant: hex::encode(header.tenant),
        vm: hex::encode(header.vm),
        generation: header.generation.get(),
        epoch: header.epoch.get(),
        token: header.token.get(),
        sequence: header.sequence.get(),
        engine,
        unit_bytes: header.unit_bytes.get(),
        checkpoint_bytes: header.total_bytes.get(),
        previous: hex::encode(header.previous),
    }
}

#[cfg(test)]
mod tests {
    use super::{HeadSurvey, Survey, SurveyError, survey};

    const GOLDEN: &[u8] = include_bytes!("../../../tests/data/volume-unsealed-512.bin");

    fn golden() -> Survey {
        survey(GOLDEN, GOLDEN.len() as u64).expect("the golden volume")
    }

    #[test]
    fn the_golden_volume_is_seen_without_keys() {
        let seen = golden();
        let [a, b] = &seen.areas;
        assert_eq!((a.chain.len(), b.chain.len()), (1, 4));
        let newest = seen.newest().expect("a chain");
        assert_eq!((newest.sequence, &newest.digest[..16]), (5, "447743a00483c7a0"));
        assert!(seen.is_unsealed());
        let header = b.checkpoint.as_ref().expect("a header");
        assert_eq!((header.epoch, header.engine.as_str()), (2, "toy engine 1"));
        assert_eq!(header.previous, a.chain[0].digest);
    }

    #[test]
    fn every_point_of_a_chain_is_contained_and_nothing_else_is() {
        let seen = golden();
        for head in seen.areas.iter().flat_map(|area| &area.chain) {
            assert!(seen.contains(head));
            assert!(!seen.contains(&HeadSurvey { sequence: head.sequence + 1, ..head.clone() }));
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut image = GOLDEN.to_vec();
        for byte in 0..1024 {
            for area in [0, image.len() / 2] {
                image[area + byte] ^= 0xFF;
                let seen = survey(&image, image.len() as u64).expect("it has a size");
                assert_ne!(seen.areas, golden().areas, "byte {byte} of {area}");
                image[area + byte] ^= 0xFF;
            }
        }
        image[GOLDEN.len() / 2 + 112..][..8].fill(0xFF);
        let seen = survey(&image, image.len() as u64).expect("it has a size");
        assert_eq!(seen.newest().map(|newest| newest.sequence), Some(u64::MAX));
        assert_eq!(survey(&[], 0), Err(SurveyError::TooSmall(0)));
        assert_eq!(survey(&[0; 100], 16 * 1024), Err(SurveyError::Short));
    }
}
