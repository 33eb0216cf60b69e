//! Where a checkpoint is that was asked for: a folder here, or a name on the hub, which is fetched with a bar to watch. Knows nothing of
//! what is in it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::Fetch;
use crate::hub::{Hub, HubName, Watcher};

/// A checkpoint on this disk.
pub struct Place {
    pub folder: PathBuf,
    /// What it is called, where it has a name.
    pub name: Option<String>,
}

/// The checkpoint in a folder, or, where `asked` is none and could be a name on the hub, the one that has it. `pickle` allows weights in
/// PyTorch's `.bin`.
///
/// # Errors
/// When the hub does not give it. A folder that is not there is left for whoever opens it to name.
pub fn place(asked: &Path, pickle: bool) -> anyhow::Result<Place> {
    let name = asked.to_str().and_then(|asked| asked.parse::<HubName>().ok());
    match name.filter(|_| !asked.exists()) {
        Some(name) => {
            let no_folder = || format!("{} is no folder here, and does not come from the hub", asked.display());
            let folder = fetch(&name, pickle).with_context(no_folder)?;
            Ok(Place { folder, name: Some(name.name) })
        }
        None => {
            let name = asked.canonicalize().ok();
            let name = name.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
            Ok(Place { folder: asked.to_owned(), name })
        }
    }
}

/// `ulm model fetch`
///
/// # Errors
/// When the hub does not give it.
pub fn run(options: &Fetch) -> anyhow::Result<()> {
    let folder = fetch(&options.name, options.pickle.allow_pickle)?;
    writeln!(std::io::stdout(), "{}", folder.display())?;
    Ok(())
}

/// Waits for it on a thread of its own, because whoever asks may be one that must not wait.
fn fetch(name: &HubName, pickle: bool) -> anyhow::Result<PathBuf> {
    let wait = || -> anyhow::Result<PathBuf> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        #[expect(clippy::disallowed_methods, reason = "all clients of the hub are set by the same variables")]
        let hub = Hub::new(|name| std::env::var(name).ok());
        Ok(runtime.block_on(hub.checkpoint(name, pickle, &Bar::new()))?)
    };
    std::thread::scope(|scope| scope.spawn(wait).join()).map_err(|_| anyhow!("fetching {name} came to an end"))?
}

/// Shows the file that comes.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let bar = ProgressBar::hidden();
        Self(ProgressStyle::with_template(style).map_or(bar.clone(), |style| bar.with_style(style)))
    }
}

impl Watcher for Bar {
    fn begins(&self, file: &str, size: u64, have: u64) {
        self.0.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        self.0.reset();
        self.0.set_length(size);
        self.0.set_message(file.to_owned());
        // What was there already says nothing of how fast the rest will come.
        self.0.set_position(have);
        self.0.reset_eta();
    }

    fn moves(&self, have: u64) {
        self.0.set_position(have);
    }

    fn ends(&self) {
        self.0.finish_and_clear();
    }
}
