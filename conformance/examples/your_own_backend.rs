//! A whole backend, in a folder. Run it, and it is asked to keep every promise of the contract.

use std::{fs::Metadata, io, path::PathBuf};

use futures::{StreamExt, TryStreamExt, stream};
use replica_core::*;
use tempfile::NamedTempFile;
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

#[async_trait]
impl ReplicaClient for Folder {
    fn scheme(&self) -> &'static str {
        "folder"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::FULL
    }

    async fn list(&self, level: Level, from: Txid, _: Timestamps) -> Result<FileStream> {
        let fail = classify(Op::List, None);
        let folder = self.0.join(Layout::Tree.folder(level));
        let mut entries = found(fs::read_dir(folder).await).map_err(fail)?;
        let mut files = Vec::new();
        while let Some(entries) = &mut entries
            && let Some(entry) = entries.next_entry().await.map_err(fail)?
        {
            // Whatever is not called as a file of a replica is none.
            if let Some(Ok(txids)) = entry.file_name().to_str().map(str::parse)
                && let Some(facts) = found(entry.metadata().await).map_err(fail)?
                && facts.is_file()
            {
                files.push(info(FileId { level, txids }, &facts).map_err(fail)?);
            }
        }
        Ok(listing(files, from))
    }

    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
        let fail = classify(Op::Open, Some(file));
        let path = self.0.join(Layout::Tree.path(file));
        let mut opened = File::open(path).await.map_err(fail)?;
        let size = opened.metadata().await.map_err(fail)?.len();
        let told = |error: Error| error.of(file).during(Op::Open, "folder");
        let range = range.resolve(size).map_err(told)?;
        let start = io::SeekFrom::Start(range.start);
        opened.seek(start).await.map_err(fail)?;
        let promised = range.end - range.start;
        let chunks = stream::try_unfold(opened.take(promised), move |mut rest| async move {
            let mut chunk = Vec::with_capacity(64 * 1024);
            let count = rest.read_buf(&mut chunk).await.map_err(fail)?;
            Ok((count > 0).then(|| (chunk.into(), rest)))
        });
        // A file that ends early, because somebody cut it, must not look complete.
        Ok(exactly(chunks.boxed(), promised))
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        let fail = classify(Op::Write, Some(file));
        let path = self.0.join(Layout::Tree.path(file));
        let folder = path.parent().expect("a file is in the folder of its level");
        fs::create_dir_all(folder).await.map_err(fail)?;
        // It goes away with this call, unless it gets its name: whole, or not at all.
        let (staged, name) = NamedTempFile::new_in(folder).map_err(fail)?.into_parts();
        let mut staged = File::from_std(staged);
        let mut body = body.into_stream();
        let told = |error: Error| error.of(file).during(Op::Write, "folder");
        while let Some(chunk) = body.try_next().await.map_err(told)? {
            staged.write_all(&chunk).await.map_err(fail)?;
        }
        staged.flush().await.map_err(fail)?;
        let staged = staged.into_std().await;
        let refused = || fail(io::ErrorKind::InvalidInput.into());
        let time = created_at.to_system_time().ok_or_else(refused)?;
        staged.set_modified(time).map_err(fail)?;
        let info = staged.metadata().and_then(|facts| info(file, &facts));
        // A file system that can't hold a time keeps another one, and says nothing.
        let info = info.map_err(fail)?;
        if info.created_at != created_at {
            return Err(refused());
        }
        File::from_std(staged).sync_all().await.map_err(fail)?;
        name.persist(&path).map_err(|error| fail(error.error))?;
        // The names are safe when the folders are: the level's, "ltx", the root and its own.
        for folder in folder.ancestors().take(4) {
            let folder = File::open(folder).await.map_err(fail)?;
            folder.sync_all().await.map_err(fail)?;
        }
        Ok(info)
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        let (mut left, mut fault) = (Vec::new(), None);
        for file in files {
            let path = self.0.join(Layout::Tree.path(*file));
            if let Err(error) = found(fs::remove_file(path).await) {
                left.push(*file);
                fault = Some(error);
            }
        }
        let fault = fault.map(classify(Op::Delete, None));
        fault.map_or(Ok(()), |error| Err(error.of_files(left)))
    }

    async fn delete_all(&self) -> Result<()> {
        let removed = found(fs::remove_dir_all(self.0.join("ltx")).await);
        removed.map(drop).map_err(classify(Op::DeleteAll, None))
    }
}

fn info(id: FileId, facts: &Metadata) -> io::Result<FileInfo> {
    let created_at = Timestamp::from_system_time(facts.modified()?);
    Ok(FileInfo {
        id,
        size: facts.len(),
        created_at: created_at.ok_or(io::ErrorKind::InvalidData)?,
    })
}

/// What was found, unless it is not there.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    let missing = matches!(&result, Err(error) if error.kind() == io::ErrorKind::NotFound);
    if missing { Ok(None) } else { result.map(Some) }
}

/// The one place that knows what an error of the file system means.
fn classify(op: Op, file: Option<FileId>) -> impl Fn(io::Error) -> Error + Copy {
    move |error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => ErrorKind::Invalid,
            _ => ErrorKind::Other,
        };
        let error = Error::new(kind, error.to_string()).with_source(error);
        error.of_files(file).during(op, "folder")
    }
}

#[tokio::main]
async fn main() {
    let base = tempfile::tempdir().expect("there is a place for temporary folders");
    let open = move |namespace: String| std::future::ready(Folder(base.path().join(namespace)));
    conformance::run("", open).await.assert_kept();
}
