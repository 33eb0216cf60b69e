//! The cache folder of the hub's clients: `blobs` by their hash, `snapshots` of commits that link to them, `refs` from branches to
//! commits. Knows no network.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::HubError;
use super::name::{HubName, is_hex};

/// One model's part of it.
pub(super) struct Cache {
    root: PathBuf,
    locks: PathBuf,
}

impl Cache {
    pub(super) fn new(cache: &Path, name: &HubName) -> Self {
        let folder = format!("models--{}--{}", name.owner, name.name);
        Self { root: cache.join(&folder), locks: cache.join(".locks").join(folder) }
    }

    /// The folder of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The folder of the commit that a name means, as far as is known here.
    pub(super) fn revision(&self, name: &HubName) -> Option<PathBuf> {
        if name.is_commit() {
            return Some(self.snapshot(&name.revision));
        }
        let commit = fs::read_to_string(self.root.join("refs").join(&name.revision)).ok()?;
        is_hex(commit.trim(), 40).then(|| self.snapshot(commit.trim()))
    }

    /// Notes which commit a branch means.
    pub(super) fn point(&self, name: &HubName, commit: &str) -> Result<(), HubError> {
        if name.is_commit() {
            return Ok(());
        }
        let path = self.root.join("refs").join(&name.revision);
        if fs::read_to_string(&path).is_ok_and(|known| known == commit) {
            return Ok(());
        }
        parent(&path)?;
        fs::write(&path, commit).map_err(HubError::disk(&path))
    }

    /// Where the file with this hash is kept.
    pub(super) fn blob(&self, hash: &str) -> PathBuf {
        self.root.join("blobs").join(hash)
    }

    /// Where it grows; each hash has one, so that what was cut goes on.
    pub(super) fn growing(&self, hash: &str) -> Result<PathBuf, HubError> {
        let path = self.root.join("blobs").join(format!("{hash}.incomplete"));
        parent(&path)?;
        Ok(path)
    }

    /// Waits until nobody else fetches it; whoever holds the file has the lock.
    pub(super) fn lock(&self, hash: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{hash}.lock"));
        parent(&path)?;
        let file = File::options().create(true).append(true).open(&path).map_err(HubError::disk(&path))?;
        file.lock().map_err(HubError::disk(&path))?;
        Ok(file)
    }

    /// Where `file` of a commit is, if it is there.
    pub(super) fn linked(&self, commit: &str, file: &str) -> Option<PathBuf> {
        Some(self.snapshot(commit).join(file)).filter(|path| path.exists())
    }

    /// Shows the blob as `file` of a commit. Whoever calls has the lock of its hash.
    pub(super) fn link(&self, commit: &str, file: &str, hash: &str) -> Result<PathBuf, HubError> {
        if let Some(path) = self.linked(commit, file) {
            return Ok(path);
        }
        let path = self.snapshot(commit).join(file);
        parent(&path)?;
        let up = "../".repeat(2 + file.matches('/').count());
        // A link to what is gone is in the way.
        let _ = fs::remove_file(&path);
        match symlink(Path::new(&format!("{up}blobs/{hash}")), &self.blob(hash), &path) {
            // Other clients of the cache link without the lock.
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(HubError::disk(&path)(error)),
            _ => Ok(path),
        }
    }
}

fn parent(path: &Path) -> Result<(), HubError> {
    path.parent().map_or(Ok(()), |folder| fs::create_dir_all(folder).map_err(HubError::disk(folder)))
}

#[cfg(unix)]
fn symlink(relative: &Path, _: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(relative, path)
}

/// Where links need rights, the file itself has two names.
#[cfg(not(unix))]
fn symlink(_: &Path, blob: &Path, path: &Path) -> std::io::Result<()> {
    fs::hard_link(blob, path)
}
