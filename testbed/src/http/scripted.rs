//! The server, and its script.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::message::{Answer, Cut, End, Request};
use crate::port::Port;

/// A server on 127.0.0.1 that answers by a script, and otherwise as a handler says, or as another
/// server does.
///
/// A request goes to the first rule that fits and isn't used up. Every request is noted.
pub struct Scripted {
    script: Arc<Script>,
    port: Port,
}

impl Scripted {
    /// A server that answers 501 to what no rule fits.
    pub fn start() -> Self {
        Self::handling(|_| Answer::new(501))
    }

    /// A server that asks `handler` where no rule fits.
    pub fn handling(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::otherwise(Otherwise::Handler(Arc::new(handler)))
    }

    /// A relay: what no rule fits is answered by the server at `upstream`, and 502 where that
    /// can't be reached. The request goes there with the `Host` for which it was signed.
    pub fn before(upstream: SocketAddr) -> Self {
        Self::otherwise(Otherwise::Upstream(upstream))
    }

    /// Begins a rule for the requests that `fits`.
    pub fn on(&self, fits: impl Fn(&Request) -> bool + Send + Sync + 'static) -> On<'_> {
        On {
            script: &self.script,
            fits: Box::new(fits),
            skip: 0,
            times: None,
        }
    }

    /// Forgets every rule.
    pub fn clear(&self) {
        self.script.lock().rules.clear();
    }

    /// `http://` and the address.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The requests so far, in the order in which they had come whole.
    pub fn requests(&self) -> Vec<Request> {
        self.script.lock().requests.clone()
    }

    /// The requests so far, which are forgotten.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.script.lock().requests)
    }

    /// Panics where a rule with a number of times wasn't used so often.
    #[track_caller]
    pub fn assert_rules_used(&self) {
        let script = self.script.lock();
        let left: Vec<_> = script.rules.iter().filter_map(|rule| rule.times).collect();
        assert!(
            left.iter().all(|times| *times == 0),
            "rules were to be used these many times more: {left:?}"
        );
    }

    fn otherwise(otherwise: Otherwise) -> Self {
        let script = Arc::new(Script {
            state: Mutex::default(),
            otherwise,
        });
        let serving = Arc::clone(&script);
        let port = Port::open(move |stream| {
            let script = Arc::clone(&serving);
            async move {
                // A client that breaks off ends its connection and nothing else.
                let _ = script.serve(stream).await;
            }
        });
        Self { script, port }
    }
}

impl Deref for Scripted {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.port
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

/// A rule that lacks what it does. It applies every time, unless told otherwise.
#[must_use]
pub struct On<'a> {
    script: &'a Script,
    fits: Box<dyn Fn(&Request) -> bool + Send + Sync>,
    skip: u64,
    times: Option<u64>,
}

impl On<'_> {
    /// Applies to so many requests.
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Lets so many requests that fit pass first.
    pub fn skip(mut self, requests: u64) -> Self {
        self.skip = requests;
        self
    }

    /// Answers that.
    pub fn answer(self, answer: Answer) {
        self.answer_with(move |_| answer.clone());
    }

    /// Answers each of those, in turn, once.
    pub fn answer_each(self, answers: impl IntoIterator<Item = Answer>) {
        let answers: Vec<_> = answers.into_iter().collect();
        let times = answers.len() as u64;
        let answers = Mutex::new(answers.into_iter());
        self.times(times).answer_with(move |_| {
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.next().expect("the rule applies once an answer")
        });
    }

    /// Answers what `answer` makes of the request.
    pub fn answer_with(self, answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        self.act(Act::Answer(Arc::new(answer)));
    }

    /// Lets the request be handled as if no rule fitted, and makes another answer of that answer.
    pub fn alter(self, alter: impl Fn(Answer) -> Answer + Send + Sync + 'static) {
        self.act(Act::Alter(Arc::new(alter)));
    }

    fn act(self, act: Act) {
        self.script.lock().rules.push(Rule {
            fits: self.fits,
            skip: self.skip,
            times: self.times,
            act,
        });
    }
}

struct Script {
    state: Mutex<State>,
    otherwise: Otherwise,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    requests: Vec<Request>,
    connections: u64,
    in_flight: usize,
}

struct Rule {
    fits: Box<dyn Fn(&Request) -> bool + Send + Sync>,
    skip: u64,
    times: Option<u64>,
    act: Act,
}

#[derive(Clone)]
enum Act {
    Answer(Arc<dyn Fn(&Request) -> Answer + Send + Sync>),
    Alter(Arc<dyn Fn(Answer) -> Answer + Send + Sync>),
}

enum Otherwise {
    Handler(Arc<dyn Fn(&Request) -> Answer + Send + Sync>),
    Upstream(SocketAddr),
}

/// What may come after an answer.
#[derive(PartialEq, Eq)]
enum After {
    AnotherRequest,
    Nothing,
}

impl Script {
    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let connection = {
            let mut state = self.lock();
            state.connections += 1;
            state.connections
        };
        let mut buffer = BytesMut::new();
        while let Some(mut request) = Request::read(&mut stream, &mut buffer).await? {
            let in_flight = InFlight::enter(self);
            request.read_body(&mut stream, &mut buffer).await?;
            request.in_flight = in_flight.count;
            request.connection = connection;
            let act = self.note(&request);

            let answer = match act {
                Some(Act::Answer(answer)) => answer(&request),
                Some(Act::Alter(alter)) => alter(self.otherwise(&request).await),
                None => self.otherwise(&request).await,
            };
            if send(&mut stream, &request, answer).await? == After::Nothing {
                break;
            }
        }
        Ok(())
    }

    /// Notes a request, and chooses the rule for it.
    fn note(&self, request: &Request) -> Option<Act> {
        let mut state = self.lock();
        state.requests.push(request.clone());
        for rule in &mut state.rules {
            if rule.times == Some(0) || !(rule.fits)(request) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.times = rule.times.map(|times| times - 1);
            return Some(rule.act.clone());
        }
        None
    }

    async fn otherwise(&self, request: &Request) -> Answer {
        match &self.otherwise {
            Otherwise::Handler(handler) => handler(request),
            Otherwise::Upstream(upstream) => match forward(*upstream, request).await {
                Ok(answer) => answer,
                Err(error) => Answer::new(502).body(error.to_string()),
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is under way.
struct InFlight<'a> {
    script: &'a Script,
    count: usize,
}

impl<'a> InFlight<'a> {
    fn enter(script: &'a Script) -> Self {
        let mut state = script.lock();
        state.in_flight += 1;
        let count = state.in_flight;
        Self { script, count }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.script.lock().in_flight -= 1;
    }
}

async fn forward(upstream: SocketAddr, request: &Request) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(upstream).await?;
    let (mut from, mut to) = stream.split();
    let wire = request.to_bytes();
    // An upstream may answer before it has read everything, and then not read on.
    let (_, answer) = tokio::join!(
        to.write_all(&wire),
        Answer::read(&mut from, &request.method)
    );
    answer
}

async fn send(stream: &mut TcpStream, request: &Request, answer: Answer) -> io::Result<After> {
    tokio::time::sleep(answer.delay).await;
    let (wire, spoilt) = answer.to_bytes(&request.method);
    if !matches!(answer.cut, Some((Cut::BeforeHead, _))) {
        stream.write_all(&wire).await?;
        stream.flush().await?;
    }
    match answer.cut {
        None if !spoilt && !request.is_last() => return Ok(After::AnotherRequest),
        None | Some((_, End::Close)) => {
            stream.shutdown().await?;
            drain(stream).await?;
        }
        Some((_, End::Reset)) => stream.set_zero_linger()?,
        Some((_, End::Stall)) => std::future::pending().await,
    }
    Ok(After::Nothing)
}

/// Reads until the client ends too: a socket that is closed with bytes unread is reset.
async fn drain(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}
