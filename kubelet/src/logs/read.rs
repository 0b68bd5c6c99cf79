//! Reads a container's log as `kubectl logs` asks for it.

use super::line::{self, Stream};
use bytes::Bytes;
use jiff::Timestamp;
use std::future::Future;
use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncSeekExt as _, BufReader};
use tokio::sync::mpsc::Sender;

/// What to read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Go on when the end is reached, until the container ends.
    pub follow: bool,
    /// Put each line's time before it.
    pub timestamps: bool,
    /// Leave out what is older.
    pub since: Option<Timestamp>,
    /// Only that many lines from the end.
    pub tail: Option<u64>,
    /// Only that many bytes.
    pub limit: Option<u64>,
    /// Only this output.
    pub stream: Option<Stream>,
}

/// Pieces of output are collected up to this size before they are sent.
const CHUNK: usize = 16 << 10;
/// A record longer than this is not one of the runtime's (its own limit is 16 KiB).
const MAX_RECORD: u64 = 1 << 20;
const POLL: Duration = Duration::from_millis(100);

/// Sends the log at `path` until its end, or while `is_running` when following. A receiver that went away ends it without an error.
pub async fn read<F, R>(path: &Path, options: &Options, out: &Sender<Bytes>, is_running: F) -> io::Result<()>
where
    F: Fn() -> R,
    R: Future<Output = bool>,
{
    let mut file = File::open(path).await?;
    if let Some(lines) = options.tail {
        let at = tail_offset(&mut file, lines).await?;
        file.seek(SeekFrom::Start(at)).await?;
    }
    let mut writer = Writer {
        options,
        out,
        chunk: Vec::new(),
        left: options.limit,
        at_line_start: true,
    };
    let mut inode = file.metadata().await?.ino();
    let mut reader = BufReader::new(file);
    let mut record = Vec::new();
    loop {
        let read = (&mut reader).take(MAX_RECORD).read_until(b'\n', &mut record).await?;
        if record.ends_with(b"\n") || record.len() as u64 >= MAX_RECORD {
            if !writer.record(&record).await {
                return Ok(());
            }
            record.clear();
            continue;
        }
        if read > 0 {
            continue;
        }
        if !writer.flush().await || !options.follow {
            return Ok(());
        }
        // Asked before looking for more: what was written before the container ended is then read in the next round.
        let running = is_running().await;
        let more = reader.fill_buf().await?;
        if !more.is_empty() {
            continue;
        }
        // A rotated log has another file under its name; the old one was read to its end.
        if let Ok(next) = File::open(path).await {
            let meta = next.metadata().await?;
            if meta.ino() != inode {
                inode = meta.ino();
                reader = BufReader::new(next);
                continue;
            }
        }
        if !running || out.is_closed() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = out.closed() => return Ok(()),
        }
    }
}

struct Writer<'a> {
    options: &'a Options,
    out: &'a Sender<Bytes>,
    chunk: Vec<u8>,
    left: Option<u64>,
    at_line_start: bool,
}

impl Writer<'_> {
    /// Takes one record; false when no more is wanted.
    async fn record(&mut self, record: &[u8]) -> bool {
        let line = match line::parse(record) {
            Ok(line) => line,
            Err(error) => {
                tracing::debug!(%error, "skipped a log record");
                return true;
            }
        };
        if self.options.since.is_some_and(|since| line.time < since) {
            return true;
        }
        if self.options.stream.is_some_and(|stream| stream != line.stream) {
            return true;
        }
        if self.options.timestamps && self.at_line_start {
            self.chunk.extend_from_slice(line.stamp.as_bytes());
            self.chunk.push(b' ');
        }
        self.chunk.extend_from_slice(line.text);
        if !line.partial {
            self.chunk.push(b'\n');
        }
        self.at_line_start = !line.partial;
        if self.left.is_some_and(|left| self.chunk.len() as u64 >= left) {
            self.flush().await;
            return false;
        }
        self.chunk.len() < CHUNK || self.flush().await
    }

    async fn flush(&mut self) -> bool {
        if let Some(left) = self.left.as_mut() {
            self.chunk.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= self.chunk.len() as u64;
        }
        if self.chunk.is_empty() {
            return !self.out.is_closed();
        }
        self.out
            .send(Bytes::from(std::mem::take(&mut self.chunk)))
            .await
            .is_ok()
    }
}

/// Where the last `lines` lines begin. Records that are parts of a line count as one line each, as upstream counts them.
async fn tail_offset(file: &mut File, lines: u64) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(end);
    }
    const BLOCK: u64 = 16 << 10;
    let mut found = 0;
    let mut right = end;
    let mut block = Vec::new();
    while right > 0 {
        let left = right.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(left)).await?;
        block.clear();
        (&mut *file).take(right - left).read_to_end(&mut block).await?;
        for (index, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let at = left + index as u64 + 1;
            if at == end {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok(at);
            }
        }
        right = left;
    }
    Ok(0)
}

/// The end of a log as text: at most so many lines and bytes. Empty when it cannot be read.
pub async fn tail_text(path: &str, lines: usize, bytes: u64) -> String {
    let (out, mut chunks) = tokio::sync::mpsc::channel(16);
    let options = Options {
        tail: Some(lines as u64),
        ..Default::default()
    };
    let path = path.to_owned();
    let reading = tokio::spawn(async move { read(Path::new(&path), &options, &out, || async { false }).await });
    let mut text = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        text.extend_from_slice(&chunk);
    }
    if let Ok(Err(error)) = reading.await {
        tracing::debug!(%error, "log for a termination message");
    }
    let start = text.len().saturating_sub(bytes as usize);
    String::from_utf8_lossy(text.get(start..).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;
    use std::io::Write as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn log(lines: usize) -> String {
        let mut text = String::new();
        for n in 0..lines {
            let stream = if n % 2 == 0 { "stdout" } else { "stderr" };
            let _ = writeln!(text, "2026-11-20T16:00:{n:02}Z {stream} F line {n}");
        }
        text
    }

    async fn run(text: &str, options: Options) -> anyhow::Result<String> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("0.log");
        std::fs::write(&path, text)?;
        let (out, mut chunks) = tokio::sync::mpsc::channel(100);
        read(&path, &options, &out, || async { false }).await?;
        drop(out);
        let mut all = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            all.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8(all)?)
    }

    #[tokio::test]
    async fn every_option_filters() -> anyhow::Result<()> {
        let text = log(6);
        assert_eq!(
            run(
                &text,
                Options {
                    tail: Some(2),
                    ..Default::default()
                }
            )
            .await?,
            "line 4\nline 5\n"
        );
        assert_eq!(
            run(
                &text,
                Options {
                    tail: Some(0),
                    ..Default::default()
                }
            )
            .await?,
            ""
        );
        assert_eq!(
            run(
                &text,
                Options {
                    tail: Some(99),
                    ..Default::default()
                }
            )
            .await?
            .lines()
            .count(),
            6
        );
        assert_eq!(
            run(
                &text,
                Options {
                    limit: Some(8),
                    ..Default::default()
                }
            )
            .await?,
            "line 0\nl"
        );
        let since = "2026-11-20T16:00:05Z".parse().ok();
        assert_eq!(
            run(
                &text,
                Options {
                    since,
                    ..Default::default()
                }
            )
            .await?,
            "line 5\n"
        );
        let stream = Some(Stream::Stderr);
        assert_eq!(
            run(
                &text,
                Options {
                    stream,
                    ..Default::default()
                }
            )
            .await?,
            "line 1\nline 3\nline 5\n"
        );
        let stamped = run(
            &text,
            Options {
                timestamps: true,
                tail: Some(1),
                ..Default::default()
            },
        )
        .await?;
        assert_eq!(stamped, "2026-11-20T16:00:05Z line 5\n");
        Ok(())
    }

    #[tokio::test]
    async fn parts_become_one_line() -> anyhow::Result<()> {
        let text = "2026-11-20T16:00:00Z stdout P ab\n2026-11-20T16:00:00Z stdout P cd\n2026-11-20T16:00:00Z stdout F ef\nrubbish\n";
        let read = run(
            text,
            Options {
                timestamps: true,
                ..Default::default()
            },
        )
        .await?;
        assert_eq!(read, "2026-11-20T16:00:00Z abcdef\n");
        Ok(())
    }

    #[tokio::test]
    async fn following_crosses_a_rotation() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("0.log");
        std::fs::write(&path, "2026-11-20T16:00:00Z stdout F one\n")?;
        let (out, mut chunks) = tokio::sync::mpsc::channel(100);
        let running = std::sync::Arc::new(AtomicBool::new(true));
        let (flag, followed) = (running.clone(), path.clone());
        let reader = tokio::spawn(async move {
            let options = Options {
                follow: true,
                ..Default::default()
            };
            read(&followed, &options, &out, || async { flag.load(Ordering::SeqCst) }).await
        });
        assert_eq!(chunks.recv().await.as_deref(), Some(b"one\n".as_slice()));
        let mut old = std::fs::OpenOptions::new().append(true).open(&path)?;
        std::fs::rename(&path, folder.path().join("0.log.old"))?;
        old.write_all(b"2026-11-20T16:00:01Z stdout F two\n")?;
        assert_eq!(chunks.recv().await.as_deref(), Some(b"two\n".as_slice()));
        std::fs::write(&path, "2026-11-20T16:00:02Z stdout F three\n")?;
        assert_eq!(chunks.recv().await.as_deref(), Some(b"three\n".as_slice()));
        running.store(false, Ordering::SeqCst);
        assert_eq!(chunks.recv().await, None);
        reader.await??;
        Ok(())
    }
}
