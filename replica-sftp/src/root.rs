//! Where a replica is, and what is to be thought of it when something is not there.

use std::fmt;

use replica_core::{Error, ErrorKind, FileId, Layout, Level};

use crate::classify::classify;
use crate::connection::Failure;
use crate::pool::Call;
use crate::wire::{Attributes, Kind, Request};

/// The root of a replica, on its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    /// Without `.`, `..` and slashes that mean nothing.
    path: String,
}

impl Root {
    /// The folder `path`, written in the one way there is.
    pub(crate) fn new(path: &str) -> Result<Root, Error> {
        if path.is_empty() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the path of the replica is empty",
            ));
        }
        if path.contains('\0') {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the path of the replica has a null byte",
            ));
        }
        Ok(Root { path: clean(path) })
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Whether it is plain to see that it is all that there is, or that the folder in which a login
    /// begins is in it.
    pub(crate) fn is_whole_server(&self) -> bool {
        matches!(self.path.as_str(), "/" | ".") || self.path.ends_with("..")
    }

    /// The folder of `level`.
    pub(crate) fn level(&self, level: Level) -> String {
        self.join(&Layout::Tree.folder(level))
    }

    pub(crate) fn file(&self, file: FileId) -> String {
        self.join(&Layout::Tree.path(file))
    }

    /// The folder that holds the folders of all levels.
    pub(crate) fn levels(&self) -> String {
        let level = self.level(Level::RAW);
        let (levels, _) = level
            .rsplit_once('/')
            .expect("a level's folder is in another");
        levels.to_owned()
    }

    fn join(&self, below: &str) -> String {
        match self.path.as_str() {
            "." => below.to_owned(),
            "/" => format!("/{below}"),
            path => format!("{path}/{below}"),
        }
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

/// The same path without `.`, `..` and slashes that mean nothing, as Litestream writes it.
fn clean(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if is_absolute => {}
            part => parts.push(part),
        }
    }
    match (is_absolute, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// `path` and all folders above it, the uppermost first; the server's own root is always there.
pub(crate) fn lineage(path: &str) -> Vec<&str> {
    let ends = path.match_indices('/').map(|(index, _)| index);
    ends.filter(|index| *index > 0)
        .map(|index| &path[..index])
        .chain([path])
        .collect()
}

/// Makes sure that `folder`, which is said not to be there, is missing only because nobody has
/// made it yet: a root below a file, or behind a link to nowhere, is no empty replica.
pub(crate) async fn is_merely_missing(call: &Call, folder: &str) -> Result<(), Error> {
    let mut looks = Vec::new();
    for path in lineage(folder) {
        let behind = call.send(Request::stat(path)).await;
        let itself = call.send(Request::lstat(path)).await;
        looks.push((path, behind, itself));
    }
    for (path, behind, itself) in looks {
        let fault = |failure: Failure| classify("look at", path, failure);
        let behind = behind.map_err(fault)?.await.attributes();
        let itself = itself.map_err(fault)?.await.attributes();
        let problem = match judge(behind, itself).map_err(fault)? {
            Step::Folder => continue,
            Step::Missing => return Ok(()),
            Step::Wrong(problem) => problem,
        };
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("the path of the replica is wrong: {path} {problem}"),
        ));
    }
    // It has been made meanwhile.
    Ok(())
}

/// What one step of a path turns out to be.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Folder,
    Missing,
    Wrong(&'static str),
}

/// Judges a step by what is `behind` its name, and by what the name is `itself`: the same, unless
/// it is a link.
fn judge(
    behind: Result<Attributes, Failure>,
    itself: Result<Attributes, Failure>,
) -> Result<Step, Failure> {
    match behind {
        Ok(found) => Ok(match found.kind() {
            Some(Kind::Folder) | None => Step::Folder,
            Some(_) => Step::Wrong("is no folder"),
        }),
        Err(Failure::Status(status)) if status.is_no_such_file() => match itself {
            Ok(found) if found.kind() == Some(Kind::Link) => {
                Ok(Step::Wrong("is a link to nowhere"))
            }
            // Somebody has made it between the two looks, and until then it was missing.
            Ok(_) => Ok(Step::Missing),
            Err(Failure::Status(status)) if status.is_no_such_file() => Ok(Step::Missing),
            Err(failure) => Err(failure),
        },
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Status;
    use replica_core::{Txid, TxidRange};

    #[test]
    fn a_path_is_written_in_one_way() {
        for (written, cleaned) in [
            ("/srv/db", "/srv/db"),
            ("/srv/db/", "/srv/db"),
            ("//srv//db", "/srv/db"),
            ("/srv/./db/.", "/srv/db"),
            ("/srv/x/../db", "/srv/db"),
            ("/../srv", "/srv"),
            ("/", "/"),
            ("db", "db"),
            ("./db", "db"),
            ("../db", "../db"),
            ("..", ".."),
            ("db/..", "."),
        ] {
            assert_eq!(clean(written), cleaned, "{written}");
        }
    }

    #[test]
    fn a_file_lives_where_litestream_keeps_it() {
        let file = FileId {
            level: Level::SNAPSHOT,
            txids: TxidRange::single(Txid::FIRST),
        };
        for (root, path) in [
            ("/srv/db", "/srv/db/ltx/9/"),
            ("/", "/ltx/9/"),
            (".", "ltx/9/"),
        ] {
            let root = Root::new(root).unwrap();

            assert_eq!(root.file(file), format!("{path}{}", file.txids));
        }
    }

    #[test]
    fn every_folder_above_a_path_is_in_its_lineage() {
        assert_eq!(lineage("/a/b/c"), ["/a", "/a/b", "/a/b/c"]);
        assert_eq!(lineage("a/b"), ["a", "a/b"]);
        assert_eq!(lineage("/"), ["/"]);
    }

    /// A folder that another client made between the two looks once passed for a link to nowhere.
    #[test]
    fn a_step_that_appears_between_two_looks_was_missing() {
        let status = |code| Err(Failure::Status(Status::of(code)));
        let gone = || status(Status::NO_SUCH_FILE);
        let found = |mode| Ok(Attributes::of(mode));
        let (folder, file, link) = (0o040_700, 0o100_600, 0o120_777);
        for (behind, itself, step) in [
            (found(folder), found(folder), Step::Folder),
            (found(folder), found(link), Step::Folder),
            (found(file), found(file), Step::Wrong("is no folder")),
            (gone(), gone(), Step::Missing),
            (gone(), found(folder), Step::Missing),
            (gone(), found(link), Step::Wrong("is a link to nowhere")),
        ] {
            let told = format!("{behind:?} and {itself:?}");

            assert_eq!(judge(behind, itself).ok(), Some(step), "{told}");
        }
        let denied = judge(status(Status::PERMISSION_DENIED), gone());
        assert!(matches!(denied, Err(Failure::Status(_))), "{denied:?}");
    }

    #[test]
    fn a_path_that_nothing_can_have_is_refused() {
        for path in ["", "/srv/\0"] {
            let error = Root::new(path).unwrap_err();

            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }
}
