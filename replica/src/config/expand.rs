//! `$NAME` and `${NAME}` in a configuration.

/// `text` with each `$NAME` and `${NAME}` replaced by what `value` gives for it.
///
/// The rules are those of Go's `os.Expand`, which Litestream uses: a name is of ASCII letters,
/// digits and underscores, or one of the shell's special characters; in braces it is anything; a
/// `$` before anything else stands for itself; `${}` and an unclosed `${` vanish.
pub(super) fn expand(text: &str, value: impl Fn(&str) -> String) -> String {
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

    proptest! {
        #[test]
        fn any_text_is_expanded(text in "[a${}_ é-]{0,20}") {
            let expanded = expand(&text, |_| String::new());

            prop_assert!(expanded.len() <= text.len());
        }
    }
}
