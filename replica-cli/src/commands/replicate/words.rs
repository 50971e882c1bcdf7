//! The words of a command, as a shell splits them.

use std::iter::Peekable;
use std::str::Chars;

/// Splits `command` at white space, but for what is in quotes or behind a backslash. Nothing is
/// expanded. `None` where a quote or a backslash has no end.
pub(super) fn split(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut chars = command.chars().peekable();
    loop {
        while chars.next_if(|char| char.is_ascii_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Some(words);
        }
        words.push(word(&mut chars)?);
    }
}

/// Takes everything up to white space or the end.
fn word(chars: &mut Peekable<Chars<'_>>) -> Option<String> {
    let mut word = String::new();
    while let Some(char) = chars.next_if(|char| !char.is_ascii_whitespace()) {
        match char {
            '\'' => until_quote(chars, &mut word)?,
            '"' => until_double_quote(chars, &mut word)?,
            '\\' => word.push(chars.next()?),
            char => word.push(char),
        }
    }
    Some(word)
}

/// Everything stands for itself.
fn until_quote(chars: &mut Peekable<Chars<'_>>, word: &mut String) -> Option<()> {
    loop {
        match chars.next()? {
            '\'' => return Some(()),
            char => word.push(char),
        }
    }
}

/// A backslash is one, but before the few characters that would mean something to a shell.
fn until_double_quote(chars: &mut Peekable<Chars<'_>>, word: &mut String) -> Option<()> {
    loop {
        match chars.next()? {
            '"' => return Some(()),
            '\\' => match chars.next()? {
                char @ ('"' | '\\' | '$' | '`') => word.push(char),
                char => word.extend(['\\', char]),
            },
            char => word.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(command: &str, words: &[&str]) {
        let split = split(command).expect("every quote has an end");

        assert_eq!(split, words, "{command}");
    }

    #[test]
    fn words_are_those_of_a_shell() {
        check("", &[]);
        check(" \t\n", &[]);
        check("  app -port  80\n", &["app", "-port", "80"]);
        check(
            "sh -c 'a && \"b\" $c \\d'",
            &["sh", "-c", "a && \"b\" $c \\d"],
        );
        check(
            r#"a "b c" "\"\\\$\`" "\n""#,
            &["a", "b c", r#""\$`"#, r"\n"],
        );
        check(r"a\ b \'c \\", &["a b", "'c", r"\"]);
        check("a'b'\"c\"d '' \"\"", &["abcd", "", ""]);
        check("größe 'é ü'", &["größe", "é ü"]);
    }

    #[test]
    fn a_quote_or_a_backslash_without_its_end_is_none() {
        for command in ["'", "a 'b", "\"", "a \"b\\\"", "\\", "a\\"] {
            assert_eq!(split(command), None, "{command}");
        }
    }
}
