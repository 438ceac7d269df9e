//! Which PCRs, and their values.

use super::Hash;
use crate::EvidenceError;
use husk::bytes::{Reader, Short};

/// TPML_PCR_SELECTION of a TPM in C's memory, as tpm2-tools write it: a count, then sixteen entries of eight bytes.
const SELECTION_BYTES: usize = 4 + 8 * BANKS_MAX;
/// TPML_DIGEST in C's memory: a count, then eight digests of a length and 64 bytes.
const DIGESTS_BYTES: usize = 4 + DIGESTS * DIGEST_BYTES;
const DIGESTS: usize = 8;
const DIGEST_BYTES: usize = 2 + 64;
/// HASH_COUNT: no TPM has more banks.
const BANKS_MAX: usize = 16;
/// PCR_SELECT_MAX of tpm2-tss, in bytes; a PC client's TPM has three.
const SELECT_BYTES_MAX: usize = 4;

/// The quoted PCRs of one bank, in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrBank {
    /// The bank.
    pub hash: Hash,
    /// Its PCRs.
    pub pcrs: Vec<u8>,
    /// TPMS_PCR_SELECTION's bits as they came.
    select: Vec<u8>,
}

/// The value of a PCR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrValue {
    /// The bank.
    pub hash: Hash,
    /// The PCR's number.
    pub pcr: u8,
    /// Its value.
    pub value: Vec<u8>,
}

/// TPML_PCR_SELECTION.
pub(super) fn selection(reader: &mut Reader<'_>) -> Result<Vec<PcrBank>, EvidenceError> {
    let bad = EvidenceError::BadQuote;
    let cut = |_: Short| bad("its selection is cut");
    let count = usize::try_from(reader.u32_be().map_err(cut)?).unwrap_or(usize::MAX);
    if count > BANKS_MAX {
        return Err(bad("it selects more banks than there are"));
    }
    let mut banks: Vec<PcrBank> = Vec::new();
    for _ in 0..count {
        let hash = Hash::from_id(reader.u16_be().map_err(cut)?);
        let hash = hash.ok_or(bad("it selects a bank that is not known here"))?;
        let [bytes] = reader.array().map_err(cut)?;
        let select = reader.take(usize::from(bytes)).map_err(cut)?.to_vec();
        if select.len() > SELECT_BYTES_MAX || banks.iter().any(|bank| bank.hash == hash) {
            return Err(bad("its selection is of no known form"));
        }
        let pcrs = (0_u8..).zip(select.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1)));
        let pcrs = pcrs.filter_map(|(pcr, selected)| (selected == 1).then_some(pcr)).collect();
        banks.push(PcrBank { hash, pcrs, select });
    }
    Ok(banks)
}

/// The values in `file`, if `digest` covers them.
pub(super) fn values(
    selection: &[PcrBank],
    file: &[u8],
    hash: Hash,
    digest: &[u8],
) -> Result<Vec<PcrValue>, EvidenceError> {
    let bad = EvidenceError::QuotePcrs;
    let places: Vec<(Hash, u8)> =
        selection.iter().flat_map(|bank| bank.pcrs.iter().map(|pcr| (bank.hash, *pcr))).collect();
    let plain = places.iter().map(|(bank, _)| bank.bytes()).sum::<usize>();
    let values = if file.len() == plain {
        let mut rest = Reader::new(file);
        let value = |(bank, _): &(Hash, u8)| rest.take(bank.bytes()).ok();
        places.iter().map_while(value).collect::<Vec<_>>()
    } else {
        serialized(selection, &places, file)?
    };
    if values.len() != places.len() || hash.digest(&values).as_deref() != Some(digest) {
        return Err(bad("they are not the ones that were quoted"));
    }
    let value = |((hash, pcr), value): ((Hash, u8), &[u8])| PcrValue { hash, pcr, value: value.to_vec() };
    Ok(places.into_iter().zip(values).map(value).collect())
}

/// The format that tpm2-tools call `serialized`: structures of C, little-endian, padded with zeros.
fn serialized<'f>(
    selection: &[PcrBank],
    places: &[(Hash, u8)],
    file: &'f [u8],
) -> Result<Vec<&'f [u8]>, EvidenceError> {
    let bad = EvidenceError::QuotePcrs;
    let (head, rest) = file.split_at_checked(SELECTION_BYTES).ok_or(bad("the file is of neither format"))?;
    if head != head_of(selection) {
        return Err(bad("the file selects other PCRs than the quote"));
    }
    let lists = places.len().div_ceil(DIGESTS);
    let counted = u32::try_from(lists).unwrap_or(u32::MAX).to_le_bytes();
    let lists = rest.strip_prefix(&counted).filter(|rest| rest.len() == lists * DIGESTS_BYTES);
    let mut out = Vec::new();
    for (list, places) in lists
        .ok_or(bad("the file has another length"))?
        .chunks_exact(DIGESTS_BYTES)
        .zip(places.chunks(DIGESTS))
    {
        let counted = u32::try_from(places.len()).unwrap_or(u32::MAX).to_le_bytes();
        let digests = list.strip_prefix(&counted).ok_or(bad("the file has another number of values"))?;
        let mut digests = digests.chunks_exact(DIGEST_BYTES);
        // The places first: who asks the digests first drops one that nobody looked at.
        for ((bank, _), digest) in places.iter().zip(digests.by_ref()) {
            let length = u16::try_from(bank.bytes()).unwrap_or(u16::MAX).to_le_bytes();
            let padded = digest.strip_prefix(&length).ok_or(bad("a value has another length"))?;
            let (value, padding) = padded.split_at(bank.bytes());
            out.push(value);
            zeros(padding)?;
        }
        digests.try_for_each(zeros)?;
    }
    Ok(out)
}

fn zeros(padding: &[u8]) -> Result<(), EvidenceError> {
    let clear = padding.iter().all(|byte| *byte == 0);
    if clear { Ok(()) } else { Err(EvidenceError::QuotePcrs("the file has something beside its values")) }
}

/// What such a file begins with.
fn head_of(selection: &[PcrBank]) -> Vec<u8> {
    let mut head = u32::try_from(selection.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    for bank in selection {
        let bytes = u8::try_from(bank.select.len()).unwrap_or(u8::MAX);
        let mut entry = [&bank.hash.id().to_le_bytes()[..], &[bytes], &bank.select].concat();
        entry.resize(8, 0);
        head.extend(entry);
    }
    head.resize(SELECTION_BYTES, 0);
    head
}
