//! How the suite gets the clients that it tests.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use replica_core::ReplicaClient;

/// Why a store could not be opened.
pub type OpenError = Box<dyn Error + Send + Sync>;

/// What opens a client on a namespace: any `async fn(String) -> C`, or `-> Result<C, E>`, with
/// `C` a [`ReplicaClient`].
///
/// The same namespace is the same store, whichever client asks; another namespace is another
/// store. A namespace is a relative path as people write it, such as `range-1f9c/db`, and not a
/// piece of a URL: it may hold spaces and any other character. One that the store can't have may
/// be refused with an error.
///
/// `M` tells the two forms apart; the compiler finds it.
pub trait Factory<M>: Send + Sync + 'static {
    /// Opens one more client on `namespace`.
    fn open(
        &self,
        namespace: String,
    ) -> BoxFuture<'static, Result<Arc<dyn ReplicaClient>, OpenError>>;
}

/// Marks a [`Factory`] that always gives a client.
#[derive(Debug)]
pub struct Infallible(());

/// Marks a [`Factory`] that gives a client or an error.
#[derive(Debug)]
pub struct Fallible(());

impl<F, O, C> Factory<Infallible> for F
where
    F: Fn(String) -> O + Send + Sync + 'static,
    O: Future<Output = C> + Send + 'static,
    C: ReplicaClient,
{
    fn open(
        &self,
        namespace: String,
    ) -> BoxFuture<'static, Result<Arc<dyn ReplicaClient>, OpenError>> {
        self(namespace)
            .map(|client| Ok(Arc::new(client) as Arc<dyn ReplicaClient>))
            .boxed()
    }
}

impl<F, O, C, E> Factory<Fallible> for F
where
    F: Fn(String) -> O + Send + Sync + 'static,
    O: Future<Output = Result<C, E>> + Send + 'static,
    C: ReplicaClient,
    E: Into<OpenError>,
{
    fn open(
        &self,
        namespace: String,
    ) -> BoxFuture<'static, Result<Arc<dyn ReplicaClient>, OpenError>> {
        self(namespace)
            .map(|result| match result {
                Ok(client) => Ok(Arc::new(client) as Arc<dyn ReplicaClient>),
                Err(error) => Err(error.into()),
            })
            .boxed()
    }
}
