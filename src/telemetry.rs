//! Where log lines go: standard error, as text or as JSON, through a filter.
//! Standard output stays free for what a command prints.
//! Knows nothing of what the lines say.

use std::io::IsTerminal as _;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::{Log, LogFormat};

/// Sends log lines to standard error from here on.
///
/// # Errors
/// When the filter is no filter, or logging is set up already.
pub fn start(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.filter).with_context(|| format!("`{}` is no log filter", log.filter))?;
    let colours = std::io::stderr().is_terminal();
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(|cause| anyhow::anyhow!("logging cannot start: {cause}"))
}
