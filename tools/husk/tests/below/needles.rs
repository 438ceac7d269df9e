//! A search for secrets in heaps of bytes, also for halves of them and for those that were turned around.

use std::collections::HashMap;

/// Bytes of a piece that is searched for: half of a key, and beyond all chance.
const PIECE_BYTES: usize = 16;
const PAGE_BYTES: usize = 4096;

/// A secret that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Which, and how it is written.
    pub(crate) secret: String,
    /// Where, in bytes from the start.
    pub(crate) at: u64,
}

/// What is searched for.
pub(crate) struct Needles {
    pieces: Vec<(String, Vec<u8>)>,
    /// By their first eight bytes.
    by_start: HashMap<u64, Vec<usize>>,
}

impl Needles {
    /// Every piece of these secrets, in every form.
    pub(crate) fn new(secrets: &[(String, Vec<u8>)]) -> Self {
        let mut needles = Self { pieces: Vec::new(), by_start: HashMap::new() };
        for (name, secret) in secrets {
            assert!(secret.len() >= PIECE_BYTES && secret.len().is_multiple_of(PIECE_BYTES), "{name}");
            assert!(secret.iter().any(|byte| *byte != secret[0]), "{name} is no secret");
            for (form, written) in forms(secret) {
                for piece in written.chunks_exact(PIECE_BYTES) {
                    let places = needles.by_start.entry(start(piece)).or_default();
                    places.push(needles.pieces.len());
                    needles.pieces.push((format!("{name}, {form}"), piece.to_vec()));
                }
            }
        }
        needles
    }

    /// All that is found. Pages of zeros are passed over.
    pub(crate) fn search(&self, heap: &[u8]) -> Vec<Found> {
        let mut found = Vec::new();
        for first in (0..heap.len()).step_by(PAGE_BYTES) {
            let page = &heap[first..heap.len().min(first + PAGE_BYTES)];
            if page.iter().all(|byte| *byte == 0) {
                continue;
            }
            for at in first..first + page.len() {
                self.look(heap, at, &mut found);
            }
        }
        found
    }

    fn look(&self, heap: &[u8], at: usize, found: &mut Vec<Found>) {
        let Some(here) = heap.get(at..at + PIECE_BYTES) else { return };
        let Some(places) = self.by_start.get(&start(here)) else { return };
        for (secret, piece) in places.iter().map(|place| &self.pieces[*place]) {
            if piece == here {
                found.push(Found { secret: secret.clone(), at: at as u64 });
            }
        }
    }
}

fn start(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().expect("at least eight bytes"))
}

/// As it is, backwards as a whole, and in words of four and eight bytes; and in digits.
fn forms(secret: &[u8]) -> [(&'static str, Vec<u8>); 5] {
    let swapped =
        |bytes: usize| secret.chunks(bytes).flat_map(|word| word.iter().rev().copied()).collect::<Vec<u8>>();
    [
        ("as it is", secret.to_vec()),
        ("backwards", swapped(secret.len())),
        ("in swapped words of 4 bytes", swapped(4)),
        ("in swapped words of 8 bytes", swapped(8)),
        ("in hexadecimal", hex::encode(secret).into_bytes()),
    ]
}

#[test]
fn every_piece_in_every_form_is_found_wherever_it_lies() {
    let secret: Vec<u8> = (1..=32).map(|n: u8| n.wrapping_mul(37)).collect();
    let needles = Needles::new(&[("it".to_owned(), secret.clone())]);
    for (form, written) in forms(&secret) {
        for piece in written.chunks_exact(PIECE_BYTES) {
            // Across two pages, unaligned, and as the last bytes of all.
            for at in [0, PAGE_BYTES - 5, 3 * PAGE_BYTES - PIECE_BYTES] {
                let mut heap = vec![0; 3 * PAGE_BYTES];
                heap[at..at + PIECE_BYTES].copy_from_slice(piece);
                let found = needles.search(&heap);
                assert_eq!(found, [Found { secret: format!("it, {form}"), at: at as u64 }]);
                heap[at + 9] ^= 1;
                assert_eq!(needles.search(&heap), []);
            }
        }
    }
}
