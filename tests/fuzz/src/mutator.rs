//! Mutations for the ordinary test: the same for the same seed, on every machine.

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[5]
    }
}

/// Numbers at which parsers go wrong.
const EDGES: [u32; 12] = [0, 1, 9, 10, 0x7F, 0x80, 0xFF, 0x1000, 0x1001, 0x7FFF_FFFF, 0x8000_0000, u32::MAX];

/// An input made of one of `inputs`, changed a few times; at most `bytes_max` long.
pub(crate) fn mutated(inputs: &[Vec<u8>], bytes_max: usize, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = inputs.get(dice.below(inputs.len())).cloned().unwrap_or_default();
    for _ in 0..=dice.below(4) {
        change(&mut bytes, inputs, dice);
    }
    bytes.truncate(bytes_max);
    bytes
}

fn change(bytes: &mut Vec<u8>, inputs: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.below(bytes.len());
    match dice.below(8) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = dice.byte();
            }
        }
        2 => bytes.truncate(at),
        3 => {
            let more = (0..=dice.below(16)).map(|_| dice.byte()).collect::<Vec<_>>();
            bytes.splice(at..at, more);
        }
        4 => {
            let end = bytes.len().min(at + 1 + dice.below(16));
            bytes.drain(at..end);
        }
        5 => {
            let edge = EDGES[dice.below(EDGES.len())];
            let word = if dice.below(2) == 0 { edge.to_be_bytes() } else { edge.to_le_bytes() };
            let width = [1, 2, 4][dice.below(3)];
            let word = if dice.below(2) == 0 { &word[..width] } else { &word[4 - width..] };
            bytes.iter_mut().skip(at).zip(word).for_each(|(to, from)| *to = *from);
        }
        6 => splice(bytes, inputs.get(dice.below(inputs.len())).map_or(&[], Vec::as_slice), at, dice),
        _ => splice(bytes, &bytes.clone(), at, dice),
    }
}

/// Puts a piece of `from` in, over what is there or between.
fn splice(bytes: &mut Vec<u8>, from: &[u8], at: usize, dice: &mut Dice) {
    let start = dice.below(from.len());
    let end = from.len().min(start + 1 + dice.below(64));
    let piece = from[start..end].to_vec();
    let over = if dice.below(2) == 0 { bytes.len().min(at + piece.len()) } else { at };
    bytes.splice(at..over, piece);
}
