//! The official OpenAI SDK for Python, unmodified, in both major versions: `tests/sdk/check.py` against a server here.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::app::{MODEL, TestApp};
use super::golden;

/// A virtual environment with one version of the SDK, made once.
fn python(version: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("openai-{version}"));
    let python = folder.join("bin/python");
    let ready = folder.join("ready");
    if !ready.exists() {
        let run = |program: &Path, arguments: &[&str]| {
            let status = Command::new(program).args(arguments).status().unwrap();
            assert!(status.success(), "{} {arguments:?}", program.display());
        };
        run(Path::new("python3"), &["-m", "venv", "--clear", folder.to_str().unwrap()]);
        run(&python, &["-m", "pip", "install", "--quiet", &format!("openai=={version}")]);
        std::fs::write(ready, "").unwrap();
    }
    python
}

fn check(version: &str) {
    let app = TestApp::with(&["--api-key", "sk-test", "--context", "4096", "--rows", "2", "--queue", "2"]);
    let output = Command::new(python(version))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/check.py"))
        .args([&app.url, "sk-test", MODEL, version])
        .arg(golden::path("pictures/square.png"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
#[ignore = "needs Python with pip and the package index"]
fn openai_2_works_unmodified() {
    check("2.54.0");
}

#[test]
#[ignore = "needs Python with pip and the package index"]
fn openai_3_works_unmodified() {
    check("3.54.0");
}
