//! Merging by lines.

use diffy::MergeOptions;

/// Most lines of one side: the comparison takes time in the order of the product of two sides.
const MAX_LINES: usize = 10_000;

/// What a text has besides its lines.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Form {
    /// Every line ends with CR LF.
    crlf: bool,
    /// The last line has an end.
    complete: bool,
}

/// See [`super::three_way`].
pub(super) fn three_way(base: &str, ours: &str, theirs: &str) -> Option<String> {
    let ((base, base_form), (ours, our_form), (theirs, their_form)) = (plain(base)?, plain(ours)?, plain(theirs)?);
    let merged = MergeOptions::new().merge(&base, &ours, &theirs).ok()?;
    // The form is merged like a line: whoever changed it decides; whoever keeps the tenant's file decides when both did.
    let crlf = if our_form.crlf == base_form.crlf { their_form.crlf } else { our_form.crlf };
    let complete = if our_form.complete == base_form.complete { their_form.complete } else { our_form.complete };
    let merged = if complete { merged.as_str() } else { merged.strip_suffix('\n').unwrap_or(&merged) };
    Some(if crlf { merged.replace('\n', "\r\n") } else { merged.to_owned() })
}

/// The text with LF only and a complete last line, so that a line is the same line in every form. A text that mixes line ends stays as it is.
fn plain(text: &str) -> Option<(String, Form)> {
    if text.lines().count() > MAX_LINES {
        return None;
    }
    let (all, crlf) = (text.matches('\n').count(), text.matches("\r\n").count());
    let crlf = crlf > 0 && crlf == all;
    let mut lines = if crlf { text.replace("\r\n", "\n") } else { text.to_owned() };
    let complete = text.is_empty() || text.ends_with('\n');
    if !complete {
        lines.push('\n');
    }
    Some((lines, Form { crlf, complete }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn changes_in_different_places_come_together() {
        assert_eq!(three_way("a\nb\nc\nd\n", "A\nb\nc\nd\n", "a\nb\nc\nD\n").as_deref(), Some("A\nb\nc\nD\n"));
        assert_eq!(three_way("a\nb\nc\n", "a\nx\nc\n", "a\ny\nc\n"), None);
    }

    #[test]
    fn line_ends_do_not_make_conflicts() {
        // The agent's editor writes CR LF; the push knows nothing of it.
        assert_eq!(three_way("a\nb\nc\n", "A\r\nb\r\nc\r\n", "a\nb\nC\n").as_deref(), Some("A\r\nb\r\nC\r\n"));
        assert_eq!(three_way("a\nb\nc", "A\nb\nc", "a\nb\nc\nd\n").as_deref(), Some("A\nb\nc\nd\n"));
        assert_eq!(three_way("a\nb\nc\n", "a\nb\nc", "A\nb\nc\n").as_deref(), Some("A\nb\nc"));
    }

    fn lines() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0u8..6, 0..12)
    }

    fn text(lines: &[u8]) -> String {
        lines.iter().map(|line| format!("line {line}\n")).collect()
    }

    proptest! {
        /// Nobody's line vanishes and none comes out of nowhere; merging what has been merged changes nothing.
        #[test]
        fn every_line_comes_from_a_side(base in lines(), ours in lines(), theirs in lines()) {
            let (base, ours, theirs) = (text(&base), text(&ours), text(&theirs));
            if let Some(merged) = three_way(&base, &ours, &theirs) {
                for line in merged.lines() {
                    prop_assert!(ours.lines().chain(theirs.lines()).any(|known| known == line), "{line}");
                }
                let count = |text: &str, line: &str| text.lines().filter(|other| *other == line).count();
                for line in ours.lines().filter(|line| count(&ours, line) > count(&base, line)) {
                    prop_assert!(merged.lines().any(|kept| kept == line), "{line} of ours is lost");
                }
                for line in theirs.lines().filter(|line| count(&theirs, line) > count(&base, line)) {
                    prop_assert!(merged.lines().any(|kept| kept == line), "{line} of theirs is lost");
                }
            }
            prop_assert_eq!(three_way(&base, &base, &theirs), Some(theirs.clone()));
            prop_assert_eq!(three_way(&base, &ours, &base), Some(ours.clone()));
        }
    }
}
