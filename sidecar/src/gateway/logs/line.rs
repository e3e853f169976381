//! From bytes to lines: bounded, plain text, without secrets. Pure.

use memchr::{memchr, memchr_iter, memrchr};

use super::redact::{Pem, Redactor};

/// Longest line that is kept, in bytes.
pub(in super::super) const LONGEST_LINE: usize = 8 * 1024;

/// Cuts a stream into lines in bounded memory: of a line that is too long, the head is kept.
#[derive(Debug)]
pub(super) struct Splitter {
    head: Vec<u8>,
    /// Longer than a line may be, so that a secret that crosses the limit can still be recognised.
    capacity: usize,
    /// Bytes of the present line that are not in `head`.
    lost: u64,
}

/// One line as it was cut: without its newline, and perhaps without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut<'a> {
    pub(super) head: &'a [u8],
    pub(super) lost: u64,
}

impl Splitter {
    /// `margin` is how many bytes behind a place may tell what is at the place.
    pub(super) fn new(margin: usize) -> Self {
        Self { head: Vec::new(), capacity: LONGEST_LINE + margin, lost: 0 }
    }

    /// Takes bytes up to the first line that they complete; what is left of them. `None`: they complete none.
    pub(super) fn push<'a, 'b>(&'a mut self, bytes: &'b [u8]) -> Option<(Cut<'a>, &'b [u8])> {
        let Some(end) = memchr(b'\n', bytes) else {
            self.append(bytes);
            return None;
        };
        self.append(&bytes[..end]);
        Some((Cut { head: &self.head, lost: self.lost }, &bytes[end + 1..]))
    }

    /// Forgets the line that was handed out.
    pub(super) fn clear(&mut self) {
        self.head.clear();
        self.lost = 0;
    }

    /// The last line, if the stream ended in the middle of one.
    pub(super) fn rest(&self) -> Option<Cut<'_>> {
        (!self.head.is_empty()).then_some(Cut { head: &self.head, lost: self.lost })
    }

    /// Passes over every line that these bytes complete, at the speed of memory; how many they are.
    pub(super) fn skip(&mut self, bytes: &[u8]) -> u64 {
        let Some(last) = memrchr(b'\n', bytes) else {
            self.append(bytes);
            return 0;
        };
        self.clear();
        self.append(&bytes[last + 1..]);
        memchr_iter(b'\n', &bytes[..=last]).count() as u64
    }

    fn append(&mut self, bytes: &[u8]) {
        let room = self.capacity - self.head.len();
        let kept = bytes.len().min(room);
        self.head.extend_from_slice(&bytes[..kept]);
        self.lost += (bytes.len() - kept) as u64;
    }
}

/// The line as it may be kept: plain text of about [`LONGEST_LINE`] bytes at most and a mark for what is missing,
/// secrets replaced. `None`: there is nothing of it but a part of a key.
pub(super) fn clean(cut: Cut<'_>, redactor: &Redactor, pem: &mut Pem) -> Option<String> {
    let text = plain(&String::from_utf8_lossy(cut.head));
    // Where the end was lost, what is in the margin may be the beginning of a secret that cannot be recognised any more.
    let judged = if cut.lost > 0 { text.len().saturating_sub(redactor.margin()) } else { text.len() };
    let stop = text.floor_char_boundary(judged.min(LONGEST_LINE));
    let mut line = redactor.line(&text, stop, pem)?;
    if cut.lost > 0 {
        pem.suspect();
    }
    let mut missing = cut.lost + (text.len() - stop) as u64;
    let most = line.floor_char_boundary(LONGEST_LINE);
    missing += (line.len() - most) as u64;
    line.truncate(most);
    if missing > 0 {
        line.push_str(&format!("… [{missing} more bytes]"));
    }
    Some(line)
}

/// Takes away what only a terminal understands: colours would tear secrets apart, and whoever looks at a log should not
/// have their terminal driven by it.
fn plain(text: &str) -> String {
    if !text.bytes().any(|byte| byte < b' ' || byte == 0x7f || byte == 0xc2) {
        return text.to_owned();
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '\t' => plain.push('\t'),
            '\u{1b}' => escape(&mut rest),
            '\u{9b}' => control(&mut rest),
            control if control.is_control() => {}
            character => plain.push(character),
        }
    }
    plain
}

type Characters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// Passes over what follows an ESC (ECMA-48): a control sequence, a string, or one character.
fn escape(rest: &mut Characters<'_>) {
    match rest.next_if(|character| ('\u{20}'..='\u{7e}').contains(character)) {
        Some('[') => control(rest),
        Some(']') => {
            // A string for the terminal, such as the target of a link, ends with BEL or ESC \.
            while let Some(character) = rest.next_if(|character| *character != '\u{1b}') {
                if character == '\u{7}' {
                    return;
                }
            }
        }
        _ => {}
    }
}

/// Passes over parameters and the final character of a control sequence.
fn control(rest: &mut Characters<'_>) {
    while rest.next_if(|character| ('\u{20}'..='\u{3f}').contains(character)).is_some() {}
    rest.next_if(|character| ('\u{40}'..='\u{7e}').contains(character));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(chunks: &[&[u8]], secrets: &[&str]) -> Vec<String> {
        let redactor = Redactor::new(secrets.iter().map(|&secret| secret.to_owned()));
        let (mut splitter, mut pem) = (Splitter::new(redactor.margin()), Pem::default());
        let mut lines = Vec::new();
        for chunk in chunks {
            let mut rest = *chunk;
            while let Some((cut, after)) = splitter.push(rest) {
                lines.extend(clean(cut, &redactor, &mut pem));
                splitter.clear();
                rest = after;
            }
        }
        lines.extend(splitter.rest().and_then(|cut| clean(cut, &redactor, &mut pem)));
        lines
    }

    #[test]
    fn lines_are_cut_wherever_the_chunks_end() {
        assert_eq!(lines(&[b"on", b"e\r\ntwo\n\nfo", b"ur"], &[]), ["one", "two", "", "four"]);
    }

    #[test]
    fn a_hundred_megabytes_without_a_newline_are_one_short_line() {
        let chunk = vec![b'x'; 1 << 20];
        let redactor = Redactor::new([]);
        let mut splitter = Splitter::new(redactor.margin());
        for number in 0..100 {
            assert!(if number % 2 == 0 { splitter.push(&chunk).is_none() } else { splitter.skip(&chunk) == 0 });
            assert!(splitter.head.capacity() <= 4 * LONGEST_LINE);
        }
        let (cut, _) = splitter.push(b"\n").unwrap();
        let last = clean(cut, &redactor, &mut Pem::default()).unwrap();
        let missing = (100 << 20) - LONGEST_LINE;
        assert!(last.ends_with(&format!("x… [{missing} more bytes]")), "{}", &last[LONGEST_LINE..]);
        assert!(last.len() < LONGEST_LINE + 64);
    }

    #[test]
    fn skipped_lines_are_counted_and_the_next_one_is_whole() {
        let mut splitter = Splitter::new(0);
        assert_eq!((splitter.skip(b"a"), splitter.skip(b"b\nc\n\nd")), (0, 3));
        let (cut, rest) = splitter.push(b"e\nf").unwrap();
        assert_eq!((cut.head, rest), (&b"de"[..], &b"f"[..]));
    }

    #[test]
    fn secrets_are_replaced_even_across_the_limit() {
        let secret = "123456:telegram-test-value";
        let start = LONGEST_LINE - 3;
        for tail in [10, 100_000] {
            let line = format!("{}{secret}{}", "y".repeat(start), " tail".repeat(tail));
            let cleaned = lines(&[line.as_bytes()], &[secret]).remove(0);
            assert!(cleaned[start..].starts_with("[re") && cleaned.contains("… ["), "{}", &cleaned[start..]);
        }
        // One whose end is lost cannot be recognised, so nothing is shown of it.
        let line = format!("{}{}", "y".repeat(start), "z".repeat(2 * LONGEST_LINE));
        let secret = "z".repeat(LONGEST_LINE);
        assert!(!lines(&[line.as_bytes()], &[&secret]).remove(0).contains('z'));
    }

    #[test]
    fn terminals_are_not_driven_and_colours_hide_nothing() {
        assert_eq!(
            lines(
                &[b"\x1b[36m[a]\x1b[0m hun\x1b[1;31mter2-test\x07 \x1b]8;;http://x\x07link\x1b]8;;\x1b\\\ta\x00b\x1b"],
                &["hunter2-test"]
            ),
            ["[a] [redacted] link\tab"]
        );
        assert_eq!(lines(&["ä\u{9b}31mö\u{85}".as_bytes()], &[]), ["äö"]);
    }

    proptest! {
        #[test]
        fn no_input_breaks_it_or_shows_a_secret(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..20_000),
            at in 0usize..20_000,
            cuts in proptest::collection::vec(0usize..20_000, 0..5),
        ) {
            let at = at.min(bytes.len());
            bytes.splice(at..at, *b"secret-for-tests");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let found = lines(&chunks, &["secret-for-tests"]);
            prop_assert_eq!(&found, &lines(&[&bytes], &["secret-for-tests"]));
            for line in found {
                prop_assert!(!line.contains("secret-for-tests"));
                prop_assert!(line.len() <= LONGEST_LINE + 64);
            }
        }
    }
}
