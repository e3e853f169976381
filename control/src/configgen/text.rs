//! Putting people's text into Markdown so that it stays where it was put. Nothing is interpreted: `$&` and `{{X}}`
//! stay as they are.

/// One line: every run of white space and control characters becomes one space. At most `limit` UTF-16 units,
/// which is how OpenClaw counts.
pub(crate) fn inline(text: &str, limit: usize) -> String {
    let words =
        text.split(|c: char| c.is_whitespace() || c.is_control() || is_line_break(c)).filter(|word| !word.is_empty());
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    cut(&line, limit)
}

/// Several lines as a quotation: each line gets `> `, so a heading or a rule in it stays within the quotation.
pub(crate) fn quotation(text: &str, limit: usize) -> String {
    let text = text.replace("\r\n", "\n");
    let mut quoted = String::new();
    for line in text.trim().split(is_line_break) {
        let line: String = line.chars().filter(|c| !c.is_control()).collect();
        quoted.push_str("> ");
        quoted.push_str(&line);
        quoted.push('\n');
    }
    let mut quoted = cut(&quoted, limit);
    if !quoted.ends_with('\n') {
        quoted.push('\n');
    }
    quoted
}

/// Everything that some reader takes for the end of a line.
fn is_line_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn cut(text: &str, limit: usize) -> String {
    let mut units = 0;
    let end = text
        .char_indices()
        .find(|(_, c)| {
            units += c.len_utf16();
            units > limit
        })
        .map_or(text.len(), |(index, _)| index);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inline_text_is_one_line() {
        assert_eq!(inline(" a\n# b\r\n\tc\u{2028}d\0 $& ", 100), "a # b c d $&");
        assert_eq!(inline("abc", 2), "ab");
        assert_eq!(inline("a😀b", 2), "a");
    }

    #[test]
    fn every_line_of_a_quotation_is_quoted() {
        let quoted = quotation("a\n\n# b\r\nc\rd\u{2029}# e", 1000);
        assert_eq!(quoted, "> a\n> \n> # b\n> c\n> d\n> # e\n");
    }
}
