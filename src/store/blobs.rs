//! Files by content: pictures, later weights, in a folder or in S3-compatible storage. A file's name is its digest, so
//! writing twice is writing once and what is read can be checked. Who needs a file is the ledger's to know.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload, path};
use sha2::{Digest as _, Sha256};

use super::LedgerError;
use crate::domain::id::BlobId;

/// Where files are kept.
#[derive(Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// Files that are written but not yet held by a row, with how often: they must not be swept.
    fresh: Arc<Mutex<HashMap<BlobId, usize>>>,
}

/// A file that is kept at least as long as this lives; made before the row that holds it.
pub struct Fresh {
    id: BlobId,
    bytes: usize,
    fresh: Arc<Mutex<HashMap<BlobId, usize>>>,
}

impl Fresh {
    #[must_use]
    pub fn id(&self) -> &BlobId {
        &self.id
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = fresh.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                fresh.remove(&self.id);
            }
        }
    }
}

impl Blobs {
    /// A folder, which is made; written files reach the disk before they are named.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn folder(folder: &Path) -> Result<Self, LedgerError> {
        std::fs::create_dir_all(folder)
            .map_err(|e| LedgerError::Open(format!("the folder {} cannot be made: {e}", folder.display())))?;
        let store = LocalFileSystem::new_with_prefix(folder).map_err(|e| LedgerError::Open(e.to_string()))?;
        Ok(Self::over(Arc::new(store.with_fsync(true))))
    }

    /// `s3://BUCKET/PREFIX`; region, endpoint and keys come from the usual variables, `variables` of the environment.
    ///
    /// # Errors
    /// When the address or a variable makes no sense.
    pub fn s3(url: &str, variables: impl Iterator<Item = (String, String)>) -> Result<Self, LedgerError> {
        let bad = |e: object_store::Error| LedgerError::Open(format!("{url}: {e}"));
        let prefix = url.strip_prefix("s3://").and_then(|rest| rest.split_once('/')).map_or("", |(_, prefix)| prefix);
        let mut builder = AmazonS3Builder::new().with_url(url);
        for (name, value) in variables {
            if let Ok(key) = name.to_ascii_lowercase().parse() {
                builder = builder.with_config(key, value);
            }
        }
        let store = object_store::prefix::PrefixStore::new(builder.build().map_err(bad)?, prefix);
        Ok(Self::over(Arc::new(store)))
    }

    fn over(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, fresh: Arc::default() }
    }

    /// Writes a file; when this returns it is durable, and stays while the returned value lives.
    ///
    /// # Errors
    /// When the storage fails or is full.
    pub async fn put(&self, bytes: Vec<u8>) -> Result<Fresh, LedgerError> {
        let id = digest(&bytes)?;
        let fresh = Fresh { id: id.clone(), bytes: bytes.len(), fresh: Arc::clone(&self.fresh) };
        *self.fresh.lock().unwrap_or_else(PoisonError::into_inner).entry(id.clone()).or_default() += 1;
        // Written even where it is already: a sweep may be deleting it.
        self.store.put(&place(&id), PutPayload::from(bytes)).await.map_err(|e| unavailable(&e))?;
        Ok(fresh)
    }

    /// Reads a file and checks it.
    ///
    /// # Errors
    /// When it is not there, is not what it was, or the storage fails.
    pub async fn get(&self, id: &BlobId) -> Result<Vec<u8>, LedgerError> {
        let read = async { self.store.get(&place(id)).await?.bytes().await };
        let bytes = match read.await {
            Ok(bytes) => bytes,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(LedgerError::Corrupt(format!("file {id} is missing")));
            }
            Err(e) => return Err(unavailable(&e)),
        };
        if digest(&bytes)? == *id {
            Ok(bytes.into())
        } else {
            Err(LedgerError::Corrupt(format!("file {id} is damaged")))
        }
    }

    /// Deletes files that no row holds, unless they are being written just now.
    pub async fn sweep(&self, ids: &[BlobId]) {
        for id in ids {
            if self.fresh.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id) {
                continue;
            }
            match self.store.delete(&place(id)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => tracing::warn!(%id, %error, "a file that nobody needs could not be deleted"),
            }
        }
    }
}

/// Two levels, so that no folder holds too many files.
fn place(id: &BlobId) -> path::Path {
    let name = id.as_str();
    path::Path::from(format!("{}/{name}", name.get(..2).unwrap_or("00")))
}

/// What a file with these bytes is called.
///
/// # Errors
/// Never.
pub fn digest(bytes: &[u8]) -> Result<BlobId, LedgerError> {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    hex.parse().map_err(|_| LedgerError::Corrupt("a digest is no id".into()))
}

fn unavailable(error: &object_store::Error) -> LedgerError {
    LedgerError::Unavailable(format!("the file storage: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_are_kept_by_content_checked_and_swept() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::folder(&dir.path().join("blobs")).unwrap();
        let first = blobs.put(b"star".to_vec()).await.unwrap();
        let again = blobs.put(b"star".to_vec()).await.unwrap();
        let id = first.id().clone();
        assert_eq!((first.id(), first.bytes()), (again.id(), 4));
        assert_eq!(blobs.get(&id).await.unwrap(), b"star");
        drop(first);
        blobs.sweep(std::slice::from_ref(&id)).await;
        assert_eq!(blobs.get(&id).await.unwrap(), b"star", "still being written");
        std::fs::write(dir.path().join("blobs").join(place(&id).as_ref()), b"moon").unwrap();
        assert!(blobs.get(&id).await.unwrap_err().to_string().contains("damaged"));
        drop(again);
        blobs.sweep(std::slice::from_ref(&id)).await;
        assert!(blobs.get(&id).await.unwrap_err().to_string().contains("missing"));
        blobs.sweep(&[id]).await;
    }
}
