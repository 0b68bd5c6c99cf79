//! The audit log file: a JSON object a line, rotated by size and age. Owns the file and its backups.
//!
//! Lines are written before the request goes on, as upstream's `blocking` mode does, so that nothing is lost when the process ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use parking_lot::Mutex;

/// Where the log goes and when it is rotated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// A file, or `-` for standard output.
    pub path: PathBuf,
    /// Days that backups are kept; 0 = for ever.
    pub max_age: u64,
    /// Backups that are kept; 0 = all.
    pub max_backups: usize,
    /// Mebibytes of a file at which it is rotated; 0 = 100.
    pub max_size: u64,
}

impl LogConfig {
    fn limit(&self) -> u64 {
        let mebibytes = if self.max_size == 0 { 100 } else { self.max_size };
        mebibytes.saturating_mul(1 << 20)
    }
}

/// The open log.
pub struct Log {
    config: LogConfig,
    open: Mutex<Open>,
}

enum Open {
    Stdout,
    File { file: File, size: u64 },
}

impl Log {
    /// Opens the file to append to it, making it and its folder if they are missing.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(config: LogConfig) -> io::Result<Log> {
        let open = if config.path.as_os_str() == "-" {
            Open::Stdout
        } else {
            if let Some(dir) = config.path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            let file = append(&config.path)?;
            let size = file.metadata()?.len();
            Open::File { file, size }
        };
        Ok(Log {
            config,
            open: Mutex::new(open),
        })
    }

    /// Writes one line, which ends with a line feed.
    ///
    /// # Errors
    /// What the system says; the line is lost.
    pub fn write(&self, line: &[u8]) -> io::Result<()> {
        let mut open = self.open.lock();
        let Open::File { file, size } = &mut *open else {
            return io::stdout().lock().write_all(line);
        };
        if *size > 0 && *size + line.len() as u64 > self.config.limit() {
            *file = rotate(&self.config)?;
            *size = 0;
        }
        file.write_all(line)?;
        *size += line.len() as u64;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// `audit.log` becomes `audit-2026-01-02T03-04-05.678.log`, and backups too many or too old go.
fn rotate(config: &LogConfig) -> io::Result<File> {
    let stamp = Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S%.3f").to_string();
    let (stem, extension) = parts(&config.path);
    std::fs::rename(
        &config.path,
        config.path.with_file_name(format!("{stem}-{stamp}{extension}")),
    )?;
    let mut backups = backups(&config.path)?;
    backups.sort();
    let surplus = match config.max_backups {
        0 => 0,
        keep => backups.len().saturating_sub(keep),
    };
    let oldest = match config.max_age {
        0 => None,
        days => SystemTime::now().checked_sub(Duration::from_secs(days.saturating_mul(86_400))),
    };
    for (i, path) in backups.iter().enumerate() {
        let modified = std::fs::metadata(path)?.modified()?;
        if i < surplus || oldest.is_some_and(|oldest| modified < oldest) {
            std::fs::remove_file(path)?;
        }
    }
    append(&config.path)
}

fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned());
    let extension = text(path.extension()).map(|e| format!(".{e}")).unwrap_or_default();
    (text(path.file_stem()).unwrap_or_default(), extension)
}

fn backups(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (stem, extension) = parts(path);
    let dir = path
        .parent()
        .filter(|d| !d.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let stamp = name
            .strip_prefix(&format!("{stem}-"))
            .and_then(|rest| rest.strip_suffix(&extension));
        if stamp.is_some_and(|s| s.starts_with(|c: char| c.is_ascii_digit())) {
            out.push(entry.path());
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_becomes_a_backup_and_few_are_kept() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("logs").join("audit.log");
        let config = LogConfig {
            path: path.clone(),
            max_backups: 2,
            max_size: 1,
            ..LogConfig::default()
        };
        let log = Log::open(config.clone())?;
        let line = vec![b'x'; 700 << 10];
        for _ in 0..5 {
            log.write(&line)?;
            // Backups are named by the millisecond.
            let before = Timestamp::now().as_millisecond();
            while Timestamp::now().as_millisecond() == before {}
        }
        assert_eq!(backups(&path)?.len(), 2);
        assert_eq!(std::fs::metadata(&path)?.len(), 700 << 10);
        drop(log);
        Log::open(config)?.write(b"more\n")?;
        assert_eq!(std::fs::metadata(&path)?.len(), (700 << 10) + 5, "it is appended to");
        Ok(())
    }
}
