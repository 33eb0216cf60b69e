//! The ledger, wired: opened where the options say, kept within its bounds while serving, and used from the command line
//! (`ulm log`). Knows no statement and no route.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use candle_core::Device;
use indicatif::ProgressBar;
use serde_json::json;

use crate::config::{LogCommand, Retention, Storage, storage_variables};
use crate::domain::id::{BlobId, CallId, SampleId};
use crate::domain::record::{Asked, Opinion, Record};
use crate::domain::sample::Output;
use crate::domain::task::Part;
use crate::engine::command::{Event, Lane, Submission, Work};
use crate::engine::{Engine, EngineOptions, Halt};
use crate::picture::decode::{self, MAX_PIXELS};
use crate::serve;
use crate::store::{Blobs, CallFilter, Kept, Ledger, LedgerError, Order, Purged, Target, Task};

/// Requests read at once when all are.
const PAGE: u32 = 200;
/// Time between looks at what is too old or too much.
const SWEEP: Duration = Duration::from_secs(3600);

/// Opens the ledger.
///
/// # Errors
/// When a folder, the database or the file storage cannot be used; the message says which.
pub async fn open(storage: &Storage) -> anyhow::Result<Ledger> {
    std::fs::create_dir_all(&storage.data)
        .with_context(|| format!("the data folder {} cannot be made", storage.data.display()))?;
    let blobs = match storage.blobs.as_deref() {
        Some(url) if url.starts_with("s3://") => Blobs::s3(url, storage_variables())?,
        Some(folder) => Blobs::folder(Path::new(folder))?,
        None => Blobs::folder(&storage.data.join("blobs"))?,
    };
    Ok(match &storage.database_url {
        Some(url) => Ledger::postgres(url, blobs).await.context("the database of `--database-url`")?,
        None => Ledger::sqlite(&storage.data.join("ledger.sqlite"), blobs).await.context("the ledger")?,
    })
}

/// Keeps the ledger within its bounds, for as long as it is polled.
pub async fn retain(ledger: Ledger, bounds: Retention) {
    loop {
        match ledger.expire_files(crate::api::now_ms()).await {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "the time of uploaded files is over"),
            Err(error) => tracing::warn!(%error, "uploaded files whose time is over are still there"),
        }
        for (why, purged) in sweep(&ledger, &bounds).await {
            match purged {
                Ok(Purged { calls: 0, .. }) => {}
                Ok(purged) => tracing::info!(why, ?purged, "forgotten"),
                Err(error) => tracing::warn!(why, %error, "what should be forgotten is still there"),
            }
        }
        tokio::time::sleep(SWEEP).await;
    }
}

async fn sweep(ledger: &Ledger, bounds: &Retention) -> Vec<(&'static str, Result<Purged, LedgerError>)> {
    let mut done = Vec::new();
    if let Some(days) = bounds.retain_days {
        done.push(("age", ledger.purge_before(crate::api::now_ms() - i64::from(days) * 86_400_000).await));
    }
    if let Some(mib) = bounds.retain_mib {
        done.push(("size", ledger.purge_to(u64::from(mib) << 20).await));
    }
    done
}

/// `ulm log`
///
/// # Errors
/// When the ledger cannot be used, or what was asked for is not there.
pub async fn run(command: &LogCommand) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match command {
        LogCommand::Stats { storage } => {
            let stats = open(storage).await?.stats().await?;
            writeln!(out, "{}", serde_json::to_string_pretty(&stats)?)?;
        }
        LogCommand::Purge { storage, user, bounds } => {
            let ledger = open(storage).await?;
            if user.is_none() && bounds.retain_days.is_none() && bounds.retain_mib.is_none() {
                bail!("say what to forget: `--user`, `--retain-days` or `--retain-mib`");
            }
            let mut all = Vec::new();
            if let Some(user) = user {
                all.push(("user", ledger.purge_person(user).await));
            }
            all.extend(sweep(&ledger, bounds).await);
            for (why, purged) in all {
                writeln!(out, "{}", json!({ why: purged? }))?;
            }
        }
        LogCommand::Export { storage, out: folder } => {
            let ledger = open(storage).await?;
            let (samples, files) = export(&ledger, folder).await?;
            writeln!(out, "{samples} samples and {files} pictures are in {}", folder.display())?;
        }
        LogCommand::Replay { storage, id, model } => {
            let ledger = open(storage).await?;
            let report = replay(&ledger, id, model.as_deref()).await?;
            let (same, of) = (report.iter().filter(|line| line.same).count(), report.len());
            for line in &report {
                writeln!(out, "{} {}", line.id, if line.same { "the same tokens" } else { "OTHER TOKENS" })?;
            }
            writeln!(out, "{same} of {of} samples are drawn again token by token")?;
            if same < of {
                bail!("{} samples came out otherwise", of - same);
            }
        }
    }
    Ok(())
}

/// Every kept request, in order, shown to `each`.
async fn every(
    ledger: &Ledger,
    task: Task,
    mut each: impl AsyncFnMut(Kept) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut after: Option<CallId> = None;
    loop {
        let filter = CallFilter {
            task,
            model: None,
            metadata: std::collections::BTreeMap::new(),
            order: Order::Oldest,
            after,
            limit: PAGE,
        };
        let (page, more) = ledger.calls(&filter).await?;
        after = page.last().map(|kept| kept.call.id);
        for kept in page {
            each(kept).await?;
        }
        if !more {
            return Ok(());
        }
    }
}

/// Writes `data.jsonl`, a line a sample, and the pictures it names.
async fn export(ledger: &Ledger, folder: &Path) -> anyhow::Result<(u64, u64)> {
    let pictures = folder.join("pictures");
    std::fs::create_dir_all(&pictures).with_context(|| format!("{} cannot be made", pictures.display()))?;
    let mut file = std::io::BufWriter::new(std::fs::File::create(folder.join("data.jsonl"))?);
    let bar = ProgressBar::new(ledger.stats().await?.samples);
    let (mut samples, mut files) = (0, 0);
    for task in [Task::Images, Task::Chat] {
        every(ledger, task, async |kept| {
            for record in &kept.records {
                let line = line(ledger, &pictures, &kept, record, &mut files).await?;
                writeln!(file, "{line}")?;
                samples += 1;
                bar.inc(1);
            }
            Ok(())
        })
        .await?;
    }
    file.flush()?;
    bar.finish_and_clear();
    Ok((samples, files))
}

async fn line(
    ledger: &Ledger,
    pictures: &Path,
    kept: &Kept,
    record: &Record,
    files: &mut u64,
) -> anyhow::Result<serde_json::Value> {
    let call = &kept.call;
    let mut shown = Vec::new();
    let (prompt, messages) = match &call.asked {
        Asked::Draw(draw) => (Some(draw.prompt.clone()), vec![]),
        Asked::Answer(answer) => {
            let mut messages = vec![];
            for turn in &answer.turns {
                let mut text = String::new();
                for part in &turn.parts {
                    match part {
                        Part::Text(part) => text += part,
                        Part::Picture(blob) => shown.push(write_picture(ledger, pictures, blob, files).await?),
                    }
                }
                messages.push(json!({"role": turn.role.word(), "content": text}));
            }
            (None, messages)
        }
    };
    let (answer, picture) = match &record.sample.output {
        Output::Text(text) => (Some(text.clone()), None),
        Output::Picture(blob) => (None, Some(write_picture(ledger, pictures, blob, files).await?)),
    };
    let said = ledger.feedback_on(Target::Sample(record.id)).await?.unwrap_or_default();
    let feedback: Vec<_> = said
        .into_iter()
        .map(|feedback| {
            let (kind, value) = match feedback.opinion {
                Opinion::Rating { value, .. } => ("rating", json!(value)),
                Opinion::Thumb(up) => ("thumb", json!(if up { "up" } else { "down" })),
                Opinion::Preferred { over } if feedback.sample == record.id => {
                    ("preferred_over", json!(over.iter().map(ToString::to_string).collect::<Vec<_>>()))
                }
                Opinion::Preferred { .. } => ("passed_over_for", json!(feedback.sample.to_string())),
                Opinion::CorrectAnswer(text) => ("correction", json!(text)),
                Opinion::CorrectPicture(blob) => ("correction_image", json!(blob.to_string())),
                Opinion::Comment(text) => ("comment", json!(text)),
            };
            json!({"kind": kind, "value": value.to_string(), "rater": feedback.rater})
        })
        .collect();
    Ok(json!({
        "id": record.id.to_string(),
        "request": call.id.to_string(),
        "created_ms": call.created_ms,
        "model": call.model,
        "version": record.sample.version.0,
        "prompt": prompt,
        "messages": messages,
        "images": shown,
        "answer": answer,
        "image": picture,
        "seed": record.sampling.seed,
        "temperature": record.sampling.temperature,
        "top_p": record.sampling.top_p,
        "guidance": record.sampling.guidance,
        "tokens": record.sample.tokens,
        "log_probs": record.sample.log_probs,
        "conditional_log_probs": record.sample.conditional_log_probs,
        "finished_ms": record.sample.timings.finished.as_millis(),
        "feedback": feedback,
    }))
}

/// Writes a picture once and says where, from the export's folder.
async fn write_picture(ledger: &Ledger, pictures: &Path, blob: &BlobId, files: &mut u64) -> anyhow::Result<String> {
    let bytes = ledger.blobs().get(blob).await?;
    let ending = image::guess_format(&bytes).ok().and_then(|format| format.extensions_str().first()).unwrap_or(&"bin");
    let name = format!("{blob}.{ending}");
    let path: PathBuf = pictures.join(&name);
    if !path.exists() {
        std::fs::write(&path, bytes).with_context(|| format!("{} cannot be written", path.display()))?;
        *files += 1;
    }
    Ok(format!("pictures/{name}"))
}

/// A sample that was drawn again.
struct Replayed {
    id: SampleId,
    same: bool,
}

/// Draws the samples of a request (or one sample, or with `all` every one) again and compares tokens.
async fn replay(ledger: &Ledger, id: &str, model: Option<&Path>) -> anyhow::Result<Vec<Replayed>> {
    let mut work: Vec<(Kept, Option<SampleId>)> = Vec::new();
    if id == "all" {
        for task in [Task::Images, Task::Chat] {
            every(ledger, task, async |kept| {
                work.push((kept, None));
                Ok(())
            })
            .await?;
        }
    } else if let Ok(sample) = id.parse::<SampleId>() {
        work.extend(ledger.call_of(sample).await?.map(|kept| (kept, Some(sample))));
    } else if let Ok(call) = id.parse::<CallId>() {
        work.extend(ledger.call(call).await?.map(|kept| (kept, None)));
    }
    if work.is_empty() {
        bail!("there is no request or sample `{id}` in this ledger");
    }
    let model = Arc::new(match model {
        Some(folder) => serve::model(Some(folder))?.1,
        None => crate::demo::load(&Device::Cpu).context("the demo model cannot be loaded")?,
    });
    let engine = Engine::spawn(model.clone(), EngineOptions::default())?;
    let bar = ProgressBar::new(work.len() as u64);
    let mut report = Vec::new();
    for (kept, only) in work {
        if kept.call.version != *model.version() {
            bail!(
                "{} was answered by version {}, this model is {}; name the folder of that version with `--model`",
                kept.call.id,
                kept.call.version.0,
                model.version().0
            );
        }
        let prompt = match kept.call.asked {
            Asked::Draw(draw) => Work::Draw(model.prompter().draw(&draw)?),
            Asked::Answer(answer) => {
                let mut pictures = std::collections::BTreeMap::new();
                for part in answer.turns.iter().flat_map(|turn| &turn.parts) {
                    if let Part::Picture(blob) = part {
                        let file = ledger.blobs().get(blob).await?;
                        pictures.insert(blob.clone(), Arc::new(decode::picture(&file, MAX_PIXELS)?));
                    }
                }
                let answer = answer.try_map(|blob| pictures.get(&blob).cloned().context("a picture is missing"))?;
                Work::Answer(model.prompter().answer(&answer)?)
            }
        };
        let records: Vec<Record> =
            kept.records.into_iter().filter(|record| only.is_none_or(|only| only == record.id)).collect();
        let samplings = records.iter().map(|record| record.sampling.clone()).collect();
        let mut events = engine.submit(Submission { work: prompt, samplings, lane: Lane::Interactive })?;
        while let Some(event) = events.next().await {
            match event {
                Event::Finished { index, sample } => {
                    let record = records.get(index).context("a sample too many")?;
                    report.push(Replayed { id: record.id, same: record.sample.tokens == sample.tokens });
                }
                Event::Failed(error) => bail!("{}: {error}", kept.call.id),
                Event::Done => break,
                Event::Token { .. } => {}
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    engine.halt(Halt::Now);
    Ok(report)
}
