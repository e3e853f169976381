//! Damaged input for everything that parses input: one loop that all fuzz targets share.
//!
//! A target is a test in a module named `fuzz`, which calls [`fuzz`] with its name and a check that panics when a property does not hold. Inputs
//! are the files of `tests/corpus/<target>/`, as they are and then with bits, bytes, pieces and words changed, and pieces of two of them
//! joined. By default a fixed number of inputs from a fixed seed, so that the ordinary tests are quick and the same everywhere; for
//! `WINSTON_FUZZ_SECONDS` seconds from another seed each time with that variable (`./check fuzz`). `WINSTON_SEED` repeats a run.
//!
//! An input that fails is printed as a Rust byte string. It goes into the corpus, under a name that says what it is, with the repair.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Inputs of the short form, besides the corpus itself.
const FEW: u64 = 3_000;

/// Longest input. What parsers do with more is bounded by the server's own limits and tested there.
const LONGEST: usize = 16 * 1024;

/// Looks at the clock once in so many inputs.
const STRIDE: u64 = 64;

/// Changes of one input.
const MOST_CHANGES: usize = 6;

/// Checks inputs; `words` are pieces that mean something to the parser.
pub(crate) fn fuzz(target: &str, words: &[&str], check: impl Fn(&[u8])) {
    let time = number("WINSTON_FUZZ_SECONDS").map(Duration::from_secs);
    throw(target, words, time, check);
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// [`FEW`] inputs without a `time`.
fn throw(target: &str, words: &[&str], time: Option<Duration>, check: impl Fn(&[u8])) {
    let corpus = corpus(target);
    let run = |input: &[u8], seed: u64| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(input))) {
            eprintln!("fuzz {target}, seed {seed}: fails with b\"{}\"", input.escape_ascii());
            resume_unwind(panic);
        }
    };
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
    let seed = number("WINSTON_SEED").unwrap_or_else(|| if time.is_some() { clock() } else { 1 });
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let start = Instant::now();
    let mut inputs = 0;
    for input in &corpus {
        run(input, seed);
    }
    loop {
        let done = match time {
            Some(time) => inputs % STRIDE == 0 && start.elapsed() >= time,
            None => inputs >= FEW,
        };
        if done {
            break;
        }
        inputs += 1;
        run(&dice.input(&corpus, words), seed);
    }
    println!(
        "fuzz {target}: {inputs} inputs from {} kept ones, {} s, seed {seed}",
        corpus.len(),
        start.elapsed().as_secs()
    );
}

/// The kept inputs. There is at least one: a target whose directory is missing would test noise.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", dir.display());
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Bytes that tend to be handled apart.
const TELLING: &[u8] =
    b"\0\x01\t\n\r !\"#%&'()*+,-./019:;<=>?@AFZ[\\]^_`afz{|}~\x7f\x80\xbf\xc0\xc3\xe2\xed\xf0\xf4\xff";

/// xorshift64*: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `sides`; 0 when there are none.
    fn roll(&mut self, sides: usize) -> usize {
        ((self.next() >> 32) as usize).checked_rem(sides).unwrap_or(0)
    }

    /// A piece of `length` bytes at the most, anywhere.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let (one, other) = (self.roll(length + 1), self.roll(length + 1));
        one.min(other)..one.max(other)
    }

    fn input(&mut self, corpus: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
        let mut input = corpus[self.roll(corpus.len())].clone();
        for _ in 0..=self.roll(MOST_CHANGES) {
            self.change(&mut input, corpus, words);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str]) {
        let at = self.roll(input.len());
        match self.roll(9) {
            0 if !input.is_empty() => input[at] ^= 1 << self.roll(8),
            1 if !input.is_empty() => input[at] = TELLING[self.roll(TELLING.len())],
            2 if !input.is_empty() => input[at] = self.next() as u8,
            3 => input.insert(at, TELLING[self.roll(TELLING.len())]),
            4 => drop(input.drain(self.range(input.len()))),
            5 => input.truncate(at),
            6 => {
                let piece = input[self.range(input.len())].to_vec();
                input.splice(at..at, piece);
            }
            7 if !words.is_empty() => {
                let word = words[self.roll(words.len())].bytes();
                input.splice(at..at, word);
            }
            _ => {
                let other = &corpus[self.roll(corpus.len())];
                let piece = other[self.range(other.len())].to_vec();
                input.splice(at.., piece);
            }
        }
        input.truncate(LONGEST);
    }
}

#[test]
fn fuzz_finds_what_is_wrong() {
    // A parser that falls over one byte, somewhere in an input.
    let found = catch_unwind(|| throw("path", &[], None, |input| assert!(!input.contains(&0xf4), "as expected")));
    assert!(found.is_err());
}
