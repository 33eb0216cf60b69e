//! The hub's protocol of files: the list of a revision with sizes and hashes, and downloads that go on where they were cut. Knows the
//! cache's folders and no file's meaning.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RANGE};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::cache::Cache;
use super::name::{HubName, is_hex, is_plain};
use super::{Hub, HubError, Watcher};

/// Most bytes of a list of files.
const LONGEST_LIST: usize = 16 << 20;
/// Times that a download may break off without one byte more.
const TRIES: u32 = 5;
/// How long a hub may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// A file that the hub lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub path: String,
    pub size: u64,
    pub hash: Hash,
}

/// The content's hash: of large files their SHA-256, of others git's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Large(String),
    Git(String),
}

impl Hash {
    fn text(&self) -> &str {
        match self {
            Self::Large(text) | Self::Git(text) => text,
        }
    }

    /// Reads a file to the end and says what its hash is, in the same kind.
    fn of(&self, path: &Path, size: u64) -> std::io::Result<String> {
        fn all<D: sha2::Digest>(mut digest: D, path: &Path) -> std::io::Result<String> {
            let (mut file, mut chunk) = (File::open(path)?, vec![0; 1 << 20]);
            loop {
                match file.read(&mut chunk)? {
                    0 => return Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
                    n => digest.update(chunk.get(..n).unwrap_or_default()),
                }
            }
        }
        match self {
            Self::Large(_) => all(Sha256::new(), path),
            Self::Git(_) => all(Sha1::new_with_prefix(format!("blob {size}\0")), path),
        }
    }
}

/// The files of a revision.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listing {
    pub commit: String,
    pub files: BTreeMap<String, Entry>,
}

/// As `/api/models/OWNER/NAME/revision/REVISION?blobs=true` has it.
#[derive(Deserialize)]
struct Listed {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    blob_id: Option<String>,
    size: Option<u64>,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    sha256: String,
    size: u64,
}

impl Listing {
    /// What cannot be a file of a checkpoint is left out: paths that lead elsewhere, hashes that are none.
    fn read(text: &[u8]) -> Result<Self, String> {
        let listed: Listed = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if !is_hex(&listed.sha, 40) {
            return Err("its commit is no hash".into());
        }
        let entry = |sibling: Sibling| {
            let (hash, size) = match (sibling.lfs, sibling.blob_id) {
                (Some(large), _) if is_hex(&large.sha256, 64) => (Hash::Large(large.sha256), large.size),
                (None, Some(git)) if is_hex(&git, 40) => (Hash::Git(git), sibling.size?),
                _ => return None,
            };
            let path = sibling.rfilename;
            path.split('/').all(is_plain).then_some((path.clone(), Entry { path, size, hash }))
        };
        Ok(Self { commit: listed.sha, files: listed.siblings.into_iter().filter_map(entry).collect() })
    }
}

/// Asks a hub about one model.
pub(super) struct Client<'a> {
    hub: &'a Hub,
    name: &'a HubName,
    http: reqwest::Client,
}

impl<'a> Client<'a> {
    pub(super) fn new(hub: &'a Hub, name: &'a HubName) -> Result<Self, HubError> {
        let mut headers = HeaderMap::new();
        // One that cannot be in a header is none that a hub gave out.
        let bearer = hub.token.as_ref().and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        if let Some(mut bearer) = bearer {
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("ulm/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(SILENCE / 2)
            .read_timeout(SILENCE)
            .build()
            .map_err(|source| HubError::Unreachable { endpoint: hub.endpoint.clone(), source })?;
        Ok(Self { hub, name, http })
    }

    fn unreachable(&self) -> impl FnOnce(reqwest::Error) -> HubError {
        let endpoint = self.hub.endpoint.clone();
        move |source| HubError::Unreachable { endpoint, source: source.without_url() }
    }

    fn refused(&self, status: StatusCode, what: &str) -> HubError {
        let name = self.name.to_string();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                HubError::Denied { name, page: format!("{}/{}/{}", self.hub.endpoint, self.name.owner, self.name.name) }
            }
            StatusCode::NOT_FOUND => HubError::NotFound { name },
            _ => HubError::Status { status: status.as_u16(), what: what.to_owned() },
        }
    }

    /// What the revision holds.
    pub(super) async fn listing(&self) -> Result<Listing, HubError> {
        let HubName { owner, name, revision } = self.name;
        let revision = revision.replace('/', "%2F");
        let url = format!("{}/api/models/{owner}/{name}/revision/{revision}?blobs=true", self.hub.endpoint);
        let response = self.http.get(url).send().await.map_err(self.unreachable())?;
        if !response.status().is_success() {
            return Err(self.refused(response.status(), "the list of files"));
        }
        let list = |why: String| HubError::List { name: self.name.to_string(), why };
        let mut text = Vec::new();
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            text.extend_from_slice(&chunk.map_err(self.unreachable())?);
            if text.len() > LONGEST_LIST {
                return Err(list(format!("it is longer than {LONGEST_LIST} bytes")));
            }
        }
        Listing::read(&text).map_err(list)
    }

    /// The file of a commit, fetched where it is not there yet.
    pub(super) async fn fetch(
        &self,
        cache: &Cache,
        commit: &str,
        entry: &Entry,
        watcher: &dyn Watcher,
    ) -> Result<PathBuf, HubError> {
        let hash = entry.hash.text();
        let blob = cache.blob(hash);
        let is_there = || fs::metadata(&blob).is_ok_and(|meta| meta.len() == entry.size);
        if let Some(path) = cache.linked(commit, &entry.path).filter(|_| is_there()) {
            return Ok(path);
        }
        let growing = cache.growing(hash)?;
        // Two that link the same file would be in each other's way as well.
        let _lock = cache.lock(hash)?;
        // Another may have fetched it while we waited.
        if !is_there() {
            self.grow(commit, entry, &growing, watcher).await?;
            self.check(entry, &growing)?;
            fs::rename(&growing, &blob).map_err(HubError::disk(&blob))?;
        }
        cache.link(commit, &entry.path, hash)
    }

    /// Appends to `growing` until it has the size that the hub lists.
    async fn grow(&self, commit: &str, entry: &Entry, growing: &Path, watcher: &dyn Watcher) -> Result<(), HubError> {
        let mut file = File::options().create(true).append(true).open(growing).map_err(HubError::disk(growing))?;
        let mut have = file.metadata().map_err(HubError::disk(growing))?.len();
        if have > entry.size {
            file.set_len(0).map_err(HubError::disk(growing))?;
            have = 0;
        }
        watcher.begins(&entry.path, entry.size, have);
        let mut tries = 0;
        while have < entry.size {
            let before = have;
            let broke = match self.ask(commit, entry, have).await {
                Ok(response) => {
                    if response.status() != StatusCode::PARTIAL_CONTENT && have > 0 {
                        // It sends all of it again.
                        file.set_len(0).map_err(HubError::disk(growing))?;
                        have = 0;
                    }
                    self.take(response, entry, &mut file, &mut have, watcher).await.map_err(HubError::disk(growing))?
                }
                Err(HubError::Unreachable { source, .. }) => Some(source),
                // The end of its file comes before ours.
                Err(HubError::Status { status: 416, .. }) => None,
                Err(HubError::Status { status, .. }) if status >= 500 || status == 429 => None,
                Err(error) => return Err(error),
            };
            if have >= entry.size {
                break;
            }
            tries = if have > before { 0 } else { tries + 1 };
            if tries >= TRIES {
                let (what, size) = (entry.path.clone(), entry.size);
                return Err(HubError::BrokeOff { what, at: have, size, tries, source: broke });
            }
            tracing::debug!(file = entry.path, have, size = entry.size, "a download broke off");
            tokio::time::sleep(self.hub.patience * 2_u32.pow(tries.saturating_sub(1))).await;
        }
        file.sync_all().map_err(HubError::disk(growing))?;
        watcher.ends();
        Ok(())
    }

    /// Asks for a file from byte `from` on.
    async fn ask(&self, commit: &str, entry: &Entry, from: u64) -> Result<Response, HubError> {
        let HubName { owner, name, .. } = self.name;
        let url = format!("{}/{owner}/{name}/resolve/{commit}/{}", self.hub.endpoint, entry.path);
        let mut request = self.http.get(url);
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let response = request.send().await.map_err(self.unreachable())?;
        let status = response.status();
        if status.is_success() { Ok(response) } else { Err(self.refused(status, &entry.path)) }
    }

    /// Writes what comes, not beyond the listed size; what broke it off, if anything did.
    async fn take(
        &self,
        response: Response,
        entry: &Entry,
        file: &mut File,
        have: &mut u64,
        watcher: &dyn Watcher,
    ) -> std::io::Result<Option<reqwest::Error>> {
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => return Ok(Some(error.without_url())),
            };
            let room = usize::try_from(entry.size - *have).unwrap_or(usize::MAX);
            let chunk = chunk.get(..room.min(chunk.len())).unwrap_or_default();
            file.write_all(chunk)?;
            *have += chunk.len() as u64;
            watcher.moves(*have);
            if *have >= entry.size {
                break;
            }
        }
        Ok(None)
    }

    /// Whether what came is what the hub lists; deletes it if not.
    fn check(&self, entry: &Entry, growing: &Path) -> Result<(), HubError> {
        let found = entry.hash.of(growing, entry.size).map_err(HubError::disk(growing))?;
        if found == entry.hash.text() {
            return Ok(());
        }
        fs::remove_file(growing).map_err(HubError::disk(growing))?;
        Err(HubError::WrongHash { what: entry.path.clone(), found, listed: entry.hash.text().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_with_sizes_and_hashes() {
        let (commit, git, large) = ("0a".repeat(20), "1b".repeat(20), "2c".repeat(32));
        let text = format!(
            r#"{{"sha": "{commit}", "siblings": [
                {{"rfilename": "config.json", "blobId": "{git}", "size": 12}},
                {{"rfilename": "model.safetensors", "blobId": "{git}", "size": 99, "lfs": {{"sha256": "{large}", "size": 99, "pointerSize": 9}}}},
                {{"rfilename": "../../x", "blobId": "{git}", "size": 1}},
                {{"rfilename": "a//b", "blobId": "{git}", "size": 1}},
                {{"rfilename": "/etc/passwd", "blobId": "{git}", "size": 1}},
                {{"rfilename": "evil", "blobId": "../x", "size": 1}},
                {{"rfilename": "unsized", "blobId": "{git}"}}]}}"#
        );
        let listing = Listing::read(text.as_bytes()).unwrap();
        assert_eq!(listing.files.keys().collect::<Vec<_>>(), ["config.json", "model.safetensors"]);
        assert_eq!(listing.files["config.json"].hash, Hash::Git(git));
        assert_eq!(listing.files["model.safetensors"].hash, Hash::Large(large));
        assert!(Listing::read(br#"{"sha": "main"}"#).is_err() && Listing::read(b"[").is_err());
    }

    #[test]
    fn hashes_as_git_and_sha256sum_print_them() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "hello\n").unwrap();
        assert_eq!(Hash::Git(String::new()).of(file.path(), 6).unwrap(), "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(
            Hash::Large(String::new()).of(file.path(), 6).unwrap(),
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        );
    }
}
