//! Checkpoints by name from a Hugging Face hub, in the cache folder that its other clients use too. Every file is checked against the
//! hash that the hub lists, and a download that was cut goes on. Knows no tensor.

mod cache;
mod client;
mod name;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use self::cache::Cache;
use self::client::{Client, Entry, Listing};
pub use self::name::{HubName, NameError};

/// What a checkpoint cannot do without.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
/// What it may have.
const WANTED: [&str; 4] =
    ["tokenizer_config.json", "processor_config.json", "preprocessor_config.json", "generation_config.json"];
/// Weights in one file.
const SAFETENSORS: &str = "model.safetensors";
/// Weights as PyTorch pickles them.
const PICKLE: &str = "pytorch_model.bin";
/// What the list of several files is called behind the name of one.
const INDEX: &str = ".index.json";

/// Most bytes of what is not weights.
const LARGEST_READ: u64 = 64 << 20;

/// Why a checkpoint does not come.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error("{endpoint} cannot be reached")]
    Unreachable { endpoint: String, source: reqwest::Error },
    #[error("{name} is private, gated or not there; with access to it, set HF_TOKEN (its page: {page})")]
    Denied { name: String, page: String },
    #[error("{name} is not on the hub, or has no such revision")]
    NotFound { name: String },
    #[error("the hub answered {status} for {what}")]
    Status { status: u16, what: String },
    #[error(
        "{what} broke off at byte {at} of {size}, {tries} times without one byte more; run it again to go on from there"
    )]
    BrokeOff { what: String, at: u64, size: u64, tries: u32, source: Option<reqwest::Error> },
    #[error("{what} is damaged: its hash is {found}, the hub lists {listed}; what came of it is deleted")]
    WrongHash { what: String, found: String, listed: String },
    #[error("the hub's list of {name} cannot be used: {why}")]
    List { name: String, why: String },
    #[error("{name} has no {file}, so it is no checkpoint that is understood")]
    Missing { name: String, file: &'static str },
    #[error("{name} has its weights in PyTorch's {PICKLE} alone; --allow-pickle opens them (nothing in them is run)")]
    PickleOnly { name: String },
    #[error("{name} is not in the cache {}, and HF_HUB_OFFLINE forbids to ask the hub", cache.display())]
    Offline { name: String, cache: PathBuf },
    #[error("{}", path.display())]
    Disk { path: PathBuf, source: io::Error },
}

impl HubError {
    fn disk(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Disk { path: path.to_owned(), source }
    }
}

/// Who is told how a download goes.
pub trait Watcher: Sync {
    /// A file of `size` bytes, of which `have` are there already.
    fn begins(&self, file: &str, size: u64, have: u64);
    /// So many bytes more; fewer where some had to be thrown away.
    fn moves(&self, have: u64);
    fn ends(&self);
}

/// A hub, and the folder where its files are kept.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Where it is, without a slash at the end.
    pub endpoint: String,
    pub token: Option<String>,
    /// The folder that holds `models--OWNER--NAME`.
    pub cache: PathBuf,
    /// Never to ask the hub.
    pub offline: bool,
    /// How long to wait before trying again what broke off, at first; twice as long each time after.
    pub patience: Duration,
}

impl Hub {
    /// As the variables say that all its clients know: `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HOME`, `HF_HUB_CACHE`,
    /// `HF_HUB_OFFLINE`, `XDG_CACHE_HOME`. `variable` is the environment.
    #[must_use]
    pub fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = set("HF_HOME").map_or_else(
            || {
                let caches = set("XDG_CACHE_HOME").map(PathBuf::from);
                let caches = caches.or_else(|| Some(std::env::home_dir()?.join(".cache")));
                caches.unwrap_or_else(|| PathBuf::from(".cache")).join("huggingface")
            },
            PathBuf::from,
        );
        let token = || {
            let file = set("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
            Some(std::fs::read_to_string(file).ok()?.trim().to_owned()).filter(|token| !token.is_empty())
        };
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: set("HF_TOKEN").or_else(token),
            cache: set("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            offline: set("HF_HUB_OFFLINE").is_some_and(|value| !matches!(value.as_str(), "0" | "false" | "no")),
            patience: Duration::from_millis(500),
        }
    }

    /// The folder of a checkpoint, every file of it that is needed there: from the cache where it has the revision asked for, else from the
    /// hub. A branch is looked up each time; where the hub cannot be reached, the revision that the branch had last is taken, and the log
    /// says so. `pickle` allows weights in PyTorch's `.bin`.
    ///
    /// # Errors
    /// When it cannot be had; the message says what to do.
    pub async fn checkpoint(&self, name: &HubName, pickle: bool, watcher: &dyn Watcher) -> Result<PathBuf, HubError> {
        let cache = Cache::new(&self.cache, name);
        let kept = || cache.revision(name).filter(|folder| whole(folder, pickle));
        if name.is_commit() || self.offline {
            match kept() {
                Some(folder) => return Ok(folder),
                None if self.offline => {
                    return Err(HubError::Offline { name: name.to_string(), cache: self.cache.clone() });
                }
                None => {}
            }
        }
        let client = Client::new(self, name)?;
        let listing = match client.listing().await {
            Ok(listing) => listing,
            Err(error @ HubError::Unreachable { .. }) => {
                let Some(folder) = kept() else { return Err(error) };
                tracing::warn!(folder = %folder.display(), "{error}; the revision that was fetched last is taken");
                return Ok(folder);
            }
            Err(error) => return Err(error),
        };
        let fetch = async |file: &str| match listing.files.get(file) {
            Some(entry) => client.fetch(&cache, &listing.commit, entry, watcher).await.map(Some),
            None => Ok(None),
        };
        // They are read whole.
        let read = |file: &&str| NEEDED.contains(file) || WANTED.contains(file) || file.ends_with(INDEX);
        let large = |entry: &&Entry| read(&entry.path.as_str()) && entry.size > LARGEST_READ;
        if let Some(Entry { path, size, .. }) = listing.files.values().find(large) {
            return Err(HubError::List { name: name.to_string(), why: format!("{path} has {size} bytes") });
        }
        for file in NEEDED {
            fetch(file).await?.ok_or_else(|| HubError::Missing { name: name.to_string(), file })?;
        }
        for file in WANTED {
            fetch(file).await?;
        }
        let file = weights(&listing, name, pickle)?;
        let index = fetch(&file).await?.filter(|_| file.ends_with(INDEX));
        for shard in index.map_or(Ok(vec![]), |index| shards(&index, name))? {
            let missing = || HubError::List { name: name.to_string(), why: format!("it has no {shard}") };
            fetch(&shard).await?.ok_or_else(missing)?;
        }
        cache.point(name, &listing.commit)?;
        Ok(cache.snapshot(&listing.commit))
    }
}

/// The file of the weights, or the list of several.
fn weights(listing: &Listing, name: &HubName, pickle: bool) -> Result<String, HubError> {
    let has = |file: &str| listing.files.contains_key(file);
    let of = |file: &str| [file.to_owned(), format!("{file}{INDEX}")].into_iter().find(|file| has(file));
    match (of(SAFETENSORS), of(PICKLE)) {
        (Some(file), _) => Ok(file),
        (None, Some(file)) if pickle => Ok(file),
        (None, Some(_)) => Err(HubError::PickleOnly { name: name.to_string() }),
        (None, None) => Err(HubError::Missing { name: name.to_string(), file: SAFETENSORS }),
    }
}

/// The files that an index names, each once.
fn shards(index: &Path, name: &HubName) -> Result<Vec<String>, HubError> {
    let unusable = |why: String| HubError::List { name: name.to_string(), why };
    let text = std::fs::read(index).map_err(HubError::disk(index))?;
    let index: Value = serde_json::from_slice(&text).map_err(|e| unusable(format!("its index of weights: {e}")))?;
    let map = index["weight_map"].as_object();
    let map = map.ok_or_else(|| unusable("its index of weights has no weight_map".into()))?;
    let mut shards: Vec<String> = map.values().filter_map(Value::as_str).map(str::to_owned).collect();
    shards.sort_unstable();
    shards.dedup();
    Ok(shards)
}

/// Whether a folder has all files of a checkpoint.
fn whole(folder: &Path, pickle: bool) -> bool {
    let has = |file: &str| folder.join(file).exists();
    let weights = |file: &str| {
        let index = folder.join(format!("{file}{INDEX}"));
        let named = || {
            let index: Value = serde_json::from_slice(&std::fs::read(&index).ok()?).ok()?;
            Some(index["weight_map"].as_object()?.values().all(|file| file.as_str().is_some_and(has)))
        };
        has(file) || named().unwrap_or(false)
    };
    NEEDED.into_iter().all(has) && (weights(SAFETENSORS) || (pickle && weights(PICKLE)))
}
