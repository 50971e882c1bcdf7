//! Running the command, and replicas to run it on.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::io::{Read, pipe};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use ltx::{Compression, Encoder, Header, PageSize, Pgno, Timestamp, Txid, TxidRange};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Longer than any of these tests takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// What a run of the command came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The same run, which must have ended with `status`.
    #[track_caller]
    pub(crate) fn ended(self, status: i32) -> Ran {
        assert_eq!(self.status, Some(status), "{self:#?}");
        self
    }

    /// Stdout as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// The command with arguments, in an environment that says nothing of stores.
pub(crate) fn command<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_replica"));
    for (name, _) in std::env::vars_os() {
        let upper = name.to_string_lossy().to_uppercase();
        let about_stores = ["AWS_", "LITESTREAM_", "SSH_"];
        if upper.ends_with("_PROXY") || about_stores.iter().any(|start| upper.starts_with(start)) {
            command.env_remove(name);
        }
    }
    command
        .args(args)
        .env("LITESTREAM_CONFIG", "/nowhere/litestream.yml")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the command to its end.
pub(crate) fn replica<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Ran {
    finish(command(args).spawn().expect("the command should start"))
}

/// Runs the command to its end, with a stdout that nobody reads any more.
pub(crate) fn replica_unread<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Ran {
    let (reader, writer) = pipe().expect("a pipe can be made");
    drop(reader);
    let child = command(args).stdout(writer).spawn();
    finish(child.expect("the command should start"))
}

/// Waits for `child`, but not for ever.
pub(crate) fn finish(mut child: Child) -> Ran {
    let stdout = read_all(child.stdout.take());
    let stderr = read_all(child.stderr.take());
    let id = child.id();
    let (done, ended) = sync_channel(1);
    thread::spawn(move || done.send(child.wait()));
    let status = ended
        .recv_timeout(LIMIT)
        .unwrap_or_else(|_| panic!("process {id} still runs after {LIMIT:?}"))
        .expect("a child can be waited for");
    Ran {
        status: status.code(),
        stdout: stdout.join().expect("stdout should be text"),
        stderr: stderr.join().expect("stderr should be text"),
    }
}

fn read_all(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_string(&mut text)
                .expect("a child's output should be text");
        }
        text
    })
}

/// A folder for one test.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder can be made")
}

/// A replica that Litestream wrote, copied to a folder of its own.
pub(crate) struct Golden {
    pub(crate) name: String,
    pub(crate) facts: Value,
    folder: TempDir,
}

impl Golden {
    /// Copies the set `name`, with the modification times that Litestream gave its files.
    pub(crate) fn copy(name: &str) -> Golden {
        let golden = Golden::without_times(name);
        for (path, file) in golden.facts["files"].as_object().expect("files") {
            let millis = file["mtime_ms"].as_u64().expect("a time");
            let time = UNIX_EPOCH + Duration::from_millis(millis);
            File::options()
                .write(true)
                .open(golden.root().join(path))
                .and_then(|file| file.set_times(FileTimes::new().set_modified(time)))
                .expect("the time of a copy can be set");
        }
        golden
    }

    /// Copies the set `name` as a plain copy does, which loses the times.
    pub(crate) fn without_times(name: &str) -> Golden {
        let facts = sets()
            .remove(name)
            .unwrap_or_else(|| panic!("there is no golden set {name}"));
        let folder = folder();
        copy_tree(
            &golden_folder().join(name).join("replica"),
            &folder.path().join("replica"),
        );
        Golden {
            name: name.to_owned(),
            facts,
            folder,
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("replica")
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.root().display())
    }

    /// A path beside the replica.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path of a file of the replica.
    pub(crate) fn file(&self, level: u8, name: &str) -> PathBuf {
        self.root().join("ltx").join(level.to_string()).join(name)
    }
}

/// The facts of each golden set, by name.
pub(crate) fn sets() -> serde_json::Map<String, Value> {
    let mut sets = serde_json::Map::new();
    for manifest in ["manifest.json", "manifest-frames.json"] {
        let text = fs::read_to_string(golden_folder().join(manifest)).expect("a manifest");
        let mut manifest: Value = serde_json::from_str(&text).expect("JSON");
        sets.append(manifest["sets"].as_object_mut().expect("sets"));
    }
    sets
}

fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ltx/tests/golden")
}

pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("a folder can be read") {
        let entry = entry.expect("a folder can be read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            let bytes = fs::read(entry.path()).expect("a file can be read");
            fs::write(target, bytes).expect("a file can be written");
        }
    }
}

/// Makes a replica of one snapshot, whose pages are all zeros: every byte of it is sound, and
/// SQLite knows it for no database.
pub(crate) fn snapshot_of_zeros(replica: &Path, pages: u32) {
    let txids = TxidRange::single(Txid::FIRST);
    let page_size = PageSize::new(4096).expect("a page size");
    let header = Header::new(page_size, pages, txids, Timestamp::EPOCH);
    let mut file = Vec::new();
    let mut encoder = Encoder::new(header, Compression::Blocks, &mut file);
    let page = vec![0; page_size.bytes()];
    for pgno in (1..=pages).filter_map(Pgno::new) {
        encoder.page(pgno, &page, &mut file).expect("a valid page");
    }
    encoder.finish(None, &mut file).expect("a whole file");
    let level = replica.join("ltx/9");
    fs::create_dir_all(&level).expect("a folder can be made");
    fs::write(level.join(txids.to_string()), file).expect("a file can be written");
}

/// The SHA-256 of a file, as hex digits.
pub(crate) fn sha256(path: &Path) -> String {
    let digest = Sha256::digest(fs::read(path).expect("a file can be read"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// What a folder holds, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("a folder can be read")
        .map(|entry| entry.expect("a folder can be read").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
