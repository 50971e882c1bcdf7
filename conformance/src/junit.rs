//! Reports as JUnit XML, which build servers show.

use std::fmt;

use crate::report::{CaseReport, Outcome, Report};

/// The reports of named stores as one JUnit document, a suite each.
///
/// A broken promise is a failure, a store that could not be opened and a run of nothing are
/// errors, and a known failure is skipped in JUnit's terms: it is shown, and fails nothing.
pub fn junit<'a>(reports: impl IntoIterator<Item = (&'a str, &'a Report)>) -> String {
    let mut xml = r#"<?xml version="1.0" encoding="UTF-8"?>"#.to_owned();
    xml.push_str("\n<testsuites name=\"conformance\">\n");
    for (name, report) in reports {
        xml.push_str(&Suite { name, report }.to_string());
    }
    xml.push_str("</testsuites>\n");
    xml
}

struct Suite<'a> {
    name: &'a str,
    report: &'a Report,
}

impl fmt::Display for Suite<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Suite { name, report } = self;
        let error = match &report.could_not_open {
            Some(reason) => Some(format!("could not open a client: {reason}")),
            None if report.cases.is_empty() => Some("nothing ran".to_owned()),
            None => None,
        };
        let known = |case: &&CaseReport| matches!(case.outcome, Outcome::KnownFailure { .. });
        writeln!(
            f,
            r#"  <testsuite name="{}" tests="{}" failures="{}" errors="{}" skipped="{}" time="{:.3}">"#,
            Escaped(name),
            report.cases.len() + usize::from(error.is_some()),
            report.broken().count(),
            usize::from(error.is_some()),
            report.cases.iter().filter(known).count(),
            report.time.as_secs_f64(),
        )?;
        writeln!(
            f,
            r#"    <properties><property name="seed" value="{}"/></properties>"#,
            report.seed
        )?;
        if let Some(error) = error {
            let error = Escaped(&error);
            writeln!(
                f,
                r#"    <testcase name="run" classname="store"><error message="{error}"/></testcase>"#
            )?;
        }
        for case in &report.cases {
            write!(
                f,
                r#"    <testcase name="{}" classname="{}" time="{:.3}">"#,
                Escaped(case.case.id),
                Escaped(case.case.group),
                case.time.as_secs_f64()
            )?;
            match &case.outcome {
                Outcome::Kept => {}
                Outcome::Broken(message) => {
                    write!(f, r#"<failure message="{}"/>"#, Escaped(message))?;
                }
                Outcome::KnownFailure { message, known } => {
                    let why = format!("{} ({}): {message}", known.reason, known.issue);
                    write!(f, r#"<skipped message="{}"/>"#, Escaped(&why))?;
                }
            }
            writeln!(f, "</testcase>")?;
        }
        writeln!(f, "  </testsuite>")
    }
}

/// A text as the value of an attribute. Characters that XML can't hold are shown as another one.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\n' => f.write_str("&#10;")?,
                '\t' => f.write_str("&#9;")?,
                '\0'..' ' | '\u{fffe}' | '\u{ffff}' => f.write_str("\u{fffd}")?,
                _ => write!(f, "{char}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_safe_in_an_attribute() {
        let text = Escaped("a<b> & \"c\"\n\u{1b}[31m\u{1f980}").to_string();

        assert_eq!(
            text,
            "a&lt;b&gt; &amp; &quot;c&quot;&#10;\u{fffd}[31m\u{1f980}"
        );
    }
}
