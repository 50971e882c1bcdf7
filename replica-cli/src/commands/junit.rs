//! The conformance report as JUnit XML, which build servers show.

use std::fmt::{self, Write};

use conformance::{CaseReport, Outcome, Report};

/// The reports of named stores, a suite each. Its `Display` is the XML.
pub(super) struct Junit<'a>(pub(super) &'a [(&'static str, Report)]);

impl fmt::Display for Junit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
        writeln!(f, r#"<testsuites name="replica conformance">"#)?;
        for (name, report) in self.0 {
            suite(f, name, report)?;
        }
        writeln!(f, "</testsuites>")
    }
}

fn suite(f: &mut fmt::Formatter<'_>, name: &str, report: &Report) -> fmt::Result {
    let known = |case: &&CaseReport| matches!(case.outcome, Outcome::KnownFailure { .. });
    let errors = usize::from(report.could_not_open.is_some());
    writeln!(
        f,
        r#"  <testsuite name="{}" tests="{}" failures="{}" errors="{errors}" skipped="{}" time="{}">"#,
        Escaped(name),
        report.cases.len() + errors,
        report.broken().count(),
        report.cases.iter().filter(known).count(),
        report.time.as_secs_f64(),
    )?;
    writeln!(
        f,
        r#"    <properties><property name="seed" value="{}"/></properties>"#,
        report.seed
    )?;
    if let Some(reason) = &report.could_not_open {
        let reason = Escaped(reason);
        writeln!(
            f,
            r#"    <testcase name="open" classname="store"><error message="{reason}"/></testcase>"#
        )?;
    }
    for case in &report.cases {
        write_case(f, case)?;
    }
    writeln!(f, "  </testsuite>")
}

/// A failure that is known is skipped in JUnit's terms: it is shown, and fails nothing.
fn write_case(f: &mut fmt::Formatter<'_>, report: &CaseReport) -> fmt::Result {
    write!(
        f,
        r#"    <testcase name="{}" classname="{}" time="{}">"#,
        Escaped(report.case.id),
        Escaped(report.case.group),
        report.time.as_secs_f64(),
    )?;
    match &report.outcome {
        Outcome::Broken(message) => write!(f, r#"<failure message="{}"/>"#, Escaped(message))?,
        Outcome::KnownFailure { message, known } => write!(
            f,
            r#"<skipped message="{} ({}): {}"/>"#,
            Escaped(&known.reason),
            Escaped(&known.issue),
            Escaped(message)
        )?,
        _ => {}
    }
    writeln!(f, "</testcase>")
}

/// A text as the value of an attribute. Characters that XML can't hold are shown as `\u{fffd}`.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\t' | '\n' | '\r' => write!(f, "&#{};", u32::from(c))?,
                '\0'..' ' | '\u{fffe}' | '\u{ffff}' => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_reserves_is_escaped_and_what_it_lacks_is_replaced() {
        assert_eq!(
            Escaped("a <b> & \"c\"\n\u{1b}[1m é").to_string(),
            "a &lt;b&gt; &amp; &quot;c&quot;&#10;\u{fffd}[1m é"
        );
    }
}
