//! The ledger itself: one body for both databases. SQLite always; Postgres where `ULM_TEST_POSTGRES` names a server on which
//! databases may be made.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ulm::domain::id::{CallId, ChatId, FeedbackId, ImagesId, SampleId};
use ulm::domain::record::{Asked, By, Call, Opinion, Record};
use ulm::domain::sample::{Finish, Output, Sample, Timings, Version};
use ulm::domain::task::{Answer, Draw, Part, Role, Sampling, Turn};
use ulm::store::{Blobs, CallFilter, Fresh, Kept, Ledger, Order, Rated, Rating, Said, Target, Task};

use super::place::{Place, on_both};

fn version() -> Version {
    Version("5e".repeat(32))
}

fn call(id: CallId, asked: Asked, person: Option<&str>) -> Call {
    Call {
        id,
        created_ms: 1_700_000_000_000,
        asked,
        model: "ulm".into(),
        version: version(),
        config: "c0".into(),
        prompt_tokens: 9,
        by: By { person: person.map(str::to_owned), key: String::new() },
        metadata: BTreeMap::from([("app".to_owned(), "tests".to_owned())]),
    }
}

fn record(at: u32, output: Output<ulm::domain::id::BlobId>) -> Record {
    let picture = matches!(output, Output::Picture(_));
    Record {
        id: SampleId::fresh(),
        at,
        sampling: Sampling { seed: 7 + u64::from(at), guidance: 1.35, ..Sampling::default() },
        sample: Sample {
            tokens: vec![1, 2, u32::MAX],
            log_probs: vec![-0.5, -0.25, f32::MIN],
            conditional_log_probs: if picture { vec![-1.0, -2.0, -3.0] } else { vec![] },
            seed: 7 + u64::from(at),
            version: version(),
            finish: Finish::Stop,
            output,
            timings: Timings {
                admitted: Duration::from_micros(15),
                first_token: Duration::from_micros(2_500),
                finished: Duration::from_millis(50),
            },
        },
        millis: 60,
    }
}

/// A drawing of `prompt` with `n` pictures.
async fn drawn(ledger: &Ledger, prompt: &str, n: u32, person: Option<&str>) -> Kept {
    let mut files = vec![];
    for at in 0..n {
        files.push(ledger.blobs().put(format!("picture {prompt} {at}").into_bytes()).await.unwrap());
    }
    let records = (0..n).zip(&files).map(|(at, file)| record(at, Output::Picture(file.id().clone()))).collect();
    let asked = Asked::Draw(Draw { prompt: prompt.to_owned() });
    let kept = Kept { call: call(CallId::Images(ImagesId::fresh()), asked, person), records };
    ledger.append(kept.clone(), &files).await.unwrap();
    kept
}

/// An answer about a picture, kept in two steps as a stream does.
async fn answered(ledger: &Ledger, said: &str, person: Option<&str>) -> Kept {
    let file = ledger.blobs().put(b"shown".to_vec()).await.unwrap();
    let parts = vec![Part::Picture(file.id().clone()), Part::Text("what is \u{0} it?".into())];
    let asked = Asked::Answer(Answer { system: None, turns: vec![Turn { role: Role::User, parts }] });
    let id = CallId::Chat(ChatId::fresh());
    let kept = Kept { call: call(id, asked, person), records: vec![record(0, Output::Text(said.to_owned()))] };
    ledger.begin(kept.call.clone(), &[file]).await.unwrap();
    assert_eq!(ledger.call(id).await.unwrap().unwrap().records, []);
    ledger.finish(id, kept.records.clone(), &[]).await.unwrap();
    kept
}

fn rating(target: Target, opinion: Said, client_key: Option<&str>) -> Rating {
    Rating {
        target,
        opinion,
        id: FeedbackId::fresh(),
        client_key: client_key.map(str::to_owned),
        rater: Some("ann".into()),
        key: String::new(),
        metadata: BTreeMap::new(),
        created_ms: 5,
    }
}

async fn keeps(place: Place) {
    let ledger = place.open().await;
    let picture = drawn(&ledger, "a star", 2, Some("bob")).await;
    let answer = answered(&ledger, "a \u{0} star \u{1f980}", None).await;
    drop(ledger);

    let ledger = place.open().await;
    assert_eq!(ledger.call(picture.call.id).await.unwrap().as_ref(), Some(&picture));
    assert_eq!(ledger.call_of(answer.records[0].id).await.unwrap().as_ref(), Some(&answer));
    assert_eq!(ledger.call_of(SampleId::fresh()).await.unwrap(), None);
    let Output::Picture(blob) = &picture.records[1].sample.output else { panic!("a picture") };
    assert_eq!(ledger.blobs().get(blob).await.unwrap(), b"picture a star 1");

    // Writing the same again changes nothing.
    ledger.append(picture.clone(), &[]).await.unwrap();
    assert_eq!(ledger.call(picture.call.id).await.unwrap().as_ref(), Some(&picture));
    let stats = ledger.stats().await.unwrap();
    assert_eq!((stats.calls, stats.samples, stats.pictures, stats.files), (2, 3, 2, 3));
    assert_eq!(stats.file_bytes, (2 * "picture a star 0".len() + "shown".len()) as u64);
    assert_eq!(stats.versions, BTreeMap::from([(version().0, 3)]));
}

async fn lists(place: Place) {
    let ledger = place.open().await;
    let mut all = vec![];
    for i in 0..5 {
        all.push(drawn(&ledger, &format!("prompt {i}"), 1, None).await);
    }
    answered(&ledger, "x", None).await;
    let filter = |order, after, limit| CallFilter {
        task: Task::Images,
        model: Some("ulm".into()),
        metadata: BTreeMap::from([("app".to_owned(), "tests".to_owned())]),
        order,
        after,
        limit,
    };
    let (first, more) = ledger.calls(&filter(Order::Oldest, None, 3)).await.unwrap();
    assert!(more && first == all[..3]);
    let (rest, more) = ledger.calls(&filter(Order::Oldest, Some(first[2].call.id), 3)).await.unwrap();
    assert!(!more && rest == all[3..]);
    let (last, _) = ledger.calls(&filter(Order::Newest, None, 1)).await.unwrap();
    assert_eq!(last, all[4..]);
    let none =
        CallFilter { metadata: BTreeMap::from([("app".into(), "other".into())]), ..filter(Order::Oldest, None, 9) };
    assert_eq!(ledger.calls(&none).await.unwrap(), (vec![], false));

    let notes = BTreeMap::from([("app".to_owned(), "other".to_owned())]);
    assert!(ledger.annotate(all[0].call.id, notes.clone()).await.unwrap());
    assert!(!ledger.annotate(CallId::Chat(ChatId::fresh()), notes).await.unwrap());
    assert_eq!(ledger.calls(&none).await.unwrap().0[0].call.id, all[0].call.id);
}

async fn rates(place: Place) {
    let ledger = place.open().await;
    let picture = drawn(&ledger, "a star", 3, None).await;
    let other = drawn(&ledger, "a circle", 1, None).await;
    let answer = answered(&ledger, "yes", None).await;
    let rate = async |rating: Rating| ledger.rate(rating, &[]).await.unwrap();
    let (sample, of) = (|at: usize| Target::Sample(picture.records[at].id), |at| Target::Of(picture.call.id, at));

    let thumb = Said::Other(Opinion::Thumb(true));
    let Rated::New(kept) = rate(rating(sample(0), thumb.clone(), Some("k1"))).await else { panic!("kept") };
    assert_eq!((kept.sample, &kept.opinion), (picture.records[0].id, &Opinion::Thumb(true)));
    // The same key with the same body is the same feedback; with another it is taken.
    assert_eq!(rate(rating(of(Some(0)), thumb.clone(), Some("k1"))).await, Rated::Known(kept.clone()));
    assert_eq!(rate(rating(sample(1), thumb.clone(), Some("k1"))).await, Rated::Taken);
    // Without a key each is one more.
    assert!(matches!(rate(rating(sample(0), thumb.clone(), None)).await, Rated::New(_)));

    let better = |over| Said::Preferred { over };
    let preferred = rate(rating(of(Some(1)), better(vec![sample(0), of(Some(2))]), None)).await;
    let Rated::New(preferred) = preferred else { panic!("{preferred:?}") };
    assert_eq!(preferred.opinion, Opinion::Preferred { over: vec![picture.records[0].id, picture.records[2].id] });
    let across = rate(rating(sample(0), better(vec![Target::Sample(other.records[0].id)]), None)).await;
    assert!(matches!(across, Rated::Unfit(why) if why.contains("same request")), "{across:?}");
    assert!(matches!(rate(rating(sample(0), better(vec![sample(0)]), None)).await, Rated::Unfit(_)));
    assert!(matches!(rate(rating(of(None), thumb.clone(), None)).await, Rated::NoSample(_)), "one of three");
    assert!(matches!(rate(rating(Target::Sample(SampleId::fresh()), thumb.clone(), None)).await, Rated::NoSample(_)));
    let text = Said::Other(Opinion::CorrectAnswer("no".into()));
    assert!(matches!(rate(rating(sample(0), text.clone(), None)).await, Rated::Unfit(_)));
    assert!(matches!(rate(rating(Target::Of(answer.call.id, None), text, None)).await, Rated::New(_)));

    let said = ledger.feedback_on(sample(0)).await.unwrap().unwrap();
    assert_eq!(said.iter().map(|f| f.id).filter(|id| [kept.id, preferred.id].contains(id)).count(), 2);
    assert_eq!(said.len(), 3);
    assert_eq!(ledger.feedback_on(of(None)).await.unwrap().unwrap().len(), 3);
    assert_eq!(ledger.feedback_on(Target::Sample(SampleId::fresh())).await.unwrap(), None);

    // Changed, then withdrawn.
    let down = Said::Other(Opinion::Thumb(false));
    let changed = ledger.revise(kept.id, String::new(), down.clone(), 9, &[]).await.unwrap();
    assert!(matches!(&changed, Rated::New(f) if f.opinion == Opinion::Thumb(false) && f.revised_ms == Some(9)));
    assert!(matches!(ledger.revise(kept.id, String::new(), down.clone(), 10, &[]).await.unwrap(), Rated::Known(_)));
    assert_eq!(ledger.revise(kept.id, "another key".into(), down.clone(), 10, &[]).await.unwrap(), Rated::NoFeedback);
    assert!(!ledger.withdraw(kept.id, "another key".into(), 11).await.unwrap());
    assert!(ledger.withdraw(kept.id, String::new(), 11).await.unwrap());
    assert!(!ledger.withdraw(kept.id, String::new(), 12).await.unwrap());
    assert_eq!(ledger.feedback(kept.id).await.unwrap(), None);
    assert_eq!(ledger.revise(kept.id, String::new(), down, 13, &[]).await.unwrap(), Rated::NoFeedback);
    assert_eq!(rate(rating(sample(0), thumb, Some("k1"))).await, Rated::Taken, "a withdrawn key is used up");
    assert_eq!(ledger.feedback_on(sample(0)).await.unwrap().unwrap().len(), 2);
}

async fn forgets(place: Place) {
    let ledger = place.open().await;
    let bobs = drawn(&ledger, "a star", 2, Some("bob")).await;
    let anns = answered(&ledger, "yes", Some("ann")).await;
    let also = answered(&ledger, "no", Some("bob")).await;
    let corrected: Fresh = ledger.blobs().put(b"corrected".to_vec()).await.unwrap();
    let correction = Said::Other(Opinion::CorrectPicture(corrected.id().clone()));
    let by_ann = rating(Target::Sample(bobs.records[0].id), correction, None);
    assert!(matches!(ledger.rate(by_ann, &[corrected]).await.unwrap(), Rated::New(_)));
    let by_bob = Rating {
        rater: Some("bob".into()),
        ..rating(Target::Sample(anns.records[0].id), Said::Other(Opinion::Thumb(true)), None)
    };
    assert!(matches!(ledger.rate(by_bob, &[]).await.unwrap(), Rated::New(_)));
    assert_eq!(ledger.stats().await.unwrap().files, 4);

    let purged = ledger.purge_person("bob").await.unwrap();
    // Two pictures and the correction go; what Ann was shown is the same file and stays.
    assert_eq!((purged.calls, purged.samples, purged.feedback, purged.files), (2, 3, 2, 3));
    assert_eq!(ledger.call(also.call.id).await.unwrap(), None);
    assert_eq!(ledger.call(anns.call.id).await.unwrap().as_ref(), Some(&anns));
    assert_eq!(ledger.feedback_on(Target::Sample(anns.records[0].id)).await.unwrap().unwrap(), []);
    let Output::Picture(blob) = &bobs.records[0].sample.output else { panic!("a picture") };
    assert!(ledger.blobs().get(blob).await.unwrap_err().to_string().contains("missing"));
    let left = ledger.stats().await.unwrap();
    assert_eq!((left.calls, left.files, left.file_bytes), (1, 1, 5));

    assert_eq!(ledger.purge_before(1_700_000_000_000).await.unwrap().calls, 0);
    assert_eq!(ledger.purge_before(1_700_000_000_001).await.unwrap().calls, 1);
    for i in 0..20 {
        drawn(&ledger, &format!("{i}"), 1, None).await;
    }
    ledger.count("2026-01-01".into(), "draw").await.unwrap();
    ledger.count("2026-01-01".into(), "draw").await.unwrap();
    let purged = ledger.purge_to(5 * "picture 10 0".len() as u64).await.unwrap();
    let stats = ledger.stats().await.unwrap();
    assert_eq!((stats.calls, purged.calls), (5, 15), "the newest stay");
    assert_eq!(stats.not_kept, BTreeMap::from([("draw".to_owned(), 2)]));
    assert!(ledger.delete_call(CallId::Images(ImagesId::fresh())).await.unwrap().calls == 0);
}

/// A write that the database refuses fails alone, and the next one finds a sound connection.
/// Ids go on in order when the clock does not, nothing is refused for it, and only what says it is older counts as older.
async fn goes_back(place: Place) {
    let ledger = place.open().await;
    let first = drawn(&ledger, "a star", 1, None).await;
    let mut call = call(CallId::Images(ImagesId::fresh()), first.call.asked.clone(), None);
    call.created_ms -= 3_600_000;
    let picture = first.records[0].sample.output.clone();
    let second = Kept { call, records: vec![record(0, picture)] };
    ledger.append(second.clone(), &[]).await.unwrap();
    let filter = CallFilter {
        task: Task::Images,
        model: None,
        metadata: BTreeMap::new(),
        order: Order::Newest,
        after: None,
        limit: 9,
    };
    assert_eq!(ledger.calls(&filter).await.unwrap().0, [second.clone(), first.clone()]);

    let target = Target::Sample(second.records[0].id);
    let rated = ledger.rate(rating(target, Said::Other(Opinion::Thumb(true)), None), &[]).await.unwrap();
    let Rated::New(feedback) = rated else { panic!("{rated:?}") };
    let down = Said::Other(Opinion::Thumb(false));
    let changed = ledger.revise(feedback.id, String::new(), down, feedback.created_ms - 1, &[]).await.unwrap();
    assert!(matches!(changed, Rated::New(_)), "{changed:?}");
    assert!(ledger.withdraw(feedback.id, String::new(), feedback.created_ms - 2).await.unwrap());

    assert_eq!(ledger.purge_before(first.call.created_ms).await.unwrap().calls, 1);
    assert_eq!(ledger.calls(&filter).await.unwrap().0, [first]);
}

async fn stumbles(place: Place) {
    let ledger = place.open().await;
    let nowhere = CallId::Chat(ChatId::fresh());
    let orphan = || ledger.finish(nowhere, vec![record(0, Output::Text("x".into()))], &[]);
    for _ in 0..3 {
        let (refused, kept) = tokio::join!(orphan(), answered(&ledger, "fine", None));
        assert!(matches!(refused, Err(ulm::store::LedgerError::Corrupt(_))), "{refused:?}");
        assert_eq!(ledger.call(kept.call.id).await.unwrap(), Some(kept));
    }
    assert!(ledger.is_up());
}

/// Many at once share commits, and each is there when it is acknowledged.
async fn shares(place: Place) {
    let ledger = place.open().await;
    let writers = (0..64).map(|i| {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            let kept = answered(&ledger, &format!("answer {i}"), None).await;
            assert_eq!(ledger.call(kept.call.id).await.unwrap(), Some(kept));
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert!(ledger.is_up());
}

/// Connections that are cut again and again lose nothing and double nothing.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs ULM_TEST_POSTGRES"]
async fn a_postgres_that_comes_and_goes_loses_and_doubles_nothing() {
    let place = Place::postgres().await;
    let ledger = place.open().await;
    let url = place.url.clone().unwrap();
    let cutter = tokio::spawn(async move {
        let pool = sqlx::AnyPool::connect(&url).await.unwrap();
        let sql = "SELECT CAST(COUNT(pg_terminate_backend(pid)) AS BIGINT) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(40)).await;
            sqlx::query(sql).execute(&pool).await.unwrap();
        }
    });
    let mut kept = vec![];
    while !cutter.is_finished() {
        kept.push(answered_blindly(&ledger, kept.len()).await);
    }
    cutter.await.unwrap();
    assert!(kept.len() > 20, "{}", kept.len());
    for call in &kept {
        assert_eq!(ledger.call(call.call.id).await.unwrap().as_ref(), Some(call));
    }
    let stats = ledger.stats().await.unwrap();
    assert_eq!((stats.calls, stats.samples), (kept.len() as u64, kept.len() as u64));
}

/// An answer that is kept in one step; nothing is read.
async fn answered_blindly(ledger: &Ledger, number: usize) -> Kept {
    let parts = vec![Part::Text(format!("{number}?"))];
    let asked = Asked::Answer(Answer { system: None, turns: vec![Turn { role: Role::User, parts }] });
    let records = vec![record(0, Output::Text(format!("{number}")))];
    let kept = Kept { call: call(CallId::Chat(ChatId::fresh()), asked, None), records };
    ledger.append(kept.clone(), &[]).await.unwrap();
    kept
}

on_both!(
    what_is_kept_comes_back keeps,
    requests_are_listed_page_by_page lists,
    feedback_is_given_once_changed_and_withdrawn rates,
    what_is_forgotten_is_gone forgets,
    a_clock_that_goes_back_changes_no_order goes_back,
    a_bad_write_fails_alone stumbles,
    writers_share_commits shares
);

#[tokio::test]
async fn an_earlier_database_is_brought_up_to_date() {
    let place = Place::sqlite();
    let kept = drawn(&place.open().await, "a star", 1, None).await;
    let url = format!("sqlite://{}", place.file().to_str().unwrap().replace('#', "%23").replace('?', "%3f"));
    let pool = sqlx::AnyPool::connect(&url).await.unwrap();
    for sql in [
        "ALTER TABLE samples DROP COLUMN admitted_us",
        "ALTER TABLE samples DROP COLUMN first_token_us",
        "ALTER TABLE samples DROP COLUMN finished_us",
        "DROP TABLE round_events",
        "DROP TABLE job_metadata",
        "DROP TABLE jobs",
        "DROP TABLE files",
        "DROP TABLE trials",
        "DROP TABLE promotions",
        "DROP TABLE versions",
        "DROP TABLE rounds",
        "DROP INDEX feedback_by_time",
        "DELETE FROM _sqlx_migrations WHERE version > 1",
    ] {
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    pool.close().await;
    let found = place.open().await.call(kept.call.id).await.unwrap().unwrap();
    assert_eq!(found.records[0].sample.timings, Timings::default());
    assert_eq!(found.call, kept.call);
}

#[tokio::test]
async fn a_later_database_is_refused() {
    let place = Place::sqlite();
    drop(place.open().await);
    let url = format!("sqlite://{}", place.file().to_str().unwrap().replace('#', "%23").replace('?', "%3f"));
    let pool = sqlx::AnyPool::connect(&url).await.unwrap();
    let sql = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99, 'x', TRUE, x'00', 0)";
    sqlx::query(sql).execute(&pool).await.unwrap();
    pool.close().await;
    let error = open_error(&place.file()).await;
    assert!(error.contains("later version (99)") && error.contains("sqlite"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ledger.sqlite");
    std::fs::write(&file, "this is no database, and long enough to be looked at ".repeat(40)).unwrap();
    let error = open_error(&file).await;
    assert!(error.contains("ledger.sqlite") && error.contains("not a database"), "{error}");
}

async fn open_error(file: &Path) -> String {
    let dir = tempfile::tempdir().unwrap();
    match Ledger::sqlite(file, Blobs::folder(dir.path()).unwrap()).await {
        Ok(_) => panic!("opened"),
        Err(error) => error.to_string(),
    }
}
