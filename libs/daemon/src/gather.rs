//! Gathers what a connection writes in one turn.
//!
//! HTTP/2 writes every data frame by itself, and TLS makes a record and a system call of every write. A connection with many streams, as a
//! component with its watches has, would pay for each event what all the events of a moment cost together. So writes go into a buffer, and the
//! buffer to the socket after each turn of the connection; and a connection lets the streams that are ready have their say before its turn.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Writes wait for the socket when this much is gathered, bytes.
const LIMIT: usize = 64 << 10;
/// A buffer that has grown beyond this is given back when it is empty, bytes.
const KEPT: usize = 4 << 10;

/// A stream whose flush does nothing: what is written leaves with [`Turns::poll`], or when there is too much of it. Clones are the same stream.
pub(crate) struct Gathered<S>(Arc<Mutex<Inner<S>>>);

struct Inner<S> {
    stream: S,
    buffer: Vec<u8>,
    /// How much of the buffer has left.
    sent: usize,
}

impl<S> Clone for Gathered<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            stream,
            buffer: Vec::new(),
            sent: 0,
        })))
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    /// Everything gathered goes to the socket.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.buffer.len() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.buffer[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        self.sent = 0;
        self.buffer.clear();
        self.buffer.shrink_to(KEPT);
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Ready when something more may be gathered.
    fn make_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.len() < LIMIT {
            return Poll::Ready(Ok(()));
        }
        self.drain(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        ready!(inner.make_room(cx))?;
        inner.buffer.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        ready!(inner.make_room(cx))?;
        bufs.iter().for_each(|buf| inner.buffer.extend_from_slice(buf));
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.drain(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

/// Gives a connection over a [`Gathered`] stream its turns.
pub(crate) struct Turns<S> {
    stream: Gathered<S>,
    waited: bool,
}

impl<S: AsyncWrite + Unpin> Turns<S> {
    pub(crate) fn new(stream: Gathered<S>) -> Self {
        Self { stream, waited: false }
    }

    /// Polls the connection, once whatever else is ready has run, and sends what it wrote.
    pub(crate) fn poll<C: Future>(&mut self, connection: Pin<&mut C>, cx: &mut Context<'_>) -> Poll<C::Output> {
        self.waited = !self.waited;
        if self.waited {
            // The scheduler puts a task that wakes itself behind those that wait.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let outcome = connection.poll(cx);
        // An error shows at the connection's next read or write, and a full socket wakes this task when it is not.
        let _ = self.stream.0.lock().drain(cx);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn everything_leaves_after_the_turn() {
        let (client, server) = tokio::io::duplex(1 << 10);
        let stream = Gathered::new(server);
        let mut writer = stream.clone();
        let sent: Vec<u8> = (0..300_000u32).map(|number| number as u8).collect();
        let bytes = sent.clone();
        let write = async move {
            for part in bytes.chunks(700) {
                writer.write_all(part).await?;
                writer.flush().await?;
            }
            writer.shutdown().await
        };
        let mut client = client;
        let read = tokio::spawn(async move {
            let mut received = Vec::new();
            client.read_to_end(&mut received).await.map(|_| received)
        });
        let mut write = std::pin::pin!(write);
        let mut turns = Turns::new(stream);
        poll_fn(|cx| turns.poll(write.as_mut(), cx)).await.expect("write");
        drop(turns);
        assert_eq!(read.await.expect("the reader").expect("read"), sent);
    }

    #[tokio::test]
    async fn a_turn_gathers_small_writes() {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let stream = Gathered::new(server);
        let mut writer = stream.clone();
        let write = async move {
            writer.write_all(b"one").await?;
            writer.flush().await?;
            writer.write_all(b"two").await?;
            std::future::pending::<io::Result<()>>().await
        };
        let mut write = std::pin::pin!(write);
        let mut turns = Turns::new(stream);
        let mut text = [0; 6];
        tokio::select! {
            _ = poll_fn(|cx| turns.poll(write.as_mut(), cx)) => {}
            read = client.read_exact(&mut text) => assert_eq!(read.expect("read"), 6),
        }
        assert_eq!(&text, b"onetwo");
    }
}
