//! Finding a text in a text. Pure.

/// Characters of a line that are shown.
const SHOWN: usize = 200;

/// Of those, before the hit.
const BEFORE: usize = 60;

/// What is looked for.
pub(super) struct Needle {
    text: String,
    /// Lower case, when case does not count.
    folded: Option<Vec<char>>,
}

/// A line with a hit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1.
    pub(super) line: usize,
    /// Character of the first hit, from 1.
    pub(super) column: usize,
    /// The line, cut around the hit when it is long; `…` stands where it was cut.
    pub(super) text: String,
}

impl Needle {
    /// `text` is one line and not empty.
    pub(super) fn new(text: &str, case: bool) -> Self {
        let folded = (!case).then(|| text.chars().flat_map(char::to_lowercase).collect());
        Self { text: text.to_owned(), folded }
    }

    /// A shorter file cannot contain it. In another case a letter may take fewer bytes, never less than one.
    pub(super) fn bytes(&self) -> u64 {
        self.folded.as_ref().map_or(self.text.len(), |_| 1) as u64
    }

    /// The lines that contain it, one hit each.
    pub(super) fn lines<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Line> + 'a {
        text.lines().enumerate().filter_map(|(number, line)| {
            let at = self.find(line)?;
            Some(Line { line: number + 1, column: line[..at].chars().count() + 1, text: cut(line, at) })
        })
    }

    /// Byte position of the first hit.
    fn find(&self, line: &str) -> Option<usize> {
        let Some(folded) = &self.folded else { return line.find(&self.text) };
        let begins = |at: &usize| {
            let mut there = line[*at..].chars().flat_map(char::to_lowercase);
            folded.iter().all(|wanted| there.next() == Some(*wanted))
        };
        line.char_indices().map(|(at, _)| at).find(begins)
    }
}

/// [`SHOWN`] characters of a line around a position.
fn cut(line: &str, at: usize) -> String {
    if line.len() <= SHOWN {
        return line.to_owned();
    }
    let from = line[..at].char_indices().rev().nth(BEFORE - 1).map_or(0, |(position, _)| position);
    let to = line[from..].char_indices().nth(SHOWN).map_or(line.len(), |(position, _)| from + position);
    let mark = |is_cut: bool| if is_cut { "…" } else { "" };
    format!("{}{}{}", mark(from > 0), &line[from..to], mark(to < line.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(text: &str, needle: &str, case: bool) -> Vec<(usize, usize)> {
        Needle::new(needle, case).lines(text).map(|line| (line.line, line.column)).collect()
    }

    #[test]
    fn lines_and_columns_count_from_one() {
        let text = "first\r\nä Needle needle\n\nneedle";
        assert_eq!(found(text, "needle", true), [(2, 10), (4, 1)]);
        assert_eq!(found(text, "nEEdle", false), [(2, 3), (4, 1)]);
        assert_eq!(found(text, "Ä", false), [(2, 1)]);
        assert_eq!(found(text, "nothing", false), []);
        assert_eq!(found("a.b", "a?b", true), []);
    }

    #[test]
    fn a_long_line_is_cut_around_the_hit() {
        let line = format!("{}needle{}", "ä".repeat(500), "ö".repeat(500));
        let hit = Needle::new("needle", true).lines(&line).next().unwrap();
        assert_eq!(hit.column, 501);
        assert!(hit.text.starts_with("…ä") && hit.text.ends_with("ö…") && hit.text.contains("needle"));
        assert_eq!(hit.text.chars().count(), SHOWN + 2);
    }

    proptest! {
        #[test]
        fn whatever_contains_it_is_found(before in "\\PC{0,300}", needle in "\\PC{1,8}", after in "\\PC{0,300}") {
            let line = format!("{before}{needle}{after}");
            prop_assume!(line.lines().count() == 1 && !line.ends_with('\r'));
            for case in [true, false] {
                let hits: Vec<_> = Needle::new(&needle, case).lines(&line).collect();
                prop_assert_eq!(hits.len(), 1);
            }
        }
    }
}
