//! `$NAME` and `${NAME}` in a configuration.

/// `text` with each `$NAME` and `${NAME}` replaced by what `value` gives for it.
///
/// The rules are those of Go's `os.Expand`, which Litestream uses: a name is of ASCII letters,
/// digits and underscores, or one of the shell's special characters; in braces it is anything; a
/// `$` before anything else stands for itself; `${}` and an unclosed `${` vanish.
pub(super) fn expand(text: &str, mut value: impl FnMut(&str) -> String) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        if let Some(braced) = after.strip_prefix('{') {
            rest = match braced.split_once('}') {
                Some((name, after)) => {
                    if !name.is_empty() {
                        expanded.push_str(&value(name));
                    }
                    after
                }
                None => braced,
            };
        } else {
            let (name, after) = after.split_at(name_len(after));
            if name.is_empty() {
                expanded.push('$');
            } else {
                expanded.push_str(&value(name));
            }
            rest = after;
        }
    }
    expanded.push_str(rest);
    expanded
}

/// The first line of `text`, from 1, that has a variable which `is_set` does not know, comments
/// aside. Its name is not told: it may be a part of a password with a `$` in it.
pub(super) fn unset(text: &str, is_set: impl Fn(&str) -> bool) -> Option<u64> {
    let has_one = |line: &str| {
        let mut found = false;
        expand(uncommented(line), |name| {
            found |= !is_set(name);
            String::new()
        });
        found
    };
    let mut numbered = (1..).zip(text.lines());
    numbered.find_map(|(number, line)| has_one(line).then_some(number))
}

/// `line` up to its comment. What is in quotes is taken for one too where it looks like one.
fn uncommented(line: &str) -> &str {
    let mut signs = line.match_indices('#');
    let comment = signs.find(|(at, _)| {
        let before = line[..*at].chars().next_back();
        before.is_none_or(char::is_whitespace)
    });
    comment.map_or(line, |(at, _)| &line[..at])
}

/// How many bytes of `text` are a name.
fn name_len(text: &str) -> usize {
    if text.starts_with(|c: char| "*#$@!?-".contains(c) || c.is_ascii_digit()) {
        return 1;
    }
    text.find(|c: char| c != '_' && !c.is_ascii_alphanumeric())
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_found_as_go_finds_them() {
        let value = |name: &str| format!("<{name}>");

        for (text, expanded) in [
            ("a $HOME/b", "a <HOME>/b"),
            ("${A}B$C_1-", "<A>B<C_1>-"),
            ("$1x $$x $-x", "<1>x <$>x <->x"),
            ("cost: 5$ or 5$.", "cost: 5$ or 5$."),
            ("a${}b", "ab"),
            ("a${b", "ab"),
            ("${a b}", "<a b>"),
            ("$é", "$é"),
        ] {
            assert_eq!(expand(text, value), expanded, "{text}");
        }
    }

    #[test]
    fn a_value_is_not_expanded_again() {
        assert_eq!(expand("$A", |_| "$A".to_owned()), "$A");
    }

    #[test]
    fn the_line_of_a_variable_that_is_not_set_is_found() {
        for (text, line) in [
            ("a: $A\nb: ${A}", None),
            ("a: $A\nb: x$B\nc: $C", Some(2)),
            ("a: ${B:-b}", Some(1)),
            ("# $B\na: 5$ # or $B", None),
            ("a: x#$B", Some(1)),
            ("a: ${", None),
        ] {
            assert_eq!(unset(text, |name| name == "A"), line, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_expanded(text in "[a${}_ é#\n-]{0,20}") {
            let expanded = expand(&text, |_| String::new());
            unset(&text, |_| false);

            prop_assert!(expanded.len() <= text.len());
        }
    }
}
