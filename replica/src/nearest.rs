//! What somebody may have meant who mistyped a name.

/// The one of `known` that `name` is most like, where that is little enough to be a slip.
pub(crate) fn nearest(
    name: &str,
    known: impl IntoIterator<Item = &'static str>,
) -> Option<&'static str> {
    let name: String = name.to_ascii_lowercase().replace('_', "-");
    // Beyond that it is like nothing, and not worth the comparison.
    if name.len() > 64 {
        return None;
    }
    let near = known
        .into_iter()
        .map(|known| (distance(&name, known), known))
        .min()?;
    (near.0 <= near.1.len().div_ceil(4)).then_some(near.1)
}

/// How many letters it takes to make `b` of `a`: each one put in, left out or replaced.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_counted() {
        for (a, b, count) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("interval", "intervall", 1),
        ] {
            assert_eq!(distance(a, b), count, "{a} {b}");
        }
    }
}
