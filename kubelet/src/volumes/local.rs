//! Volumes that are folders of the node: emptyDir, hostPath, and persistent volumes of these kinds.

use super::VolumeError;
use nix::mount::{MsFlags, mount};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::path::Path;

/// Makes an emptyDir: open to all, on disk or, with a size, in memory.
pub(super) fn empty_dir(path: &Path, memory_bytes: Option<i64>) -> Result<(), VolumeError> {
    create_dir(path, 0o777)?;
    if let Some(bytes) = memory_bytes {
        tmpfs(path, Some(bytes), 0o777)?;
    }
    Ok(())
}

/// Mounts a tmpfs once.
pub(super) fn tmpfs(path: &Path, size: Option<i64>, mode: u32) -> Result<(), VolumeError> {
    if is_mount_point(path)? {
        return Ok(());
    }
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size {
        options.push_str(&format!(",size={size}"));
    }
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .map_err(|errno| failed("mount tmpfs on", path)(errno.into()))
}

/// Whether something is mounted exactly at `path`.
pub(super) fn is_mount_point(path: &Path) -> Result<bool, VolumeError> {
    let table =
        std::fs::read_to_string("/proc/self/mountinfo").map_err(failed("read", Path::new("/proc/self/mountinfo")))?;
    Ok(mount_points(&table).any(|point| Path::new(&point) == path))
}

/// The mount points of a `mountinfo` table, in mount order.
pub(super) fn mount_points(table: &str) -> impl Iterator<Item = String> {
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|text| text.replace("\\040", " ").replace("\\011", "\t"))
}

/// Checks or makes the path of a hostPath volume.
pub(super) fn host_path(path: &Path, kind: &str) -> Result<(), VolumeError> {
    match kind {
        "DirectoryOrCreate" if !path.exists() => return create_dir(path, 0o755),
        "FileOrCreate" if !path.exists() => {
            std::fs::write(path, b"").map_err(failed("create", path))?;
            return set_mode(path, 0o644);
        }
        _ => {}
    }
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        // The runtime makes a folder of a path that is missing.
        Err(error) if kind.is_empty() && error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(wrong(path, kind)),
        Err(error) => return Err(failed("look at", path)(error)),
    };
    let file_type = meta.file_type();
    let fits = match kind {
        "" => true,
        "Directory" | "DirectoryOrCreate" => file_type.is_dir(),
        "File" | "FileOrCreate" => file_type.is_file(),
        "Socket" => file_type.is_socket(),
        "CharDevice" => file_type.is_char_device(),
        "BlockDevice" => file_type.is_block_device(),
        other => return Err(VolumeError::HostPath(format!("{other} is an invalid volume type"))),
    };
    if fits { Ok(()) } else { Err(wrong(path, kind)) }
}

fn wrong(path: &Path, kind: &str) -> VolumeError {
    let what = match kind {
        "Directory" | "DirectoryOrCreate" => "directory",
        "File" | "FileOrCreate" => "file",
        "Socket" => "socket file",
        "CharDevice" => "character device",
        _ => "block device",
    };
    VolumeError::HostPath(format!("{} is not a {what}", path.display()))
}

/// Gives a volume to a group: everything in it, and what is made in it later.
pub(super) fn give_to_group(path: &Path, group: u32, read_only: bool) -> Result<(), VolumeError> {
    let meta = std::fs::symlink_metadata(path).map_err(failed("look at", path))?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    chown(path, None, Some(group)).map_err(failed("change group of", path))?;
    let rights = if read_only { 0o440 } else { 0o660 };
    let directory = if meta.is_dir() { 0o2110 } else { 0 };
    set_mode(path, meta.permissions().mode() & 0o7777 | rights | directory)?;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).map_err(failed("list", path))? {
            give_to_group(&entry.map_err(failed("list", path))?.path(), group, read_only)?;
        }
    }
    Ok(())
}

/// Makes a folder with exactly these permissions, whatever the umask.
pub(super) fn create_dir(path: &Path, mode: u32) -> Result<(), VolumeError> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(failed("create", path))?;
    set_mode(path, mode)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), VolumeError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed("change mode of", path))
}

/// Wraps an error of the file system.
pub(super) fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_path_buf();
    move |source| VolumeError::Io {
        operation,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_path_types_are_checked() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("f");
        let sub = folder.path().join("d/e");
        assert!(host_path(&file, "").is_ok());
        assert!(host_path(&file, "File").is_err());
        host_path(&file, "FileOrCreate")?;
        host_path(&file, "File")?;
        host_path(&sub, "DirectoryOrCreate")?;
        host_path(&sub, "Directory")?;
        let message = host_path(&sub, "File").err().map(|error| error.to_string());
        assert_eq!(
            message,
            Some(format!("hostPath type check failed: {} is not a file", sub.display()))
        );
        Ok(())
    }

    #[test]
    fn a_group_gets_everything_in_a_volume() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("f"), "x")?;
        std::fs::set_permissions(folder.path().join("f"), std::fs::Permissions::from_mode(0o600))?;
        // Only root may give files away; the mode is what matters otherwise.
        let own = nix::unistd::getgid().as_raw();
        give_to_group(folder.path(), own, false)?;
        assert_eq!(
            std::fs::metadata(folder.path().join("f"))?.permissions().mode() & 0o7777,
            0o660
        );
        assert_eq!(std::fs::metadata(folder.path())?.permissions().mode() & 0o2070, 0o2070);
        Ok(())
    }
}
