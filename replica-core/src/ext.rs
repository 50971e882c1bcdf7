//! What every client can do because it is one.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;

use crate::{
    Body, ByteRange, Error, ErrorKind, FileId, FileInfo, Level, Op, ReplicaClient, Result,
    Timestamps, Txid,
};

/// What every [`ReplicaClient`] can do because it is one.
#[async_trait]
pub trait ReplicaClientExt: ReplicaClient {
    /// The listing of `level` from `from` on as a vector: memory grows with the number of files.
    async fn list_all(
        &self,
        level: Level,
        from: Txid,
        timestamps: Timestamps,
    ) -> Result<Vec<FileInfo>> {
        self.list(level, from, timestamps)
            .await?
            .try_collect()
            .await
    }

    /// Stores the LTX file `body` as `file`, under the time in its own header.
    ///
    /// This is the write to use for LTX files: a name that does not say what is in the file would
    /// make a restore apply the wrong transactions. The header is read ahead, the rest is
    /// streamed.
    ///
    /// The header is read before any client sees the body, however many layers this one has: no
    /// layer's time limit applies to it, and no layer tries it again. A body that may stand still
    /// needs a limit of its own until it has given the header, and an error of the body's, of
    /// whatever kind, is returned at once. A body that can be opened again is opened once more
    /// for the header.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid), before anything is sent, for a body that does not begin
    /// with a valid LTX header, or whose header holds other transactions than the name says.
    async fn write_ltx(&self, file: FileId, body: Body) -> Result<FileInfo> {
        let refused = |error: Error| error.of(file).during(Op::Write, self.scheme());
        let (head, body) = body.peek(ltx::HEADER_SIZE).await.map_err(refused)?;
        let header = ltx::Header::parse(&head).map_err(|error| {
            let message = "the body does not begin with a valid LTX header";
            refused(Error::new(ErrorKind::Invalid, message).with_source(error))
        })?;
        if header.txids() != file.txids {
            let message = format!("the body's header says that it is {}", header.txids());
            return Err(refused(Error::new(ErrorKind::Invalid, message)));
        }
        self.write(file, header.timestamp(), body).await
    }

    /// The bytes of `range` in memory, as many as the file has.
    async fn read(&self, file: FileId, range: ByteRange) -> Result<Bytes> {
        let mut stream = self.open(file, range).await?;
        let Some(first) = stream.try_next().await? else {
            return Ok(Bytes::new());
        };
        let Some(second) = stream.try_next().await? else {
            return Ok(first);
        };
        let mut whole = BytesMut::from(first);
        whole.extend_from_slice(&second);
        while let Some(chunk) = stream.try_next().await? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }
}

impl<C: ReplicaClient + ?Sized> ReplicaClientExt for C {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ByteStream, Capabilities, FileStream, Timestamp, TxidRange, listing};
    use futures::executor::block_on;
    use std::error::Error as _;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    /// Remembers what it was asked to write, and has one file of three chunks.
    #[derive(Debug, Default)]
    struct Recorder(Mutex<Vec<(FileId, Timestamp, Vec<u8>)>>);

    #[async_trait]
    impl ReplicaClient for Recorder {
        fn scheme(&self) -> &'static str {
            "recorder"
        }

        fn capabilities(&self) -> Capabilities {
            Capabilities::FULL
        }

        async fn list(&self, _: Level, from: Txid, _: Timestamps) -> Result<FileStream> {
            Ok(listing(Vec::new(), from))
        }

        async fn open(&self, _: FileId, _: ByteRange) -> Result<ByteStream> {
            let chunks =
                ["on", "e", " whole"].map(|chunk| Ok(Bytes::from_static(chunk.as_bytes())));
            Ok(Box::pin(futures::stream::iter(chunks)))
        }

        async fn write(&self, id: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
            let bytes = body
                .into_stream()
                .map_ok(|chunk| chunk.to_vec())
                .try_concat()
                .await?;
            let size = bytes.len() as u64;
            self.0.lock().unwrap().push((id, created_at, bytes));
            Ok(FileInfo {
                id,
                size,
                created_at,
            })
        }

        async fn delete(&self, _: &[FileId]) -> Result<()> {
            Ok(())
        }

        async fn delete_all(&self) -> Result<()> {
            Ok(())
        }
    }

    fn file(txid: u64) -> FileId {
        FileId {
            level: Level::RAW,
            txids: TxidRange::single(Txid::new(txid).unwrap()),
        }
    }

    /// The header of transaction 7, and some bytes that nobody looks at.
    fn ltx_file() -> Vec<u8> {
        let page_size = ltx::PageSize::new(4096).unwrap();
        let header = ltx::Header::new(page_size, 1, file(7).txids, Timestamp::from_millis(42));
        [&header.encode()[..], b"and so on"].concat()
    }

    #[test]
    fn an_ltx_file_is_written_under_the_time_in_its_header() {
        let client = Recorder::default();
        let chunks: Vec<_> = ltx_file()
            .chunks(3)
            .map(|c| Ok(Bytes::copy_from_slice(c)))
            .collect();
        let body = Body::once(None, Box::pin(futures::stream::iter(chunks)));

        block_on(client.write_ltx(file(7), body)).unwrap();

        let written = client.0.into_inner().unwrap();
        assert_eq!(written, [(file(7), Timestamp::from_millis(42), ltx_file())]);
    }

    #[test]
    fn a_body_that_is_not_what_its_name_says_is_never_sent() {
        let client = Recorder::default();
        let refuse = |file, bytes: Vec<u8>| {
            let error = block_on(client.write_ltx(file, bytes.into())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            error
        };

        let other = refuse(file(8), ltx_file());
        let short = refuse(file(7), ltx_file()[..99].to_vec());
        let none = refuse(file(7), Vec::new());
        let mut magic = ltx_file();
        magic[0] = b'X';
        let magic = refuse(file(7), magic);

        assert!(client.0.lock().unwrap().is_empty());
        assert_eq!(
            other.to_string(),
            "recorder: write 0/0000000000000008-0000000000000008.ltx: the body's header says that \
             it is 0000000000000007-0000000000000007.ltx"
        );
        for error in [short, none, magic] {
            assert!(
                error
                    .source()
                    .is_some_and(|source| source.is::<ltx::Error>()),
                "{error}"
            );
        }
    }

    #[test]
    fn a_body_that_fails_before_its_header_ends_is_not_opened_again() {
        // Callers took it for granted that a layer which tries writes again covers the header.
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        let body = Body::reopenable(None, move || {
            count.fetch_add(1, Ordering::Relaxed);
            async { Err(Error::new(ErrorKind::Unavailable, "the source is busy")) }
        });
        let client = Recorder::default();

        let error = block_on(client.write_ltx(file(7), body)).unwrap_err();

        assert!(error.is_transient());
        assert_eq!(
            (error.files(), error.op()),
            (&[file(7)][..], Some(Op::Write))
        );
        assert_eq!(opened.load(Ordering::Relaxed), 1);
        assert!(client.0.lock().unwrap().is_empty());
    }

    #[test]
    fn reading_puts_the_chunks_together() {
        let bytes = block_on(Recorder::default().read(file(1), ByteRange::ALL)).unwrap();

        assert_eq!(bytes, "one whole");
    }
}
