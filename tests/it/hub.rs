//! Checkpoints from a hub that speaks the file protocol of Hugging Face's, on a real port in this process, and that can be told to do
//! badly: to cut, to shorten, to garble, to refuse.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use ulm::hub::{Hub, HubError, HubName, Watcher};

use super::{crash, golden};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const NAME: &str = "some-one/Small-Janus";

/// What a request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Well,
    /// At most so many bytes of a weights file in each reply, then the line is cut.
    Cut(usize),
    /// All of a file, whatever part was asked for, cut as above while there are fewer requests than this.
    Whole(usize, usize),
    /// The weights are so many bytes shorter than listed.
    Short(usize),
    /// One byte of the weights is another.
    Garble,
    /// This status, always.
    Refuse(u16),
    /// This status for the first requests of a file.
    Stumble(u16, usize),
    /// Weights lie elsewhere.
    Elsewhere,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    path: String,
    range: Option<String>,
    token: Option<String>,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    does: Mutex<Does>,
    asked: Mutex<Vec<Asked>>,
    elsewhere: Mutex<Option<String>>,
}

/// A hub with one model.
struct Served {
    url: String,
    state: Arc<State>,
    home: TempDir,
}

/// The files of a fixture, and some that nobody needs.
fn files(variant: &str) -> BTreeMap<String, Vec<u8>> {
    let here = fs::read_dir(golden::path(variant)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: BTreeMap<String, Vec<u8>> =
        here.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())).collect();
    files.insert("README.md".into(), b"of no use".to_vec());
    files.insert("images/teaser.png".into(), vec![7; 1000]);
    files
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".bin")
}

impl Served {
    fn new(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (does, asked, elsewhere) = (Mutex::new(Does::Well), Mutex::new(vec![]), Mutex::new(None));
        let state = Arc::new(State { files, does, asked, elsewhere });
        let of = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let of = Arc::clone(&of);
                std::thread::spawn(move || of.serve(&stream.unwrap()));
            }
        });
        Self { url, state, home: tempfile::tempdir().unwrap() }
    }

    fn does(&self, does: Does) {
        *self.state.does.lock().unwrap() = does;
    }

    /// What was asked since this was called last.
    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.asked.lock().unwrap())
    }

    fn hub(&self) -> Hub {
        let set = |name: &str| match name {
            "HF_ENDPOINT" => Some(self.url.clone()),
            "HF_HOME" => Some(self.home.path().display().to_string()),
            "HF_TOKEN" => Some("hf_secret".into()),
            _ => None,
        };
        Hub { patience: Duration::from_millis(1), ..Hub::new(set) }
    }

    async fn fetch(&self) -> Result<PathBuf, HubError> {
        self.hub().checkpoint(&NAME.parse::<HubName>().unwrap(), false, &Quiet).await
    }

    /// The program with this hub.
    fn ulm(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ulm"));
        command.args(arguments).env("HF_ENDPOINT", &self.url).env("HF_HOME", self.home.path());
        command.env_remove("HF_TOKEN").env_remove("HF_HUB_OFFLINE").env_remove("HF_HUB_CACHE").output().unwrap()
    }

    fn of_the_weights(&self) -> Vec<Option<String>> {
        self.asked().into_iter().filter(|asked| is_large(&asked.path)).map(|asked| asked.range).collect()
    }

    /// What is on its way.
    fn growing(&self) -> Vec<u64> {
        let blobs = fs::read_dir(self.home.path().join("hub/models--some-one--Small-Janus/blobs")).unwrap();
        let growing = blobs.map(|entry| entry.unwrap()).filter(|entry| {
            let name = entry.file_name();
            name.to_str().unwrap().ends_with(".incomplete")
        });
        growing.map(|entry| entry.metadata().unwrap().len()).collect()
    }
}

impl State {
    fn serve(&self, stream: &TcpStream) {
        let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
        let Some(first) = lines.next() else { return };
        let path = first.split(' ').nth(1).unwrap().to_owned();
        let headers: BTreeMap<String, String> = lines
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
            .collect();
        let (range, token) = (headers.get("range").cloned(), headers.get("authorization").cloned());
        let before = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(Asked { path: path.clone(), range: range.clone(), token });
            asked.iter().filter(|asked| asked.path == path).count() - 1
        };
        let does = *self.does.lock().unwrap();
        match does {
            Does::Refuse(status) => return reply(stream, status, &[], b"", usize::MAX),
            Does::Stumble(status, times) if before < times => return reply(stream, status, &[], b"", usize::MAX),
            _ => {}
        }
        if path.starts_with("/api/models/some-one/Small-Janus/revision/") {
            return reply(stream, 200, &[], self.list().as_bytes(), usize::MAX);
        }
        let prefix = format!("/{NAME}/resolve/{COMMIT}/");
        let Some((name, file)) = path
            .strip_prefix(&prefix)
            .or_else(|| path.strip_prefix("/cdn/"))
            .and_then(|name| Some((name, self.files.get(name)?)))
        else {
            return reply(stream, 404, &[], b"", usize::MAX);
        };
        let mut file = file.clone();
        let from = range.map_or(0, |range| range.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap());
        let (mut from, mut most): (usize, usize) = (from, usize::MAX);
        if is_large(name) {
            match does {
                Does::Cut(n) => most = n,
                Does::Whole(n, times) => {
                    from = 0;
                    most = if before < times { n } else { usize::MAX };
                }
                Does::Short(n) => file.truncate(file.len() - n),
                Does::Garble => file[1000] ^= 1,
                Does::Elsewhere if path.starts_with(&prefix) => {
                    let elsewhere = self.elsewhere.lock().unwrap().clone().unwrap();
                    return reply(stream, 302, &[("location", format!("{elsewhere}/cdn/{name}"))], b"", usize::MAX);
                }
                _ => {}
            }
        }
        if from > 0 && from >= file.len() {
            return reply(stream, 416, &[], b"", usize::MAX);
        }
        let content = ("content-range", format!("bytes {from}-{}/{}", file.len() - 1, file.len()));
        reply(stream, if from > 0 { 206 } else { 200 }, &[content], &file[from..], most);
    }

    fn list(&self) -> String {
        let sibling = |(name, file): (&String, &Vec<u8>)| {
            let git = hex(&Sha1::new_with_prefix(format!("blob {}\0", file.len())).chain_update(file).finalize());
            let mut sibling = json!({"rfilename": name, "blobId": git, "size": file.len()});
            if is_large(name) {
                sibling["lfs"] = json!({"sha256": hex(&Sha256::digest(file)), "size": file.len(), "pointerSize": 130});
            }
            sibling
        };
        json!({"sha": COMMIT, "siblings": self.files.iter().map(sibling).collect::<Vec<_>>()}).to_string()
    }
}

/// Answers and ends the connection, after `most` bytes of the body if it is longer.
fn reply(mut stream: &TcpStream, status: u16, headers: &[(&str, String)], body: &[u8], most: usize) {
    let mut head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    // Whoever asked may have gone.
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    let _ = stream.write_all(&body[..body.len().min(most)]);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = std::io::copy(&mut stream.take(1 << 20), &mut std::io::sink());
}

struct Quiet;

impl Watcher for Quiet {
    fn begins(&self, _: &str, _: u64, _: u64) {}
    fn moves(&self, _: u64) {}
    fn ends(&self) {}
}

fn same(folder: &Path, variant: &str) {
    for entry in fs::read_dir(golden::path(variant)).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(fs::read(folder.join(path.file_name().unwrap())).unwrap(), fs::read(&path).unwrap(), "{path:?}");
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

#[tokio::test]
async fn a_checkpoint_is_fetched_once_and_served_by_its_name() {
    let served = Served::new(files("mha"));
    let fetched = served.ulm(&["model", "fetch", NAME]);
    assert!(fetched.status.success(), "{}", said(&fetched));
    let folder = PathBuf::from(String::from_utf8(fetched.stdout).unwrap().trim());
    assert_eq!(folder, served.home.path().join("hub/models--some-one--Small-Janus/snapshots").join(COMMIT));
    same(&folder, "mha");
    let asked = served.asked();
    assert_eq!(asked.len(), 7, "the list and what a checkpoint is made of, no more: {asked:?}");
    assert!(asked.iter().all(|asked| !asked.path.contains("README") && !asked.path.contains("teaser")));

    let verified = served.ulm(&["model", "verify", NAME, "--json"]);
    assert!(verified.status.success(), "{}", said(&verified));
    assert_eq!(served.asked().len(), 1, "a branch is looked up again, and nothing fetched");
    let pinned = format!("{NAME}@{COMMIT}");
    assert!(served.ulm(&["model", "info", &pinned]).status.success());
    assert_eq!(served.asked(), [], "a commit does not change");

    served.does(Does::Refuse(500));
    let data = tempfile::tempdir().unwrap();
    let home = served.home.path().display().to_string();
    let offline = [("HF_HOME", home.as_str()), ("HF_HUB_OFFLINE", "1")];
    let (mut server, url) = crash::start_as(data.path(), &["--model", NAME], &offline);
    let models = reqwest::get(format!("{url}/v1/models")).await.unwrap().text().await.unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(models.contains("\"Small-Janus\""), "{models}");
    assert_eq!(served.asked(), [], "offline, nobody is asked");
}

#[tokio::test]
async fn what_is_cut_goes_on() {
    let served = Served::new(files("mha"));
    served.does(Does::Cut(500_000));
    same(&served.fetch().await.unwrap(), "mha");
    let ranges = served.of_the_weights();
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    assert_eq!((ranges[0].as_deref(), ranges[1].as_deref()), (None, Some("bytes=500000-")));
    assert_eq!(served.growing(), [0_u64; 0]);
}

#[tokio::test]
async fn what_stays_away_is_given_up_and_the_next_one_goes_on() {
    let served = Served::new(files("mha"));
    served.does(Does::Cut(0));
    let error = served.fetch().await.unwrap_err();
    assert!(matches!(error, HubError::BrokeOff { at: 0, .. }), "{error}");
    let growing = served.home.path().join("hub/models--some-one--Small-Janus/blobs");
    let weights = hex(&Sha256::digest(&served.state.files["model.safetensors"]));
    fs::write(growing.join(format!("{weights}.incomplete")), &served.state.files["model.safetensors"][..123_456])
        .unwrap();
    served.asked();
    served.does(Does::Well);
    same(&served.fetch().await.unwrap(), "mha");
    assert_eq!(served.of_the_weights(), [Some("bytes=123456-".to_owned())]);
}

#[tokio::test]
async fn a_hub_that_sends_all_again_is_heard_from_the_start() {
    let served = Served::new(files("mha"));
    served.does(Does::Whole(1_000_000, 2));
    same(&served.fetch().await.unwrap(), "mha");
    assert_eq!(served.of_the_weights().len(), 3);
}

#[tokio::test]
async fn a_hub_that_stumbles_is_asked_again() {
    let served = Served::new(files("mha"));
    // The list is asked for once: a hub that cannot give it is told of at once.
    served.does(Does::Stumble(503, 1));
    assert!(matches!(served.fetch().await.unwrap_err(), HubError::Status { status: 503, .. }));
    same(&served.fetch().await.unwrap(), "mha");
}

#[tokio::test]
async fn a_truncated_file_is_no_file() {
    let served = Served::new(files("mha"));
    served.does(Does::Short(1));
    let error = served.fetch().await.unwrap_err();
    let size = served.state.files["model.safetensors"].len() as u64;
    assert!(
        matches!(&error, HubError::BrokeOff { what, at, size: listed, .. }
        if what == "model.safetensors" && *at == size - 1 && *listed == size),
        "{error}"
    );
    let snapshot = served.home.path().join("hub/models--some-one--Small-Janus/snapshots").join(COMMIT);
    assert!(!snapshot.join("model.safetensors").exists());
    served.does(Does::Well);
    same(&served.fetch().await.unwrap(), "mha");
}

#[tokio::test]
async fn a_wrong_hash_is_named_and_nothing_of_it_stays() {
    let served = Served::new(files("mha"));
    served.does(Does::Garble);
    let error = served.fetch().await.unwrap_err();
    let listed = hex(&Sha256::digest(&served.state.files["model.safetensors"]));
    assert!(
        matches!(&error, HubError::WrongHash { what, listed: hash, .. }
        if what == "model.safetensors" && *hash == listed),
        "{error}"
    );
    assert_eq!(served.growing(), [0_u64; 0]);
    served.does(Does::Well);
    same(&served.fetch().await.unwrap(), "mha");
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let served = Served::new(files("mha"));
    for (status, told) in [(401, "set HF_TOKEN"), (403, "set HF_TOKEN"), (404, "not on the hub"), (500, "answered 500")]
    {
        served.does(Does::Refuse(status));
        let error = served.fetch().await.unwrap_err().to_string();
        assert!(error.contains(told), "{status}: {error}");
        let shown = served.ulm(&["model", "info", NAME]);
        assert!(!shown.status.success() && said(&shown).contains(told), "{}", said(&shown));
    }
    let typo = served.ulm(&["eval", "--model", "no-such/folder"]);
    assert!(!typo.status.success() && said(&typo).contains("no-such/folder is no folder here"), "{}", said(&typo));
}

#[tokio::test]
async fn without_a_hub_the_last_revision_is_taken() {
    let served = Served::new(files("mha"));
    let folder = served.fetch().await.unwrap();
    let away = Hub { endpoint: "http://127.0.0.1:9".into(), ..served.hub() };
    let name = NAME.parse().unwrap();
    assert_eq!(away.checkpoint(&name, false, &Quiet).await.unwrap(), folder);
    let other = "some-one/Other".parse().unwrap();
    assert!(matches!(away.checkpoint(&other, false, &Quiet).await, Err(HubError::Unreachable { .. })));
    let offline = Hub { offline: true, ..away };
    assert!(matches!(offline.checkpoint(&other, false, &Quiet).await, Err(HubError::Offline { .. })));
    // What lacks a file is not whole.
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    assert!(matches!(offline.checkpoint(&name, false, &Quiet).await, Err(HubError::Offline { .. })));
}

#[tokio::test]
async fn pickles_come_on_request_only() {
    let served = Served::new(files("deepseek"));
    let error = served.fetch().await.unwrap_err();
    assert!(error.to_string().contains("--allow-pickle"), "{error}");
    assert_eq!(served.of_the_weights(), []);
    let folder = served.hub().checkpoint(&NAME.parse().unwrap(), true, &Quiet).await.unwrap();
    same(&folder, "deepseek");
}

#[tokio::test]
async fn the_token_is_shown_to_the_hub_alone() {
    let (served, other) = (Served::new(files("mha")), Served::new(files("mha")));
    served.does(Does::Elsewhere);
    *served.state.elsewhere.lock().unwrap() = Some(other.url.clone());
    same(&served.fetch().await.unwrap(), "mha");
    assert!(served.asked().iter().all(|asked| asked.token.as_deref() == Some("Bearer hf_secret")));
    let elsewhere = other.asked();
    assert_eq!((elsewhere.len(), &elsewhere[0].token), (1, &None));
}

#[tokio::test]
async fn an_index_names_the_files_that_come() {
    let mut files = files("mha");
    let weights = files.remove("model.safetensors").unwrap();
    let shard = "model-00001-of-00001.safetensors";
    files.insert(shard.into(), weights.clone());
    let index = |file: &str| json!({"weight_map": {"some.weight": file}}).to_string().into_bytes();
    files.insert("model.safetensors.index.json".into(), index(shard));
    let served = Served::new(files.clone());
    assert_eq!(fs::read(served.fetch().await.unwrap().join(shard)).unwrap(), weights);
    for elsewhere in ["../../etc/passwd", "model-00002-of-00001.safetensors"] {
        files.insert("model.safetensors.index.json".into(), index(elsewhere));
        let error = Served::new(files.clone()).fetch().await.unwrap_err();
        assert!(matches!(&error, HubError::List { why, .. } if why.contains(elsewhere)), "{error}");
    }
}

#[tokio::test]
async fn settings_that_fill_the_memory_do_not_come() {
    let mut files = files("mha");
    files.insert("tokenizer_config.json".into(), vec![b' '; (64 << 20) + 1]);
    let served = Served::new(files);
    let error = served.fetch().await.unwrap_err();
    assert!(
        matches!(&error, HubError::List { why, .. } if why == "tokenizer_config.json has 67108865 bytes"),
        "{error}"
    );
    assert_eq!(served.asked().len(), 1);
}

#[tokio::test]
async fn two_at_once_fetch_it_once() {
    let served = Served::new(files("mha"));
    let (hub, name) = (served.hub(), NAME.parse::<HubName>().unwrap());
    let fetch = || {
        let (hub, name) = (hub.clone(), name.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(hub.checkpoint(&name, false, &Quiet)).unwrap()
        })
    };
    let both = [fetch(), fetch()].map(|thread| thread.join().unwrap());
    both.iter().for_each(|folder| same(folder, "mha"));
    assert_eq!(served.of_the_weights().len(), 1);
}
