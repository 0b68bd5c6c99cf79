//! What a layer of the stack is: an async function of the server's state, the request and the rest of the stack.

use std::sync::Arc;
use std::task::{Context, Poll};

use api::Error;
use futures_util::future::BoxFuture;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service};

use super::State;
use super::body::{Request, Response};

/// The rest of the stack.
pub type Next = BoxCloneSyncService<Request, Response, Error>;

/// A tower layer from a function.
#[derive(Clone)]
pub struct Middleware<F> {
    state: Arc<State>,
    function: F,
}

/// Makes a layer from a function.
pub fn layer<F, R>(state: &Arc<State>, function: F) -> Middleware<F>
where
    F: Fn(Arc<State>, Request, Next) -> R,
{
    Middleware {
        state: state.clone(),
        function,
    }
}

impl<F, S> Layer<S> for Middleware<F>
where
    F: Clone,
    S: Service<Request, Response = Response, Error = Error> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    type Service = Wrapped<F>;

    fn layer(&self, inner: S) -> Wrapped<F> {
        Wrapped {
            state: self.state.clone(),
            function: self.function.clone(),
            inner: Next::new(inner),
        }
    }
}

/// A service behind a [`Middleware`].
#[derive(Clone)]
pub struct Wrapped<F> {
    state: Arc<State>,
    function: F,
    inner: Next,
}

impl<F, R> Service<Request> for Wrapped<F>
where
    F: Fn(Arc<State>, Request, Next) -> R,
    R: Future<Output = Result<Response, Error>> + Send + 'static,
{
    type Response = Response;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Every service of the stack is always ready; load is shed by refusing requests, not by holding them.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        Box::pin((self.function)(self.state.clone(), request, self.inner.clone()))
    }
}
