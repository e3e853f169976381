//! Contents that say whose they are, whole or not.
//!
//! A content is a sequence of blocks. A block is determined by its id and length alone, so any byte that is missing, too many or another one
//! is noticed without a copy of what was written. Saving writes one block; appending adds one. The last block names the version.

use std::fmt::Write as _;

/// One block: a first line with id and length, as much filler as that says, and a last line.
#[must_use]
pub fn block(id: u64, filler: usize) -> Vec<u8> {
    let mut text = format!("#{id:016x} {filler}\n");
    let mut state = id;
    let end = text.len() + filler;
    while text.len() < end {
        state = mix(state);
        let _ = write!(text, "{state:016x}");
    }
    text.truncate(end);
    let _ = writeln!(text, "\n={id:016x}");
    text.into_bytes()
}

/// What bytes turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// Ids of the whole blocks, in order.
    pub blocks: Vec<u64>,
    /// What comes after them.
    pub tail: Tail,
}

/// What follows the last whole block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Nothing: the content is whole.
    Nothing,
    /// The beginning of a block; its id, if there is that much of it.
    Begun(Option<u64>),
    /// Bytes that nobody wrote in this order.
    Torn,
}

impl Parsed {
    /// The id of the last block, if the content is whole.
    #[must_use]
    pub fn version(&self) -> Option<u64> {
        self.blocks.last().copied().filter(|_| self.tail == Tail::Nothing)
    }
}

/// Takes a content apart.
#[must_use]
pub fn parse(mut bytes: &[u8]) -> Parsed {
    let mut blocks = Vec::new();
    loop {
        if bytes.is_empty() {
            // No block at all is the moment between truncating and writing.
            let tail = if blocks.is_empty() { Tail::Begun(None) } else { Tail::Nothing };
            return Parsed { blocks, tail };
        }
        let Some(line) = bytes.iter().position(|byte| *byte == b'\n') else {
            let begun =
                bytes.len() < 40 && bytes[0] == b'#' && bytes[1..].iter().all(|b| b.is_ascii_hexdigit() || *b == b' ');
            return Parsed { blocks, tail: if begun { Tail::Begun(None) } else { Tail::Torn } };
        };
        let Some((id, filler)) = head(&bytes[..line]) else { return Parsed { blocks, tail: Tail::Torn } };
        let wanted = block(id, filler);
        if let Some(rest) = bytes.strip_prefix(wanted.as_slice()) {
            blocks.push(id);
            bytes = rest;
        } else {
            let tail = if wanted.starts_with(bytes) { Tail::Begun(Some(id)) } else { Tail::Torn };
            return Parsed { blocks, tail };
        }
    }
}

fn head(line: &[u8]) -> Option<(u64, usize)> {
    let (id, filler) = std::str::from_utf8(line).ok()?.strip_prefix('#')?.split_once(' ')?;
    let filler = filler.parse().ok().filter(|filler| *filler <= 1 << 24)?;
    Some((u64::from_str_radix(id, 16).ok()?, filler))
}

/// One step of SplitMix64.
#[must_use]
pub fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Numbers that follow from a seed.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Starts at a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// Another sequence that follows from this one and a number.
    #[must_use]
    pub fn fork(&self, number: u64) -> Self {
        Self(mix(self.0 ^ mix(number)))
    }

    /// Less than `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % bound.max(1)
    }

    /// True so many times in a hundred.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// One of several; `None` of none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(usize::try_from(self.below(from.len() as u64)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_contents_name_their_version() {
        let content = [block(7, 0), block(8, 5000)].concat();
        assert_eq!(parse(&content).version(), Some(8));
        assert_eq!(parse(&content).blocks, [7, 8]);
        assert_eq!(parse(b"").version(), None);
    }

    #[test]
    fn every_cut_hole_and_mixture_is_noticed() {
        let content = block(0xabc, 100);
        for cut in 0..content.len() {
            assert!(matches!(parse(&content[..cut]).tail, Tail::Begun(_)), "cut at {cut}");
        }
        for at in 0..content.len() {
            let mut holed = content.clone();
            holed[at] = 0;
            assert_eq!(parse(&holed).version(), None, "hole at {at}");
        }
        let mixed = [&block(1, 100)[..60], &block(2, 100)[60..]].concat();
        assert_eq!(parse(&mixed).tail, Tail::Torn);
    }
}
