//! The floor rule: a file reaches into its own folder and into lower floors only, and nothing but `api` knows HTTP.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders and files of `src` with their floor. Those of one floor do not know each other, except on the top floor.
const FLOORS: [(&str, u8); 32] = [
    ("domain", 0),
    ("hub", 1),
    ("model", 1),
    ("store", 1),
    ("world", 1),
    ("critic", 2),
    ("kept", 2),
    ("engine", 2),
    ("picture", 2),
    ("trial", 2),
    ("reward", 3),
    ("api", 4),
    ("follow", 4),
    ("train", 4),
    ("watch", 4),
    ("bench", TOP),
    ("bench_against", TOP),
    ("bench_ledger", TOP),
    ("bench_ops", TOP),
    ("bench_train", TOP),
    ("commands", TOP),
    ("config", TOP),
    ("demo", TOP),
    ("fetch", TOP),
    ("learn", TOP),
    ("log", TOP),
    ("models", TOP),
    ("telemetry", TOP),
    ("serve", TOP),
    ("teach", TOP),
    ("lib", TOP),
    ("main", TOP),
];
const TOP: u8 = 5;

/// What only some floors may know, with the folders that do.
const PRIVATE: [(&str, &[&str]); 9] = [
    ("actix_web", &["api", "serve", "main"]),
    ("utoipa", &["api"]),
    ("reqwest", &["hub"]),
    ("sqlx", &["store"]),
    ("object_store", &["store"]),
    ("parquet", &["train"]),
    (
        "anyhow",
        &[
            "bench",
            "bench_against",
            "bench_ledger",
            "bench_ops",
            "bench_train",
            "commands",
            "config",
            "fetch",
            "learn",
            "log",
            "models",
            "telemetry",
            "serve",
            "teach",
            "lib",
            "main",
        ],
    ),
    ("clap", &["config", "main"]),
    (
        "candle_core",
        &[
            "model",
            "critic",
            "engine",
            "train",
            "bench_ops",
            "bench_train",
            "commands",
            "demo",
            "log",
            "models",
            "serve",
            "teach",
            "main",
        ],
    ),
];

fn floor(wing: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == wing).map(|(_, floor)| *floor)
}

fn sources(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The wing of a file: the first part of its path below `src`.
fn wing(src: &Path, file: &Path) -> String {
    let first = file.strip_prefix(src).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The wings that `code` names after `crate::` (or `ulm::`), alone or in braces, in imports and in paths; comments do not count.
fn named(code: &str) -> Vec<String> {
    let code: String = code.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect();
    let mut wings = Vec::new();
    for root in ["crate::", "ulm::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let rest = &code[at + root.len()..];
            match rest.strip_prefix('{') {
                Some(list) => wings.extend(heads(list)),
                None => wings.push(head(rest)),
            }
        }
    }
    wings
}

fn head(path: &str) -> String {
    path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first names of a list in braces.
fn heads(list: &str) -> Vec<String> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.push(head(&list[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(head(&list[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// Why `from` may not reach into `to`, if it may not.
fn wrong(from: &str, to: &str) -> Option<String> {
    let (Some(here), Some(there)) = (floor(from), floor(to)) else { return Some("has no floor".to_owned()) };
    let fine = from == to || there < here || (here == TOP && there == TOP);
    (!fine).then(|| format!("floor {here} reaches into floor {there}"))
}

#[test]
fn imports_go_down_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 20, "the sources are here");
    let mut edges = Vec::new();
    for file in &files {
        let code = fs::read_to_string(file).unwrap();
        let from = wing(&src, file);
        for to in named(&code) {
            if let Some(why) = wrong(&from, &to) {
                edges.push(format!("{} -> {to}: {why}", file.display()));
            }
        }
        for (library, wings) in PRIVATE {
            if code.contains(&format!("{library}::")) && !wings.contains(&from.as_str()) {
                edges.push(format!("{} knows {library}; only {} may", file.display(), wings.join(", ")));
            }
        }
    }
    assert!(edges.is_empty(), "{}", edges.join("\n"));
}

#[test]
fn statuses_are_known_to_one_file() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    // A client hears statuses, it gives none.
    for file in files.iter().filter(|file| !file.ends_with("api/error.rs") && !file.ends_with("hub/client.rs")) {
        let code = fs::read_to_string(file).unwrap();
        assert!(!code.contains("StatusCode"), "{} names a status", file.display());
    }
}

#[test]
fn every_file_says_what_it_is_and_is_short() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for file in files {
        let code = fs::read_to_string(&file).unwrap();
        assert!(code.starts_with("//! "), "{} has no header", file.display());
        assert!(code.lines().count() <= 500, "{} is over 500 lines", file.display());
    }
}

#[test]
fn edges_are_found_wherever_they_hide() {
    assert_eq!(named("use crate::{api::Service, domain::{task, sample}, serve};"), ["api", "domain", "serve"]);
    assert_eq!(named("fn f() { crate::engine::run() } // crate::api"), ["engine"]);
    assert_eq!(named("use ulm::train::run; pub(crate) fn g() {}"), ["train"]);
    assert!(wrong("model", "world").is_some() && wrong("engine", "api").is_some() && wrong("api", "train").is_some());
    assert!(wrong("api", "engine").is_none() && wrong("serve", "api").is_none() && wrong("serve", "config").is_none());
    assert!(wrong("domain", "nowhere").is_some());
}
