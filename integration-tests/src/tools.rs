//! Programs of others that the tests use, each fetched from its registry once and kept in a folder of the build.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of fetched programs.
pub struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// Tools below a folder, `CARGO_TARGET_TMPDIR` of the test.
    pub fn new(folder: &str) -> Self {
        Self {
            folder: Path::new(folder).join("tools"),
        }
    }

    /// The folder into which a Debian package is unpacked, without being installed.
    ///
    /// # Panics
    /// When the package cannot be had.
    pub fn debian(&self, package: &str) -> PathBuf {
        let fetch =
            format!("apt-get download -q {package} || {{ apt-get update -q && apt-get download -q {package}; }}");
        self.fetch(package, &format!("{fetch}; dpkg-deb -x {package}_*.deb ."))
    }

    /// The interpreter of a Python environment with packages as pip names them.
    ///
    /// # Panics
    /// When they cannot be had.
    pub fn python(&self, packages: &str) -> PathBuf {
        let name = format!("python-{}", packages.replace(['=', ' '], "-"));
        let install = format!("python3 -m venv env && env/bin/pip -q --disable-pip-version-check install {packages}");
        self.fetch(&name, &install).join("env/bin/python")
    }

    /// A folder whose `node_modules` hold packages as npm names them.
    ///
    /// # Panics
    /// When they cannot be had.
    pub fn javascript(&self, packages: &str) -> PathBuf {
        let name = format!("javascript-{}", packages.replace(['/', '@', ' '], "-"));
        let install = format!("echo '{{}}' > package.json && npm install --silent --no-audit --no-fund {packages}");
        self.fetch(&name, &install)
    }

    /// Runs a script in a new folder, which gets its name when the script has succeeded.
    fn fetch(&self, name: &str, script: &str) -> PathBuf {
        let folder = self.folder.join(name);
        if folder.join("complete").exists() {
            return folder;
        }
        // What a test that was ended has left.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("make a folder");
        let run = Command::new("sh").args(["-ec", script]).current_dir(&folder).output();
        let run = run.expect("run sh");
        assert!(
            run.status.success(),
            "{script}: {}{}",
            String::from_utf8_lossy(&run.stdout),
            String::from_utf8_lossy(&run.stderr)
        );
        std::fs::write(folder.join("complete"), "").expect("write a file");
        folder
    }
}
