//! `subPath`: a part of a volume, found without ever following a link out of the volume, and bound to a place of its own so that it stays what it
//! was when it was checked.

use super::VolumeError;
use super::local::{create_dir, failed, is_mount_point};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, mkdirat};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Binds `volume/sub` to `place` and returns the place. A missing `sub` becomes a folder.
pub(super) fn bind(volume: &Path, sub: &str, place: PathBuf) -> Result<PathBuf, VolumeError> {
    if is_mount_point(&place)? {
        return Ok(place);
    }
    let found = open_beneath(volume, sub)?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let is_dir = std::fs::metadata(&source).map_err(failed("look at", &source))?.is_dir();
    if is_dir {
        create_dir(&place, 0o750)?;
    } else {
        if let Some(parent) = place.parent() {
            create_dir(parent, 0o750)?;
        }
        std::fs::write(&place, b"").map_err(failed("create", &place))?;
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(&source), &place, None::<&str>, flags, None::<&str>)
        .map_err(|errno| failed("bind sub path to", &place)(errno.into()))?;
    Ok(place)
}

fn open_beneath(volume: &Path, sub: &str) -> Result<OwnedFd, VolumeError> {
    let relative = Path::new(sub);
    if !relative
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err(VolumeError::SubPath(sub.to_owned()));
    }
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(volume, flags | OFlag::O_DIRECTORY, Mode::empty())
        .map_err(|errno| failed("open", volume)(errno.into()))?;
    let how = || {
        OpenHow::new()
            .flags(flags)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS)
    };
    match openat2(root.as_fd(), relative, how()) {
        Ok(found) => return Ok(found),
        Err(nix::errno::Errno::ENOENT) => {}
        Err(nix::errno::Errno::EXDEV | nix::errno::Errno::ELOOP) => return Err(VolumeError::SubPath(sub.to_owned())),
        Err(errno) => return Err(failed("open", &volume.join(relative))(errno.into())),
    }
    let mut walked = PathBuf::new();
    let mut current = root.try_clone().map_err(failed("open", volume))?;
    for part in relative.components() {
        let Component::Normal(name) = part else { continue };
        walked.push(name);
        let wrap = |errno: nix::errno::Errno| failed("create", &volume.join(&walked))(errno.into());
        match mkdirat(current.as_fd(), Path::new(name), Mode::from_bits_truncate(0o750)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(errno) => return Err(wrap(errno)),
        }
        current = openat2(root.as_fd(), &walked, how()).map_err(wrap)?;
    }
    Ok(current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_path_cannot_leave_its_volume() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let volume = folder.path().join("v");
        std::fs::create_dir(&volume)?;
        std::os::unix::fs::symlink("/etc", volume.join("out"))?;
        std::os::unix::fs::symlink("in", volume.join("alias"))?;
        assert!(open_beneath(&volume, "../x").is_err());
        assert!(open_beneath(&volume, "/etc").is_err());
        assert!(open_beneath(&volume, "out/passwd").is_err());
        open_beneath(&volume, "in/deep")?;
        assert!(volume.join("in/deep").is_dir());
        open_beneath(&volume, "alias/deep")?;
        Ok(())
    }
}
