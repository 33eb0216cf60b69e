//! The program itself: what it prints, how it starts and stops, and how it refuses to start.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::golden;

fn ulm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ulm"));
    command.env_clear().current_dir(env!("CARGO_TARGET_TMPDIR"));
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// Tries to serve the folder, which must fail at once; what it said.
fn refused(model: &Path) -> String {
    let start = Instant::now();
    let output = ulm().args(["serve", "--listen", "127.0.0.1:0", "--model"]).arg(model).output().unwrap();
    assert!(!output.status.success() && start.elapsed() < Duration::from_secs(20), "{}", said(&output));
    assert!(!said(&output).contains("page  http"), "it does not serve");
    said(&output)
}

/// A copy of the small checkpoint.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(golden::path("mha")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    folder
}

#[test]
fn help_teaches() {
    for (arguments, words) in [
        (["--help"].as_slice(), ["Try it", "curl", "serve", "openapi", "--model"].as_slice()),
        (&["serve", "--help"], &["--listen", "--data", "--model", "--api-key", "ULM_API_KEYS", "--rows", "--queue"]),
    ] {
        let output = ulm().args(arguments).output().unwrap();
        assert!(output.status.success());
        for word in words {
            assert!(said(&output).contains(word), "{word} in {}", said(&output));
        }
    }
}

#[test]
fn the_description_is_printed() {
    let output = ulm().arg("openapi").output().unwrap();
    let committed = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.yaml")).unwrap();
    assert_eq!(output.stdout, committed);
}

#[test]
fn it_serves_until_it_is_told_to_stop() {
    let data = tempfile::tempdir().unwrap();
    let mut server = ulm()
        .args(["serve", "--listen", "127.0.0.1:0", "--model"])
        .arg(golden::path("mha"))
        .arg("--data")
        .arg(data.path().join("made/here"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines().map_while(Result::ok);
    let page = lines.find_map(|line| line.trim().strip_prefix("page  http://").map(str::to_owned)).unwrap();
    assert!(std::net::TcpStream::connect(page.trim_end_matches('/')).is_ok());
    assert!(data.path().join("made/here").is_dir());
    assert!(Command::new("kill").arg(server.id().to_string()).status().unwrap().success());
    let start = Instant::now();
    assert!(server.wait().unwrap().success());
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_broken_checkpoint_is_named_and_not_served() {
    let fix = "ulm pretrain";
    let said = refused(Path::new("/nowhere/at-all"));
    assert!(said.contains("/nowhere/at-all") && said.contains(fix), "{said}");

    for missing in ["config.json", "model.safetensors", "tokenizer.json"] {
        let folder = copy();
        std::fs::remove_file(folder.path().join(missing)).unwrap();
        let said = refused(folder.path());
        assert!(said.contains(missing) && said.contains(fix), "{said}");
    }

    let folder = copy();
    let weights = folder.path().join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    let said = refused(folder.path());
    assert!(said.contains("model.safetensors") && said.contains(fix), "{said}");

    // One tensor under another name.
    let (name, other) = ("model.language_model.norm.weight", "model.language_model.norm.weighs");
    let at = whole.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
    let mut renamed = whole.clone();
    renamed[at..at + name.len()].copy_from_slice(other.as_bytes());
    std::fs::write(&weights, renamed).unwrap();
    let said = refused(folder.path());
    assert!(said.contains("norm.weigh") && said.contains(fix), "{said}");
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = tempfile::tempdir().unwrap();
    let served = ["serve", "--listen", &address, "--model"];
    let output = ulm().args(served).arg(golden::path("mha")).arg("--data").arg(data.path()).output().unwrap();
    assert!(!output.status.success() && said(&output).contains(&address), "{}", said(&output));
}
