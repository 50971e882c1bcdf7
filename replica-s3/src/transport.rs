//! Requests on the wire, with time limits that follow progress.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpService,
};
use replica_core::{Error, ErrorKind};
use tokio::time::{Instant, timeout_at};

use crate::config::{S3Config, Tls};
use crate::fault::{Fault, Refusal};

/// How much of the body of an answer is read that is no file's content. A page of a listing, the
/// largest of them, has 1,000 keys of at most 1,024 bytes, each of which XML makes up to six of.
const ANSWER_MAX: usize = 16 << 20;

/// How much of the body of an answer is read that says no.
const REFUSAL_MAX: usize = 64 << 10;

/// How much is given to the connection at once, so that progress can be seen.
const PIECE: usize = 64 << 10;

/// How much of a body that the connection has taken passes within a request's time limit on the
/// slowest line, and how much of one buffers on the way may still hold: the system's alone hold
/// up to 4 MiB.
const SLOWEST: usize = 512 << 10;
const BUFFERED_MAX: usize = 8 << 20;

/// How many idle connections are kept, and for how long: S3 closes them after about as long.
const IDLE_CONNECTIONS: usize = 64;
const IDLE_FOR: Duration = Duration::from_secs(15);

/// Sends requests. An answer that says no is a [`Fault`], as is anything that takes too long.
#[derive(Clone)]
pub(crate) struct Transport {
    client: reqwest::Client,
    request_timeout: Duration,
    stall_timeout: Duration,
}

/// An answer that says yes, whose body is still to come.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
}

/// The body of an answer.
pub(crate) struct Incoming {
    response: reqwest::Response,
    stall_timeout: Duration,
}

impl Transport {
    pub(crate) fn new(config: &S3Config) -> Result<Transport, Error> {
        let invalid = |what: &str, error: reqwest::Error| {
            Error::new(ErrorKind::Invalid, format!("{what} can't be used"))
                .with_source(error.without_url())
        };
        let mut builder = reqwest::Client::builder()
            .user_agent(&config.user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(config.connect_timeout)
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http1_only()
            .no_proxy();
        if let Some(proxy) = &config.proxy {
            let proxy = reqwest::Proxy::all(proxy).map_err(|error| invalid("the proxy", error))?;
            builder = builder.proxy(proxy);
        }
        builder = match &config.tls {
            Tls::System => builder,
            Tls::Trusting(pem) => {
                let authorities = reqwest::Certificate::from_pem_bundle(pem)
                    .map_err(|error| invalid("the certificates", error))?;
                if authorities.is_empty() {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        "the certificates given are none in PEM form",
                    ));
                }
                builder.tls_certs_merge(authorities)
            }
            Tls::Unchecked => builder.tls_danger_accept_invalid_certs(true),
        };
        let client = builder.build().map_err(|error| {
            invalid(
                "the HTTP configuration (user agent, certificates, proxy)",
                error,
            )
        })?;
        Ok(Transport {
            client,
            request_timeout: config.request_timeout,
            stall_timeout: config.stall_timeout,
        })
    }

    /// Sends `request`, which can be repeated, and gives the answer when its headers are there.
    ///
    /// A connection that the server has closed while it was idle may show it only now: then the
    /// request is sent once more.
    pub(crate) async fn send(&self, request: HttpRequest) -> Result<Answer, Fault> {
        match self.send_once(request.clone()).await {
            Err(Fault::Broken(_)) => self.send_once(request).await,
            result => result,
        }
    }

    async fn send_once(&self, request: HttpRequest) -> Result<Answer, Fault> {
        let (parts, body) = request.into_parts();
        let address = parts.uri.to_string();
        let url = address
            .parse()
            .map_err(|error| Fault::Nonsense(format!("no address: {error}")))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        let progress = Arc::new(Progress::new(self.request_timeout));
        if body.content_length() > 0 {
            *request.body_mut() = Some(reqwest::Body::wrap(Outgoing {
                size: body.content_length(),
                body,
                rest: Bytes::new(),
                progress: Arc::clone(&progress),
            }));
        }
        let answer = self.client.execute(request);
        let response = progress.limit(answer).await?.map_err(Fault::of)?;

        let status = response.status();
        let headers = response.headers().clone();
        let body = Incoming {
            response,
            stall_timeout: self.stall_timeout,
        };
        if status.is_success() {
            return Ok(Answer {
                status,
                headers,
                body,
            });
        }
        // Whatever keeps the rest of it away, the status is an answer.
        let words = body.collect_up_to(REFUSAL_MAX).await;
        Err(Refusal::read(status, &headers, &words.unwrap_or_default()).into())
    }
}

impl Answer {
    /// The whole of an answer that is no file's content.
    pub(crate) async fn collect(self) -> Result<(StatusCode, HeaderMap, Bytes), Fault> {
        let body = self.body.collect_up_to(ANSWER_MAX).await?;
        match Refusal::in_good_answer(&self.headers, &body) {
            Some(refusal) => Err(refusal.into()),
            None => Ok((self.status, self.headers, body)),
        }
    }

    /// The value of a header, where it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// How long the body says it is.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH.as_str())?.parse().ok()
    }
}

impl Incoming {
    /// The next bytes, or `None` behind the last ones.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        let limit = self.stall_timeout;
        match timeout_at(deadline(Instant::now(), limit), self.response.chunk()).await {
            Ok(chunk) => chunk.map_err(Fault::of),
            Err(_) => Err(Fault::Silent(limit)),
        }
    }

    async fn collect_up_to(mut self, max: usize) -> Result<Bytes, Fault> {
        let mut all = BytesMut::new();
        while let Some(chunk) = self.next().await? {
            if all.len() + chunk.len() > max {
                return Err(Fault::Nonsense(format!(
                    "an answer of more than {max} bytes"
                )));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }
}

/// When something moved last, and how long nothing may.
struct Progress {
    limit: Duration,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
struct State {
    moved: Instant,
    /// How many times the limit is waited for.
    times: u32,
}

impl Progress {
    fn new(limit: Duration) -> Progress {
        let moved = Instant::now();
        let state = Mutex::new(State { moved, times: 1 });
        Progress { limit, state }
    }

    fn note(&self, times: u32) {
        let moved = Instant::now();
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State { moved, times };
    }

    /// Notes that the connection has taken a body of `size` bytes to its end, which may be far
    /// from having arrived: nothing shows how buffers on the way empty.
    fn note_end(&self, size: usize) {
        let slowest = size.min(BUFFERED_MAX).div_ceil(SLOWEST);
        self.note(1 + u32::try_from(slowest).unwrap_or(u32::MAX - 1));
    }

    /// Until when something has to move, and how long it has had for that by then.
    fn patience(&self) -> (Instant, Duration) {
        let State { moved, times } = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = self.limit.saturating_mul(times);
        (deadline(moved, limit), limit)
    }

    /// Waits for `answer` for as long as something moves in time.
    async fn limit<T>(&self, answer: impl Future<Output = T>) -> Result<T, Fault> {
        let mut answer = pin!(answer);
        let (mut until, _) = self.patience();
        loop {
            if let Ok(answer) = timeout_at(until, answer.as_mut()).await {
                return Ok(answer);
            }
            let (moved, limit) = self.patience();
            if moved <= until {
                return Err(Fault::Silent(limit));
            }
            until = moved;
        }
    }
}

/// `limit` after `start`, or a day where that is no time.
fn deadline(start: Instant, limit: Duration) -> Instant {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    start.checked_add(limit).unwrap_or(start + DAY)
}

/// The body of a request, in pieces, each of which is progress.
struct Outgoing {
    size: usize,
    body: HttpRequestBody,
    rest: Bytes,
    progress: Arc<Progress>,
}

impl Outgoing {
    fn note(&self) {
        if self.is_end_stream() {
            self.progress.note_end(self.size);
        } else {
            self.progress.note(1);
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.note();
        while self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest = data;
                    }
                }
                other => return other,
            }
        }
        let piece = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(piece);
        self.note();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.size_hint();
        SizeHint::with_exact(hint.lower() + self.rest.len() as u64)
    }
}

/// What `object_store` sends its requests through: those of uploads.
#[async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let exchange = async {
            let answer = if request.method().is_idempotent() {
                self.send(request).await?
            } else {
                self.send_once(request).await?
            };
            answer.collect().await
        };
        match exchange.await {
            Ok((status, headers, body)) => {
                let mut response = HttpResponse::new(body.into());
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                Ok(response)
            }
            Err(fault) => Err(HttpError::new(kind(&fault), fault)),
        }
    }
}

/// Says which requests of an upload `object_store` sends again, where it may: all that it sends
/// more than once can be repeated, also those that it would not repeat by itself once they may
/// have arrived.
fn kind(fault: &Fault) -> HttpErrorKind {
    match fault.may_pass() {
        true => HttpErrorKind::Request,
        false => HttpErrorKind::Unknown,
    }
}

impl HttpConnector for Transport {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}
