//! From bytes to lines: bounded, and without secrets. Pure.

/// Longest line that is kept, in bytes.
pub(super) const LONGEST_LINE: usize = 8 * 1024;

/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";

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
    /// `longest_secret` in bytes.
    pub(super) fn new(longest_secret: usize) -> Self {
        Self { head: Vec::new(), capacity: LONGEST_LINE + longest_secret, lost: 0 }
    }

    /// Takes the next bytes and hands out every line that they complete.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Cut<'_>)) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.append(&bytes[..end]);
            self.emit(&mut each);
            bytes = &bytes[end + 1..];
        }
        self.append(bytes);
    }

    /// Hands out the last line, if the stream ended in the middle of one.
    pub(super) fn finish(&mut self, mut each: impl FnMut(Cut<'_>)) {
        if !self.head.is_empty() {
            self.emit(&mut each);
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        let room = self.capacity - self.head.len();
        let kept = bytes.len().min(room);
        self.head.extend_from_slice(&bytes[..kept]);
        self.lost += (bytes.len() - kept) as u64;
    }

    fn emit(&mut self, each: &mut impl FnMut(Cut<'_>)) {
        each(Cut { head: &self.head, lost: self.lost });
        self.head.clear();
        self.lost = 0;
    }
}

/// The line as it may be kept: text, at most [`LONGEST_LINE`] bytes of it plus a mark, known secrets replaced.
/// `secrets` are longest first.
pub(super) fn clean(cut: Cut<'_>, secrets: &[String]) -> String {
    let head = cut.head.strip_suffix(b"\r").unwrap_or(cut.head);
    let text = String::from_utf8_lossy(head);
    let limit = text.floor_char_boundary(LONGEST_LINE);
    let mut clean = String::with_capacity(limit);
    let mut at = 0;
    while at < limit {
        let found = secrets
            .iter()
            .filter_map(|secret| Some((text[at..].find(secret)? + at, secret.len())))
            // Of two that start at the same place, the longer.
            .min_by_key(|&(start, length)| (start, usize::MAX - length));
        let (end, secret) = match found {
            Some((start, length)) if start < limit => (start, Some(length)),
            _ => (limit, None),
        };
        clean.push_str(&text[at..end]);
        at = end;
        if let Some(length) = secret {
            clean.push_str(REDACTED);
            at += length;
        }
    }
    let missing = cut.lost + text.len().saturating_sub(at.max(limit)) as u64;
    if missing > 0 {
        clean.push_str(&format!("… [{missing} more bytes]"));
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(chunks: &[&[u8]], secrets: &[&str]) -> Vec<String> {
        let secrets: Vec<String> = secrets.iter().map(|&secret| secret.to_owned()).collect();
        let mut splitter = Splitter::new(secrets.iter().map(String::len).max().unwrap_or(0));
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, |cut| lines.push(clean(cut, &secrets)));
        }
        splitter.finish(|cut| lines.push(clean(cut, &secrets)));
        lines
    }

    #[test]
    fn lines_are_cut_wherever_the_chunks_end() {
        assert_eq!(lines(&[b"on", b"e\r\ntwo\n\nfo", b"ur"], &[]), ["one", "two", "", "four"]);
    }

    #[test]
    fn a_hundred_megabytes_without_a_newline_are_one_short_line() {
        let chunk = vec![b'x'; 1 << 20];
        let mut splitter = Splitter::new(0);
        for _ in 0..100 {
            splitter.push(&chunk, |_| panic!("there is no newline"));
            assert!(splitter.head.capacity() <= 4 * LONGEST_LINE);
        }
        let mut last = String::new();
        splitter.push(b"\n", |cut| last = clean(cut, &[]));
        let missing = (100 << 20) - LONGEST_LINE;
        assert!(last.ends_with(&format!("x… [{missing} more bytes]")));
        assert!(last.len() < LONGEST_LINE + 64);
    }

    #[test]
    fn secrets_are_replaced_even_across_the_limit() {
        let secret = "123456:telegram-test-value";
        let start = LONGEST_LINE - 3;
        let line = format!("{}{secret} tail", "y".repeat(start));
        let cleaned = lines(&[line.as_bytes()], &[secret]).remove(0);
        assert!(cleaned.contains("y[redacted]… [5 more bytes]"), "{}", &cleaned[start..]);
        assert_eq!(
            lines(&[b"bot123456:telegram-test-value/x and 123456:telegram"], &[secret]),
            ["bot[redacted]/x and 123456:telegram"]
        );
    }

    #[test]
    fn a_secret_within_a_secret_is_replaced_with_it() {
        assert_eq!(lines(&[b"a-long-secret a-long"], &["a-long-secret", "a-long"]), ["[redacted] [redacted]"]);
    }

    proptest! {
        #[test]
        fn no_input_breaks_it_or_shows_a_secret(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..20_000),
            at in 0usize..20_000,
        ) {
            let at = at.min(bytes.len());
            bytes.splice(at..at, *b"secret-for-tests");
            for line in lines(&[&bytes], &["secret-for-tests"]) {
                prop_assert!(!line.contains("secret-for-tests"));
                prop_assert!(line.len() <= LONGEST_LINE + 64);
            }
        }
    }
}
