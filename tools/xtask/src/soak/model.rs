//! What one client's part of the TPM must show: its NV indices, its persistent keys, its PCRs.

use sha2::{Digest, Sha256};

/// How many indices, keys and PCRs a client has.
pub(super) const INDICES: usize = 5;
pub(super) const KEYS: usize = 2;
pub(super) const PCRS: usize = 4;

/// Clients at most: they share the 16 PCRs that nothing but a restart resets.
pub(super) const CLIENTS_MAX: usize = 16 / PCRS;

/// What an NV index is (TPM 2.0 part 2, TPM_NT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ordinary,
    Counter,
    Bits,
    Extend,
}

/// Kind, size in bytes, and whether failed attempts on it count.
pub(super) const SHAPES: [(Kind, u16, bool); INDICES] = [
    (Kind::Counter, 8, false),
    (Kind::Bits, 8, false),
    (Kind::Extend, 32, false),
    (Kind::Ordinary, 64, false),
    (Kind::Ordinary, 400, true),
];

/// What an index holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Unwritten,
    Bytes(Vec<u8>),
    /// A counter after its first increment: the TPM chooses where it starts.
    Started,
}

/// What a client's part of the TPM holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// Nothing where there is no such index.
    pub(super) indices: [Option<Content>; INDICES],
    /// The public area of a persistent key, where there is one.
    pub(super) keys: [Option<Vec<u8>>; KEYS],
    /// The SHA-256 bank.
    pub(super) pcrs: [[u8; 32]; PCRS],
}

/// What was read from the TPM, as [`View`].
pub(super) type Seen = View;

impl View {
    /// Nothing yet.
    pub(super) const fn new() -> Self {
        Self { indices: [const { None }; INDICES], keys: [const { None }; KEYS], pcrs: [[0; 32]; PCRS] }
    }

    /// The TPM starts again: PCRs begin anew.
    pub(super) const fn restart(&mut self) {
        self.pcrs = [[0; 32]; PCRS];
    }

    /// Whether what was seen is this.
    pub(super) fn is(&self, seen: &Seen) -> bool {
        let same = |ours: &Option<Content>, theirs: &Option<Content>| match (ours, theirs) {
            (Some(Content::Started), Some(Content::Bytes(_))) => true,
            _ => ours == theirs,
        };
        self.indices.iter().zip(&seen.indices).all(|(ours, theirs)| same(ours, theirs))
            && self.keys == seen.keys
            && self.pcrs == seen.pcrs
    }

    /// Where it differs from what was seen.
    pub(super) fn difference(&self, seen: &Seen) -> String {
        let mut parts = Vec::new();
        for (at, (ours, theirs)) in self.indices.iter().zip(&seen.indices).enumerate() {
            if ours != theirs {
                parts.push(format!("index {at} is {theirs:02x?}, not {ours:02x?}"));
            }
        }
        for (at, (ours, theirs)) in self.keys.iter().zip(&seen.keys).enumerate() {
            if ours != theirs {
                parts.push(format!("key {at} is {theirs:02x?}, not {ours:02x?}"));
            }
        }
        for (at, (ours, theirs)) in self.pcrs.iter().zip(&seen.pcrs).enumerate() {
            if ours != theirs {
                parts.push(format!("PCR {at} is {theirs:02x?}, not {ours:02x?}"));
            }
        }
        parts.join("; ")
    }

    /// This view with one index changed.
    pub(super) fn with_index(&self, at: usize, content: Option<Content>) -> Self {
        let mut after = self.clone();
        after.indices[at] = content;
        after
    }

    /// This view after PCR_Extend.
    pub(super) fn with_extended(&self, pcr: usize, digest: &[u8]) -> Self {
        let mut after = self.clone();
        after.pcrs[pcr] = extended(&self.pcrs[pcr], digest);
        after
    }
}

/// SHA-256 of the old value and what is added.
pub(super) fn extended(old: &[u8], added: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(old).chain_update(added).finalize().into()
}

/// What NV_Increment makes of a counter.
pub(super) fn incremented(content: &Content) -> Content {
    let Content::Bytes(bytes) = content else { return Content::Started };
    let count = bytes.as_slice().try_into().map_or(0, u64::from_be_bytes);
    Content::Bytes(count.wrapping_add(1).to_be_bytes().to_vec())
}

/// What NV_SetBits makes of a field of bits.
pub(super) fn with_bits(content: &Content, bits: u64) -> Content {
    let old = match content {
        Content::Bytes(bytes) => bytes.as_slice().try_into().map_or(0, u64::from_be_bytes),
        Content::Unwritten | Content::Started => 0,
    };
    Content::Bytes((old | bits).to_be_bytes().to_vec())
}

/// What NV_Extend makes of an index.
pub(super) fn with_data(content: &Content, data: &[u8]) -> Content {
    let old = match content {
        Content::Bytes(bytes) => bytes.clone(),
        Content::Unwritten | Content::Started => vec![0; 32],
    };
    Content::Bytes(extended(&old, data).to_vec())
}

#[cfg(test)]
mod tests {
    use super::{Content, View, incremented, with_bits};

    #[test]
    fn a_counter_that_has_started_is_any_count_and_then_exact() {
        let seven = Content::Bytes(7u64.to_be_bytes().to_vec());
        let started = View::new().with_index(0, Some(incremented(&Content::Unwritten)));
        let seen = View::new().with_index(0, Some(seven.clone()));
        assert!(started.is(&seen) && !View::new().is(&seen));
        let next = seen.with_index(0, Some(incremented(&seven)));
        assert!(!seen.is(&next) && seen.difference(&next).contains("index 0"));
    }

    #[test]
    fn bits_are_only_ever_set() {
        let first = with_bits(&Content::Unwritten, 1);
        assert_eq!(with_bits(&first, 6), Content::Bytes(7u64.to_be_bytes().to_vec()));
    }
}
