//! Rows of both formats: what is read, in which order, and what becomes of bad rows and broken files.

use std::path::PathBuf;

use parking_lot::Mutex;
use rand::RngExt as _;

use super::held::Held;
use super::*;
use crate::domain::task::Part;

/// The picture that a question is about.
fn picture(asked: &Asked) -> &Picture {
    let Part::Picture(picture) = &asked.conversation.turns[0].parts[0] else { panic!("a picture comes first") };
    picture
}

fn row(n: usize, image: &str) -> String {
    format!(
        r#"{{"prompt": " a star {n} ", "real_image": "{image}", "qa_problem": "Question: {n}?", "qa_solution": "<answer>A</answer>", "qa_type": "{}"}}"#,
        if n.is_multiple_of(2) { "MC" } else { "OE" }
    )
}

/// A file of these lines, with a picture `p.png` beside it.
fn file(lines: &[String]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let picture = Picture::filled(3, 3, [1, 2, 3]);
    image::save_buffer(dir.path().join("p.png"), picture.rgb(), 3, 3, image::ColorType::Rgb8).unwrap();
    std::fs::write(dir.path().join("bad.png"), b"no picture").unwrap();
    let path = dir.path().join("data.jsonl");
    std::fs::write(&path, lines.join("\n")).unwrap();
    (dir, path)
}

fn prompts(rows: &Rows, from: u64, n: usize) -> Vec<String> {
    rows.exercises(from, n, 7).unwrap().into_iter().map(|exercise| exercise.draw.unwrap().prompt).collect()
}

#[test]
fn every_round_has_every_row_once_in_another_order() {
    let lines: Vec<String> = (0..20).map(|n| row(n, "p.png")).collect();
    let (_dir, path) = file(&lines);
    let rows = Rows::read(&path, Practice::Unified).unwrap();
    let rounds = [prompts(&rows, 0, 20), prompts(&rows, 20, 20)];
    assert_ne!(rounds[0], rounds[1]);
    for mut round in rounds.clone() {
        round.sort();
        round.dedup();
        assert_eq!(round.len(), 20);
    }
    assert_eq!(prompts(&rows, 15, 10), [&rounds[0][15..], &rounds[1][..5]].concat(), "a function of the place alone");
    let one = &rows.exercises(0, 1, 7).unwrap()[0];
    assert_eq!(picture(one.ask.as_ref().unwrap()).pixel(0, 0), Some([1, 2, 3]));
    assert_eq!(one.ask.as_ref().unwrap().solution.as_deref(), Some("<answer>A</answer>"));
}

#[test]
fn rows_of_one_kind_are_chosen() {
    let lines: Vec<String> = (0..6).map(|n| row(n, "p.png")).collect();
    let (_dir, path) = file(&lines);
    let rows = Rows::read(&path, Practice::Answering(Some(QaType::Choice))).unwrap();
    let exercises = rows.exercises(0, 3, 1).unwrap();
    assert!(exercises.iter().all(|exercise| exercise.ask.as_ref().unwrap().kind == QaType::Choice));
    assert!(exercises.iter().all(|exercise| exercise.draw.is_none()));
}

#[test]
fn bad_rows_are_named_and_passed_over_up_to_a_limit() {
    let mut lines: Vec<String> = (0..39).map(|n| row(n, "p.png")).collect();
    lines.push("{\"prompt\": \"\"}".into());
    let (_dir, path) = file(&lines);
    assert_eq!(Rows::read(&path, Practice::Unified).unwrap().rows.len(), 39);
    lines.truncate(5);
    lines.push("{".into());
    let (_dir, path) = file(&lines);
    let error = Rows::read(&path, Practice::Unified).unwrap_err().to_string();
    assert!(error.contains("1 of 6") && error.contains("line 6"), "{error}");
    let (_dir, path) = file(&[]);
    assert!(Rows::read(&path, Practice::Unified).unwrap_err().to_string().contains("no row"));
    assert!(Rows::read(Path::new("/nowhere.jsonl"), Practice::Unified).unwrap_err().to_string().contains("nowhere"));
}

#[test]
fn a_picture_that_cannot_be_read_gives_way_to_the_next_row() {
    let (_dir, path) = file(&[row(0, "bad.png"), row(1, "p.png")]);
    let rows = Rows::read(&path, Practice::Unified).unwrap();
    assert_eq!(prompts(&rows, 0, 2), ["a star 1", "a star 1"]);
    let (_dir, path) = file(&[row(0, "bad.png"), row(1, "none.png")]);
    let error = Rows::read(&path, Practice::Unified).unwrap().exercises(0, 1, 1).unwrap_err().to_string();
    assert!(error.contains("cannot be used"), "{error}");
}

/// A file of `tests/fixtures/rows`, which `tests/fixtures/parquet.py` makes.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rows").join(name)
}

/// Prompt, question, solution, kind and pixels of an exercise of both tasks.
type Told = (String, String, Option<String>, QaType, Vec<u8>);

fn told(exercise: &Exercise) -> Told {
    let (draw, ask) = (exercise.draw.as_ref().unwrap(), exercise.ask.as_ref().unwrap());
    assert_eq!(draw.real.as_ref().unwrap().rgb(), picture(ask).rgb());
    (draw.prompt.clone(), ask.problem.clone(), ask.solution.clone(), ask.kind, picture(ask).rgb().to_vec())
}

fn all(rows: &Rows) -> Vec<Told> {
    rows.exercises(0, rows.rows.len(), 5).unwrap().iter().map(told).collect()
}

#[test]
fn parquet_and_json_lines_give_the_same_exercises() {
    let mut lines = all(&Rows::read(&fixture("rows.jsonl"), Practice::Unified).unwrap());
    for one_group in ["plain.parquet", "paths.parquet"] {
        assert_eq!(all(&Rows::read(&fixture(one_group), Practice::Unified).unwrap()), lines, "{one_group}");
    }
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    for shards in ["hub", "hub/data", "old"] {
        let rows = Rows::read(&fixture(shards), Practice::Unified).unwrap();
        let mut exercises = all(&rows);
        assert_eq!(rows.exercises(5, 9, 5).unwrap().iter().map(told).collect::<Vec<_>>(), exercises[5..14]);
        exercises.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(exercises, lines, "{shards}");
    }
}

#[test]
fn pictures_are_the_same_however_few_are_held() {
    let mut sieve = Sieve::new(Practice::Unified);
    let mut shards = Shards::read(&fixture("old"), &mut sieve).unwrap();
    let (rows, _) = sieve.finish().unwrap();
    let pictures = |shards: &Shards| -> Vec<Vec<u8>> {
        rows.iter().rev().map(|row| shards.picture(row).unwrap().unwrap().rgb().to_vec()).collect()
    };
    let held = pictures(&shards);
    // No group, or one, or two.
    for most in [10, 600, 1200] {
        shards.held = Mutex::new(Held::new(most));
        assert_eq!(pictures(&shards), held, "{most} bytes");
    }
    assert_eq!(shards.name(0), "row 1 of `train-00000-of-00002.parquet`");
    assert_eq!(shards.name(11), "row 1 of `train-00001-of-00002.parquet`");
    assert_eq!(shards.group(6).first, 0);
    assert_eq!(shards.group(7).first, 7);
    assert!(shards.group(23).bytes > 0);
}

#[test]
fn flaws_of_a_parquet_file_are_counted_or_passed_over() {
    let rows = Rows::read(&fixture("flaws.parquet"), Practice::Unified).unwrap();
    assert_eq!(rows.rows.len(), 23, "the row without a prompt is bad");
    let exercises = all(&rows);
    for (gone, next) in [("a star 4", "a star 5"), ("a star 8", "a star 9")] {
        assert!(exercises.iter().all(|exercise| exercise.0 != gone), "its picture cannot be read");
        assert_eq!(exercises.iter().filter(|exercise| exercise.0 == next).count(), 2);
    }
    assert_eq!(exercises.iter().find(|exercise| exercise.0 == "a star 6").unwrap().2, None);
    let drawing = Rows::read(&fixture("flaws.parquet"), Practice::Drawing).unwrap();
    let exercises = drawing.exercises(0, 23, 1).unwrap();
    let bare = exercises.iter().find(|exercise| exercise.draw.as_ref().unwrap().prompt == "a star 8").unwrap();
    assert!(bare.draw.as_ref().unwrap().real.is_none(), "drawing needs no picture");
}

#[test]
fn what_a_parquet_file_lacks_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let error = |path: &Path| Rows::read(path, Practice::Unified).unwrap_err().to_string();
    assert!(error(dir.path()).contains("no `.parquet` file"), "{}", error(dir.path()));
    assert!(error(&dir.path().join("none.parquet")).contains("none.parquet"));
    let zstd = error(&fixture("zstd.parquet"));
    assert!(zstd.contains("zstd.parquet") && zstd.contains("packed as ZSTD"), "{zstd}");
    // The name of a column, in the schema and in every row group, becomes that of another.
    let mut bytes = std::fs::read(fixture("plain.parquet")).unwrap();
    for at in 0..bytes.len() - 10 {
        if bytes[at..].starts_with(b"qa_problem") {
            bytes[at] = b'Q';
        }
    }
    let path = dir.path().join("renamed.parquet");
    std::fs::write(&path, bytes).unwrap();
    assert!(error(&path).contains("24 of 24") && error(&path).contains("row 1 of `renamed.parquet`: `qa_problem`"));
}

#[test]
fn the_digest_tells_sets_apart() {
    let digest = |name: &str| Rows::read(&fixture(name), Practice::Unified).unwrap().digest().to_owned();
    assert_eq!(digest("hub"), digest("hub/data"));
    let mut digests = ["rows.jsonl", "hub", "old", "plain.parquet", "paths.parquet"].map(digest).to_vec();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 5);
}

/// Rows in groups of ten, whose pictures take a hundred megabytes.
#[derive(Debug)]
struct Large;

impl Format for Large {
    fn name(&self, number: usize) -> String {
        number.to_string()
    }
    fn picture(&self, _: &Row) -> Result<Option<Picture>, String> {
        Ok(None)
    }
    fn group(&self, number: usize) -> Group {
        Group { first: number / 10 * 10, bytes: 100 << 20 }
    }
}

#[test]
fn a_window_of_pictures_is_shuffled_at_once() {
    let rows = (0..60).map(|number| Row { number, ..Row::default() }).collect();
    let rows = Rows { format: Box::new(Large), rows, practice: Practice::Drawing, digest: String::new() };
    let order = rows.order(3, 1);
    assert_eq!(order, rows.order(3, 1));
    assert_ne!(order, rows.order(4, 1));
    for window in order.chunks(20) {
        let mut groups: Vec<usize> = window.iter().map(|row| row / 10).collect();
        assert!(groups.windows(2).any(|pair| pair[0] > pair[1]) && groups.windows(2).any(|pair| pair[0] < pair[1]));
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(groups.len(), 2, "two groups fit in a window");
    }
    let mut every = order;
    every.sort_unstable();
    assert_eq!(every, (0..60).collect::<Vec<_>>());
}

/// Reads all that there is in `bytes` as a Parquet file. Anything may come of it but a panic.
fn survives(dir: &Path, bytes: &[u8]) -> bool {
    let path = dir.join("broken.parquet");
    std::fs::write(&path, bytes).unwrap();
    Rows::read(&path, Practice::Unified).and_then(|rows| rows.exercises(0, 24, 1)).is_ok()
}

#[test]
fn a_broken_file_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let mut dice = dice(1);
    for name in ["flaws.parquet", "plain.parquet", "old/train-00000-of-00002.parquet"] {
        let sound = std::fs::read(fixture(name)).unwrap();
        for end in (0..sound.len()).step_by(97) {
            assert!(!survives(dir.path(), &sound[..end]), "{name} cut at {end}");
        }
        let footer = sound.len() - 8 - u32::from_le_bytes(sound[sound.len() - 8..][..4].try_into().unwrap()) as usize;
        for round in 0..300 {
            let mut bytes = sound.clone();
            for _ in 0..dice.random_range(1..4) {
                let from = if round % 2 == 0 { 0 } else { footer };
                bytes[dice.random_range(from..sound.len())] = dice.random();
            }
            survives(dir.path(), &bytes);
        }
        // Sound ends with the middle of another file.
        let mut bytes = sound.clone();
        dice.fill(&mut bytes[4..footer]);
        assert!(!survives(dir.path(), &bytes), "{name} of random bytes");
    }
    let mut bytes = vec![0; 4096];
    dice.fill(&mut bytes[..]);
    assert!(!survives(dir.path(), &bytes));
    bytes[4092..].copy_from_slice(b"PAR1");
    assert!(!survives(dir.path(), &bytes));
}
