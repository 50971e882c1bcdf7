//! Requests and answers, and how they are read and written.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The headers of a message, at most.
const HEADERS_MAX: usize = 128;
/// The bytes of a message's head, at most.
const HEAD_MAX: usize = 256 << 10;
/// The bytes of a message's body, at most.
const BODY_MAX: u64 = 2 << 30;
/// The bytes read at once, at least.
const READ_MIN: usize = 64 << 10;

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET`, `PUT` and so on.
    pub method: String,
    /// The path as it was sent, percent-encoded.
    pub path: String,
    /// What follows the question mark, as it was sent, or nothing.
    pub query: String,
    /// Names in lower case, and values, in the order in which they were sent.
    pub headers: Vec<(String, String)>,
    /// The body, without the framing of chunks.
    pub body: Bytes,
    /// How many requests were under way when this one's head had come, itself included.
    pub in_flight: usize,
    /// Which connection it came by, counted from 1.
    pub connection: u64,
}

/// What is answered: the whole of it, unless told otherwise.
#[derive(Clone, Debug)]
#[must_use]
pub struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
    pub(super) declared: Option<u64>,
    pub(super) delay: Duration,
    pub(super) cut: Option<(Cut, End)>,
}

/// How a connection ends whose answer is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With a FIN.
    Close,
    /// With an RST.
    Reset,
    /// It doesn't: nothing more comes.
    Stall,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    BeforeHead,
    InBody(usize),
}

impl Request {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The value of a parameter of the query as it was sent, percent-encoded; empty for one without
    /// a value, as in `?uploads`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|parameter| {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            (key == name).then_some(value)
        })
    }

    /// Reads a request, or nothing where the client has ended.
    pub(super) async fn read<S>(stream: &mut S, buffer: &mut BytesMut) -> io::Result<Option<Self>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut request = Self::default();
        let length = loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut head = httparse::Request::new(&mut headers);
            if let httparse::Status::Complete(length) = head.parse(buffer).map_err(invalid)? {
                request.method = head.method.unwrap_or_default().to_owned();
                let target = head.path.unwrap_or_default();
                let (path, query) = target.split_once('?').unwrap_or((target, ""));
                request.path = path.to_owned();
                request.query = query.to_owned();
                request.headers = owned(head.headers);
                break length;
            }
            if buffer.len() > HEAD_MAX {
                return Err(invalid("a head without an end"));
            }
            buffer.reserve(READ_MIN);
            if stream.read_buf(buffer).await? == 0 {
                return Ok(None);
            }
        };
        buffer.advance(length);
        Ok(Some(request))
    }

    /// Reads the body of a request whose head was read.
    pub(super) async fn read_body<S>(
        &mut self,
        stream: &mut S,
        buffer: &mut BytesMut,
    ) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let expects = self.header("expect").unwrap_or_default();
        if expects.eq_ignore_ascii_case("100-continue") {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            stream.flush().await?;
        }
        let framing = Framing::of(&self.headers)?.unwrap_or(Framing::Length(0));
        self.body = read_body(stream, buffer, framing).await?;
        Ok(())
    }

    /// Whether the client wants to send no other request by this connection.
    pub(super) fn is_last(&self) -> bool {
        self.header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The request for an upstream that shall close the connection after its answer.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let target = match self.query.as_str() {
            "" => self.path.clone(),
            query => format!("{}?{query}", self.path),
        };
        let mut head = format!("{} {target} HTTP/1.1\r\n", self.method);
        for (name, value) in &self.headers {
            if ![
                "connection",
                "content-length",
                "transfer-encoding",
                "expect",
            ]
            .contains(&&**name)
            {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        if Framing::of(&self.headers).is_ok_and(|framing| framing.is_some()) {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("connection: close\r\n\r\n");
        [head.as_bytes(), &self.body].concat()
    }
}

impl Answer {
    /// An answer of that status, without headers or a body.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
            declared: None,
            delay: Duration::ZERO,
            cut: None,
        }
    }

    /// No answer at all.
    pub fn none(end: End) -> Self {
        Self {
            cut: Some((Cut::BeforeHead, end)),
            ..Self::new(0)
        }
    }

    /// An error as S3 answers it: a status and a code, such as 503 and `SlowDown`.
    pub fn s3_error(status: u16, code: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
             <Message>as the test says</Message><RequestId>testbed</RequestId></Error>"
        );
        Self::new(status)
            .header("content-type", "application/xml")
            .body(body)
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes a header away, by its name in lower case.
    pub fn without_header(mut self, name: &str) -> Self {
        self.headers
            .retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self
    }

    /// With another body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.declared = None;
        self
    }

    /// Declares that `Content-Length` instead of the body's. Where it is wrong, the connection is
    /// closed after the body.
    pub fn declaring(mut self, length: u64) -> Self {
        self.declared = Some(length);
        self
    }

    /// Answers so much later.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Ends the connection after so many bytes of the body.
    pub fn cut(mut self, after: usize, end: End) -> Self {
        self.cut = Some((Cut::InBody(after), end));
        self
    }

    /// The status of an answer that came from upstream.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The body of an answer that came from upstream.
    pub fn bytes(&self) -> &Bytes {
        &self.body
    }

    /// Reads an answer to the end of the stream, as it comes from an upstream that closes.
    pub(super) async fn read<S>(stream: &mut S, method: &str) -> io::Result<Self>
    where
        S: AsyncRead + Unpin,
    {
        let mut buffer = BytesMut::new();
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut head = httparse::Response::new(&mut headers);
            let parsed = head.parse(&buffer).map_err(invalid)?;
            if let httparse::Status::Complete(length) = parsed {
                let status = head.code.unwrap_or_default();
                let headers = owned(head.headers);
                buffer.advance(length);
                if status < 200 {
                    continue;
                }
                return Self::read_rest(stream, buffer, method, status, headers).await;
            }
            if buffer.len() > HEAD_MAX {
                return Err(invalid("a head without an end"));
            }
            buffer.reserve(READ_MIN);
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn read_rest<S>(
        stream: &mut S,
        mut buffer: BytesMut,
        method: &str,
        status: u16,
        mut headers: Vec<(String, String)>,
    ) -> io::Result<Self>
    where
        S: AsyncRead + Unpin,
    {
        let framing = Framing::of(&headers)?;
        let mut declared = None;
        let body = if method == "HEAD" {
            if let Some(Framing::Length(length)) = framing {
                declared = Some(length);
            }
            Bytes::new()
        } else if status == 204 || status == 304 {
            Bytes::new()
        } else {
            read_body(stream, &mut buffer, framing.unwrap_or(Framing::ToTheEnd)).await?
        };
        headers.retain(|(name, _)| {
            !["connection", "content-length", "transfer-encoding"].contains(&&**name)
        });
        Ok(Self {
            headers,
            body,
            declared,
            ..Self::new(status)
        })
    }

    /// The bytes to write, and whether the connection is worth nothing after them.
    pub(super) fn to_bytes(&self, method: &str) -> (Bytes, bool) {
        let bodiless = method == "HEAD" || self.status == 204 || self.status == 304;
        let length = self.declared.unwrap_or(self.body.len() as u64);
        let mut wire = BytesMut::from(format!("HTTP/1.1 {} \r\n", self.status).as_bytes());
        for (name, value) in &self.headers {
            wire.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if self.status != 204 && header(&self.headers, "content-length").is_none() {
            wire.extend_from_slice(format!("content-length: {length}\r\n").as_bytes());
        }
        wire.extend_from_slice(b"\r\n");
        if bodiless {
            return (wire.freeze(), false);
        }
        let sent = match self.cut {
            Some((Cut::InBody(after), _)) => after.min(self.body.len()),
            _ => self.body.len(),
        };
        wire.extend_from_slice(&self.body[..sent]);
        (wire.freeze(), length != self.body.len() as u64)
    }
}

/// How the end of a body is known.
#[derive(Clone, Copy)]
enum Framing {
    Length(u64),
    Chunks,
    ToTheEnd,
}

impl Framing {
    fn of(headers: &[(String, String)]) -> io::Result<Option<Self>> {
        if let Some(coding) = header(headers, "transfer-encoding") {
            return if coding.eq_ignore_ascii_case("chunked") {
                Ok(Some(Self::Chunks))
            } else {
                Err(invalid("a transfer encoding other than chunked"))
            };
        }
        match header(headers, "content-length") {
            Some(length) => Ok(Some(Self::Length(length.parse().map_err(invalid)?))),
            None => Ok(None),
        }
    }
}

async fn read_body<S>(stream: &mut S, buffer: &mut BytesMut, framing: Framing) -> io::Result<Bytes>
where
    S: AsyncRead + Unpin,
{
    match framing {
        Framing::Length(length) => {
            let length = body_length(length)?;
            fill(stream, buffer, length).await?;
            Ok(buffer.split_to(length).freeze())
        }
        Framing::ToTheEnd => {
            while stream.read_buf(buffer).await? > 0 {
                body_length(buffer.len() as u64)?;
                buffer.reserve(READ_MIN);
            }
            Ok(buffer.split().freeze())
        }
        Framing::Chunks => {
            let mut body = BytesMut::new();
            loop {
                let (line, size) = loop {
                    match httparse::parse_chunk_size(buffer) {
                        Ok(httparse::Status::Complete(parsed)) => break parsed,
                        Ok(httparse::Status::Partial) => {
                            fill(stream, buffer, buffer.len() + 1).await?;
                        }
                        Err(_) => return Err(invalid("a chunk without a size")),
                    }
                };
                let size = body_length(size.saturating_add(body.len() as u64))? - body.len();
                buffer.advance(line);
                fill(stream, buffer, size + 2).await?;
                body.extend_from_slice(&buffer[..size]);
                // Trailers aren't sent by whom the testbed meets.
                buffer.advance(size + 2);
                if size == 0 {
                    return Ok(body.freeze());
                }
            }
        }
    }
}

/// Reads until the buffer holds at least so many bytes.
async fn fill<S>(stream: &mut S, buffer: &mut BytesMut, length: usize) -> io::Result<()>
where
    S: AsyncRead + Unpin,
{
    while buffer.len() < length {
        buffer.reserve(READ_MIN.max(length - buffer.len()));
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn body_length(length: u64) -> io::Result<usize> {
    match usize::try_from(length) {
        Ok(size) if length <= BODY_MAX => Ok(size),
        _ => Err(invalid("a body too large for the testbed")),
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| &**value)
}

fn owned(headers: &[httparse::Header<'_>]) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|header| {
            let value = String::from_utf8_lossy(header.value).into_owned();
            (header.name.to_ascii_lowercase(), value)
        })
        .collect()
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
