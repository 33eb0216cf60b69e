//! Uploaded files, jobs and what is told of a round, in the ledger: one body for both databases.

use std::collections::BTreeMap;

use ulm::domain::id::{EventId, FileId, RoundId};
use ulm::domain::job::{File, Job, Level, RoundEvent};
use ulm::domain::round::{Round, RoundState};
use ulm::store::{FileFilter, Ledger, Move, Opened, Order};

use super::place::{Place, on_both};

async fn add(ledger: &Ledger, text: &str, expires_ms: Option<i64>, again: Option<i64>) -> File {
    let fresh = ledger.blobs().put(text.as_bytes().to_vec()).await.unwrap();
    let file = File {
        id: FileId::fresh(),
        created_ms: 100,
        key: "key".into(),
        name: "rows.jsonl".into(),
        purpose: "fine-tune".into(),
        blob: fresh.id().clone(),
        bytes: fresh.bytes() as i64,
        expires_ms,
    };
    ledger.add_file(file, &fresh, again).await.unwrap()
}

fn filter(order: Order, after: Option<FileId>, limit: u32) -> FileFilter {
    FileFilter { purpose: None, order, after, limit }
}

async fn keeps(place: Place) {
    let ledger = place.open().await;
    let (first, second) = (add(&ledger, "{}", None, None).await, add(&ledger, "{\"a\": 1}", Some(500), None).await);
    let twin = add(&ledger, "{}", None, None).await;
    assert_eq!(add(&ledger, "{}", None, Some(50)).await.id, first.id, "it came again");
    assert_ne!(add(&ledger, "{}", None, Some(101)).await.id, first.id, "too late to be the same");
    assert_eq!(ledger.file(second.id, 400).await.unwrap(), Some(second.clone()));
    assert_eq!(ledger.file(second.id, 500).await.unwrap(), None, "its time is over");
    let (page, more) = ledger.files(&filter(Order::Oldest, None, 2), 400).await.unwrap();
    assert_eq!((page, more), (vec![first.clone(), second.clone()], true));
    let (page, _) = ledger.files(&filter(Order::Oldest, Some(first.id), 9), 500).await.unwrap();
    assert_eq!(page[0].id, twin.id, "what has expired is not listed");
    let (page, more) = ledger.files(&filter(Order::Newest, Some(twin.id), 9), 400).await.unwrap();
    assert_eq!((page, more), (vec![second.clone(), first.clone()], false));
    let other = FileFilter { purpose: Some("evals".into()), ..filter(Order::Oldest, None, 9) };
    assert!(ledger.files(&other, 400).await.unwrap().0.is_empty());

    let stats = ledger.stats().await.unwrap();
    assert_eq!((stats.files, stats.file_bytes, stats.uploads), (0, 0, 4), "they are counted apart");
    assert!(ledger.delete_file(first.id).await.unwrap() && !ledger.delete_file(first.id).await.unwrap());
    assert!(ledger.blobs().get(&first.blob).await.is_ok(), "others of the same bytes hold them");
    assert_eq!((ledger.expire_files(499).await.unwrap(), ledger.expire_files(500).await.unwrap()), (0, 1));
    assert!(ledger.blobs().get(&second.blob).await.is_err());
}

fn job(digest: &str, notes: &[(&str, &str)]) -> Job {
    let mut round = Round::open("ann".into(), "{}".into(), 0, 100);
    round.until_ms = 0;
    let metadata: BTreeMap<_, _> = notes.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Job { round, asked: r#"{"model":"m"}"#.into(), metadata, key: "key".into(), digest: digest.into() }
}

async fn opens(place: Place) {
    let ledger = place.open().await;
    let file = add(&ledger, "{\"prompt\": \"x\"}", None, None).await;
    let held = Some((file.id, file.blob.clone()));
    let (first, second) = (job("d", &[("app", "x")]), job("e", &[]));
    assert_eq!(ledger.open_job(first.clone(), held.clone(), None).await.unwrap(), Opened::New);
    assert_eq!(ledger.open_job(first.clone(), held.clone(), Some(0)).await.unwrap(), Opened::New, "written twice");
    assert_eq!(ledger.open_job(job("d", &[]), held.clone(), Some(50)).await.unwrap(), Opened::Before(first.id()));
    assert_eq!(ledger.open_job(second.clone(), None, Some(50)).await.unwrap(), Opened::New);
    assert_eq!(ledger.job(first.id()).await.unwrap(), Some(first.clone()));
    assert_eq!(ledger.round(first.round.id).await.unwrap(), Some(first.round.clone()), "a job is a round");
    let list = async |before, limit, notes: &[(&str, &str)]| {
        let notes = notes.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        ledger.jobs(before, limit, &notes).await.unwrap()
    };
    assert_eq!(list(None, 1, &[]).await, (vec![second.clone()], true));
    assert_eq!(list(Some(second.id()), 9, &[]).await, (vec![first.clone()], false));
    assert_eq!(list(None, 9, &[("app", "x")]).await, (vec![first.clone()], false));
    assert!(list(None, 9, &[("app", "y")]).await.0.is_empty());
    assert_eq!(ledger.learned_until().await.unwrap(), 0);

    // The bytes stay until the job has ended.
    assert!(ledger.delete_file(file.id).await.unwrap());
    assert_eq!(ledger.open_job(job("f", &[]), held, None).await.unwrap(), Opened::NoFile);
    assert_eq!(ledger.jobs(None, 9, &BTreeMap::new()).await.unwrap().0.len(), 2);
    assert!(ledger.blobs().get(&file.blob).await.is_ok());
    let claimed = ledger.claim_round("one".into(), 200, 300).await.unwrap().unwrap();
    assert_eq!(claimed.id, first.round.id);
    let end = Move {
        id: claimed.id,
        owner: "one".into(),
        from: RoundState::Open,
        to: RoundState::Failed,
        base: None,
        candidate: None,
        report: None,
        now_ms: 210,
        tell: Some(RoundEvent::say(claimed.id, 210, Level::Error, "it failed".into())),
    };
    assert!(ledger.move_round(end.clone()).await.unwrap() && ledger.move_round(end).await.unwrap());
    let (told, _) = ledger.events(claimed.id, None, 9).await.unwrap();
    assert_eq!(told.iter().map(|event| event.message.as_str()).collect::<Vec<_>>(), ["it failed"], "once");
    assert!(ledger.blobs().get(&file.blob).await.is_err());
}

async fn pauses(place: Place) {
    let ledger = place.open().await;
    let round = job("d", &[]);
    let id = round.round.id;
    ledger.open_job(round, None, None).await.unwrap();
    let claim = async |owner: &str, now| ledger.claim_round(owner.into(), now, now + 10).await.unwrap().is_some();
    assert!(!ledger.resume_round(id, 0).await.unwrap(), "it is not paused");
    assert!(ledger.pause_round(id).await.unwrap() && !ledger.pause_round(id).await.unwrap());
    assert!(!claim("one", 100).await && ledger.round(id).await.unwrap().unwrap().paused);
    assert!(ledger.resume_round(id, 500).await.unwrap() && claim("one", 100).await, "nobody has its checkpoint");
    assert!(ledger.pause_round(id).await.unwrap());
    assert!(!ledger.hold_round(id, "one".into(), 300).await.unwrap(), "its worker learns of it");
    assert!(ledger.resume_round(id, 500).await.unwrap());
    assert!(!claim("two", 400).await && claim("one", 400).await, "its last worker comes first");
    assert!(ledger.pause_round(id).await.unwrap() && ledger.cancel_round(id, 600).await.unwrap());
    assert!(!ledger.pause_round(id).await.unwrap() && !ledger.resume_round(id, 0).await.unwrap());
    assert!(!ledger.pause_round(RoundId::fresh()).await.unwrap());
}

async fn tells(place: Place) {
    let ledger = place.open().await;
    let round = job("d", &[]);
    let id = round.round.id;
    ledger.open_job(round, None, None).await.unwrap();
    let step = |number: i64, data: &str| RoundEvent {
        id: EventId::fresh(),
        round: id,
        at_ms: 5,
        level: Level::Info,
        message: format!("step {number}"),
        step: Some(number),
        data: Some(data.to_owned()),
    };
    let begun = RoundEvent::say(id, 1, Level::Warn, "begun".into());
    let all = [begun.clone(), step(1, "{}"), step(2, "{}")];
    for event in all.iter().chain([&step(2, "again"), &all[1]]) {
        ledger.tell(event.clone()).await.unwrap();
    }
    let (page, more) = ledger.events(id, None, 2).await.unwrap();
    assert_eq!((page.as_slice(), more), ([all[2].clone(), all[1].clone()].as_slice(), true));
    assert_eq!(ledger.events(id, Some(page[1].id), 2).await.unwrap(), (vec![begun], false));
    assert_eq!(ledger.last_step(id).await.unwrap(), Some(all[2].clone()));
    assert_eq!(ledger.last_step(RoundId::fresh()).await.unwrap(), None);
}

on_both!(
    files_are_kept_listed_and_gone_in_time keeps,
    a_job_is_opened_once_and_holds_its_file opens,
    a_paused_round_is_nobodys pauses,
    steps_are_told_once tells
);
