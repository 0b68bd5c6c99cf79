//! Writes a set of files so that a reader sees the old set or the new one, never a mixture: upstream's layout of a timestamped folder, the
//! `..data` link to it, and a link for each name at the top that goes through `..data`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Component, Path, PathBuf};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// One file.
#[derive(Clone, PartialEq, Eq)]
pub struct FileContent {
    /// Its bytes.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner, where it is not root.
    pub owner: Option<u32>,
}

impl std::fmt::Debug for FileContent {
    /// Contents may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, mode {:o}", self.data.len(), self.mode)
    }
}

/// Files by relative path.
pub type Payload = BTreeMap<String, FileContent>;

/// A payload that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A path that would leave the volume or clash with the writer's own names.
    #[error("invalid path {0:?}: must be relative, without \"..\"")]
    Path(String),
    /// The file system refused.
    #[error("{operation} {}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Makes `target` show exactly `payload`. True when something changed. `group` owns the files when it is given.
pub fn write(target: &Path, payload: &Payload, group: Option<u32>) -> Result<bool, WriteError> {
    for path in payload.keys() {
        check(path)?;
    }
    let current = std::fs::read_link(target.join(DATA)).ok();
    if let Some(current) = &current
        && same(&target.join(current), payload)
        && visible_names(target, payload)
    {
        return Ok(false);
    }
    let stamp = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.").to_string() + &suffix();
    let folder = target.join(&stamp);
    fill(&folder, payload, group)?;
    let new_data = target.join(NEW_DATA);
    remove_if_there(&new_data)?;
    symlink(&stamp, &new_data).map_err(failed("link", &new_data))?;
    let data = target.join(DATA);
    std::fs::rename(&new_data, &data).map_err(failed("rename", &data))?;
    link_names(target, payload)?;
    if let Some(old) = current.map(|old| target.join(old)).filter(|old| *old != folder) {
        std::fs::remove_dir_all(&old).map_err(failed("remove", &old))?;
    }
    Ok(true)
}

fn check(path: &str) -> Result<(), WriteError> {
    let all_normal = Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let first = path.split('/').next().unwrap_or_default();
    if path.is_empty() || !all_normal || first.starts_with("..") || path.len() > 4096 {
        return Err(WriteError::Path(path.to_owned()));
    }
    Ok(())
}

fn suffix() -> String {
    format!("{:010}", rand::random::<u32>())
}

fn fill(folder: &Path, payload: &Payload, group: Option<u32>) -> Result<(), WriteError> {
    std::fs::create_dir(folder).map_err(failed("create", folder))?;
    set_mode(folder, 0o755)?;
    for (path, content) in payload {
        let file = folder.join(path);
        if let Some(parent) = file.parent().filter(|parent| *parent != folder) {
            std::fs::create_dir_all(parent).map_err(failed("create", parent))?;
            set_mode(parent, 0o755)?;
        }
        std::fs::write(&file, &content.data).map_err(failed("write", &file))?;
        let mode = if group.is_some() {
            content.mode | (content.mode & 0o600) >> 3
        } else {
            content.mode
        };
        set_mode(&file, mode)?;
        if group.is_some() || content.owner.is_some() {
            chown(&file, content.owner, group).map_err(failed("change owner of", &file))?;
            set_mode(&file, mode)?;
        }
    }
    Ok(())
}

/// Whether `folder` holds the payload already.
fn same(folder: &Path, payload: &Payload) -> bool {
    let mut files = BTreeSet::new();
    if list(folder, Path::new(""), &mut files).is_err() || !files.iter().eq(payload.keys()) {
        return false;
    }
    payload
        .iter()
        .all(|(path, content)| std::fs::read(folder.join(path)).is_ok_and(|data| data == content.data))
}

fn list(folder: &Path, prefix: &Path, files: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = prefix.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &path, files)?;
        } else {
            files.insert(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

fn top_names(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().filter_map(|path| path.split('/').next()).collect()
}

fn visible_names(target: &Path, payload: &Payload) -> bool {
    top_names(payload)
        .into_iter()
        .all(|name| std::fs::symlink_metadata(target.join(name)).is_ok())
}

/// Makes the links that are missing and removes those whose file is gone.
fn link_names(target: &Path, payload: &Payload) -> Result<(), WriteError> {
    let wanted = top_names(payload);
    for name in &wanted {
        let link = target.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link).map_err(failed("link", &link))?;
        }
    }
    for entry in std::fs::read_dir(target).map_err(failed("list", target))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if ours && !name.starts_with("..") && !wanted.contains(name.as_str()) {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), WriteError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(source)),
        _ => Ok(()),
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), WriteError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed("change mode of", path))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WriteError {
    let path = path.to_path_buf();
    move |source| WriteError::Io {
        operation,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let content = |text: &str| FileContent {
            data: text.into(),
            mode: 0o640,
            owner: None,
        };
        files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), content(text)))
            .collect()
    }

    fn read(target: &Path, path: &str) -> Option<String> {
        std::fs::read_to_string(target.join(path)).ok()
    }

    #[test]
    fn the_set_is_replaced_as_a_whole() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let target = folder.path();
        assert!(write(target, &payload(&[("a", "1"), ("sub/b", "2")]), None)?);
        assert_eq!(
            (read(target, "a"), read(target, "sub/b")),
            (Some("1".into()), Some("2".into()))
        );
        let first = std::fs::read_link(target.join(DATA))?;
        assert!(!write(target, &payload(&[("a", "1"), ("sub/b", "2")]), None)?);
        assert!(write(target, &payload(&[("a", "3"), ("c", "4")]), None)?);
        assert_eq!(
            (read(target, "a"), read(target, "c")),
            (Some("3".into()), Some("4".into()))
        );
        assert!(std::fs::symlink_metadata(target.join("sub")).is_err());
        assert!(!target.join(first).exists());
        assert_eq!(std::fs::metadata(target.join("a"))?.permissions().mode() & 0o777, 0o640);
        assert!(std::fs::symlink_metadata(target.join("a"))?.is_symlink());
        assert!(write(target, &payload(&[]), None)?);
        assert_eq!(read(target, "a"), None);
        Ok(())
    }

    #[test]
    fn paths_cannot_leave_the_volume() {
        for path in ["", "/etc/passwd", "../x", "a/../b", "..data", "..x"] {
            assert!(check(path).is_err(), "{path}");
        }
        for path in ["a", "a/b", "a..b", ".hidden"] {
            assert!(check(path).is_ok(), "{path}");
        }
    }
}
