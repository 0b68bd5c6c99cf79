//! Reading and writing of key material: whole files, replaced in one step, never readable by others.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Certificate, Error};

/// Writes `contents` to `path` so that a reader sees the old file or the new one, only its owner can read it, and it survives a
/// power cut. Missing folders are made, for their owner only.
pub fn write_private(path: &Path, contents: &[u8]) -> Result<(), Error> {
    write(path, contents).map_err(|source| Error::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

/// Like [`write_private`], unless the file holds just that already.
pub(super) fn update_private(path: &Path, contents: &[u8]) -> Result<(), Error> {
    if fs::read(path).is_ok_and(|present| present == contents) {
        return Ok(());
    }
    write_private(path, contents)
}

fn write(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    if !folder.exists() {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    }
    // A temporary file is created with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(contents)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    fs::File::open(folder)?.sync_all()
}

/// The text of `path`, or nothing when it does not exist.
pub(super) fn read_optional(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// The text of `path`.
pub(super) fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

/// The paths in a folder.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let io = |source| Error::Io {
        action: "read",
        path: dir.to_owned(),
        source,
    };
    fs::read_dir(dir)
        .map_err(io)?
        .map(|entry| Ok(entry.map_err(io)?.path()))
        .collect()
}

/// The private key in `path`.
pub(super) fn read_key(path: &Path) -> Result<rcgen::KeyPair, Error> {
    let malformed = |_| Error::Malformed {
        path: path.to_owned(),
        expected: "a private key in PKCS #8 PEM form",
    };
    rcgen::KeyPair::from_pem(&read(path)?).map_err(malformed)
}

/// Whether the private key in `path` belongs to `certificate`; a file that holds no key does not.
pub(super) fn holds_key_of(path: &Path, certificate: &Certificate) -> Result<bool, Error> {
    match read_key(path) {
        Ok(key) => Ok(key.public_key_raw() == certificate.public_key),
        Err(Error::Malformed { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}
