//! Go's way of writing flags, which Litestream's users have in their fingers, made into clap's.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};

use clap::{ArgAction, Command};

/// `args` with each `-flag` and `-flag=value` written as `--flag` and `--flag=value`, and with
/// `-json=false` and the like carried out.
///
/// Go knows no clusters of short flags, so whatever is longer than one letter is a long one.
/// Values are left alone, and so is all that follows `--`; a value that begins with a dash is
/// written `-flag=-value`.
pub(crate) fn normalise(
    command: &Command,
    args: impl IntoIterator<Item = OsString>,
) -> Vec<OsString> {
    let switches = switches(command);
    let mut args = args.into_iter();
    let mut normal: Vec<OsString> = args.next().into_iter().collect();
    let mut args = with_help_last(args.collect()).into_iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            normal.push(arg);
            normal.extend(args.by_ref());
            break;
        }
        let Some((name, value)) = arg.to_str().and_then(long_flag) else {
            normal.push(arg);
            continue;
        };
        let switch = switches.contains(name);
        match value {
            Some(value) if switch && go_bool(value) == Some(false) => {
                let flag = OsString::from(format!("--{name}"));
                normal.retain(|earlier| *earlier != flag);
            }
            Some(value) if !switch || go_bool(value).is_none() => {
                normal.push(format!("--{name}={value}").into());
            }
            _ => normal.push(format!("--{name}").into()),
        }
    }
    normal
}

/// `help restore` as `restore --help`.
fn with_help_last(mut args: Vec<OsString>) -> Vec<OsString> {
    if args.first().is_some_and(|first| first == "help") {
        args.remove(0);
        args.push("--help".into());
    }
    args
}

/// Whether `args`, which are normal, ask for JSON, be they a right call or not.
pub(crate) fn ask_for_json(args: &[OsString]) -> bool {
    args.iter()
        .take_while(|arg| *arg != "--")
        .any(|arg| arg == "--json")
}

/// `arg` as it may be shown: without the user, the password and the parameters of a URL in it,
/// wherever in it that begins.
pub(crate) fn without_secrets(arg: &OsStr) -> OsString {
    let text = arg.to_string_lossy();
    let Some((scheme, rest)) = text.split_once("://") else {
        return arg.to_owned();
    };
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let (place, more) = rest.split_at(end);
    // A password that nobody has encoded may hold any of these characters.
    let place = match place.rsplit_once('@') {
        _ if more.contains('@') => "…".to_owned(),
        Some((_, host)) => format!("…@{host}"),
        None => place.to_owned(),
    };
    let more = if more.is_empty() { "" } else { "?…" };
    format!("{scheme}://{place}{more}").into()
}

/// The long names of all flags that take no value.
fn switches(command: &Command) -> HashSet<String> {
    let own = command
        .get_arguments()
        .filter(|arg| !matches!(arg.get_action(), ArgAction::Set | ArgAction::Append))
        .filter_map(|arg| arg.get_long().map(str::to_owned));
    own.chain(command.get_subcommands().flat_map(switches))
        .collect()
}

/// The name and the value of a flag of more than one letter, behind one dash or two.
fn long_flag(arg: &str) -> Option<(&str, Option<&str>)> {
    let flag = arg.strip_prefix('-')?;
    let flag = flag.strip_prefix('-').unwrap_or(flag);
    let (name, value) = match flag.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (flag, None),
    };
    (name.chars().count() > 1).then_some((name, value))
}

/// What Go's `strconv.ParseBool` takes.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    fn check(args: &[&str], normal: &[&str]) {
        let command = Command::new("replica").subcommand(
            Command::new("restore")
                .arg(Arg::new("json").long("json").action(ArgAction::SetTrue))
                .arg(Arg::new("txid").long("txid"))
                .arg(Arg::new("output").short('o').long("output")),
        );

        let args = args.iter().map(OsString::from);

        assert_eq!(normalise(&command, args), normal);
    }

    #[test]
    fn one_dash_is_as_good_as_two() {
        check(
            &[
                "replica", "restore", "-txid", "1", "-json", "--json", "-txid=2", "x",
            ],
            &[
                "replica", "restore", "--txid", "1", "--json", "--json", "--txid=2", "x",
            ],
        );
    }

    #[test]
    fn single_letters_paths_and_dashes_stay() {
        check(
            &["-replica", "-o", "x", "-o=-x", "-", "a-b", "./-json", "-h"],
            &["-replica", "-o", "x", "-o=-x", "-", "a-b", "./-json", "-h"],
        );
    }

    #[test]
    fn a_switch_takes_gos_booleans() {
        check(
            &["replica", "-json=true", "-json=T"],
            &["replica", "--json", "--json"],
        );
        check(&["replica", "-json", "x", "-json=false"], &["replica", "x"]);
        check(&["replica", "-json=0", "--json=1"], &["replica", "--json"]);
        check(&["replica", "-json=maybe"], &["replica", "--json=maybe"]);
        check(&["replica", "-txid=false"], &["replica", "--txid=false"]);
    }

    #[test]
    fn what_follows_two_dashes_is_left_alone() {
        check(
            &["replica", "-json", "--", "-json", "--", "-txid=1"],
            &["replica", "--json", "--", "-json", "--", "-txid=1"],
        );
    }

    #[test]
    fn no_secret_of_a_url_is_shown_and_all_else_is() {
        for (arg, shown) in [
            ("restore", "restore"),
            ("/a/b@c?d", "/a/b@c?d"),
            ("s3://bucket/app", "s3://bucket/app"),
            ("sftp://me:hush@nas/app", "sftp://…@nas/app"),
            ("sftp://me:hu/sh@nas/app", "sftp://…@nas/app"),
            ("sftp://me:hu@sh@nas/app", "sftp://…@nas/app"),
            ("sftp://me:hush?hush@nas/app", "sftp://…?…"),
            ("--txid=sftp://me:hush@nas", "--txid=sftp://…@nas"),
            ("-osftp://me:hush@nas", "-osftp://…@nas"),
            ("s3://bucket/app?sse-customer-key=hush", "s3://bucket/app?…"),
            (
                "s3://bucket?endpoint=https://me:hush@h&sse-customer-key=hush",
                "s3://…?…",
            ),
        ] {
            assert_eq!(without_secrets(OsStr::new(arg)), shown);
        }
    }

    #[test]
    fn an_argument_that_is_no_text_is_left_alone() {
        use std::os::unix::ffi::OsStringExt;
        let odd = OsString::from_vec(b"-json\xff".to_vec());

        let normal = normalise(&Command::new("replica"), ["replica".into(), odd.clone()]);

        assert_eq!(normal, ["replica".into(), odd]);
    }
}
