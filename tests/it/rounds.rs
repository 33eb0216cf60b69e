//! Versions, promotions and rounds in the ledger: one body for both databases.

use ulm::domain::id::{RoundId, SampleId};
use ulm::domain::round::{KnownVersion, Round, RoundState};
use ulm::domain::sample::Version;
use ulm::store::{Fresh, Ledger, Move, Promoted};

use super::place::{Place, on_both};

pub fn version(digit: char) -> Version {
    Version(digit.to_string().repeat(64))
}

/// A version whose weights are kept.
pub async fn known(ledger: &Ledger, digit: char, parent: Option<Version>) -> (KnownVersion, Fresh) {
    let file = ledger.blobs().put(format!("weights {digit}").into_bytes()).await.unwrap();
    let known = KnownVersion {
        version: version(digit),
        parent,
        round: None,
        created_ms: 5,
        weights: Some(file.id().clone()),
        bytes: file.bytes() as i64,
        scores: "{}".into(),
        pinned: false,
    };
    ledger.know(known.clone(), std::slice::from_ref(&file)).await.unwrap();
    (known, file)
}

async fn promote(ledger: &Ledger, digit: char, after: i64) -> Promoted {
    ledger.promote(version(digit), after, "ann".into(), "it is better".into(), 7).await.unwrap()
}

async fn promotes(place: Place) {
    let ledger = place.open().await;
    assert_eq!(ledger.live().await.unwrap(), None);
    assert_eq!(promote(&ledger, 'a', 0).await, Promoted::Unknown);
    let (first, _) = known(&ledger, 'a', None).await;
    let (second, _) = known(&ledger, 'b', Some(version('a'))).await;
    assert_eq!(ledger.version(&version('b')).await.unwrap(), Some(second.clone()));
    assert_eq!(ledger.versions().await.unwrap(), [first.clone(), second.clone()]);
    // Known already: it stays as it is.
    ledger.know(KnownVersion { created_ms: 9, ..first.clone() }, &[]).await.unwrap();
    assert_eq!(ledger.version(&version('a')).await.unwrap(), Some(first.clone()));

    let Promoted::Live(live) = promote(&ledger, 'a', 0).await else { panic!("it is the first") };
    assert_eq!((live.number, &live.version, live.by.as_str()), (1, &version('a'), "ann"));
    assert_eq!(promote(&ledger, 'b', 0).await, Promoted::Lost(live.clone()));
    assert_eq!(promote(&ledger, 'b', 5).await, Promoted::Lost(live), "numbers have no gaps");
    // Of many at once one comes through.
    let all = futures_util::future::join_all((0..8).map(|_| promote(&ledger, 'b', 1))).await;
    assert_eq!(all.iter().filter(|one| matches!(one, Promoted::Live(_))).count(), 1, "{all:?}");
    assert!(matches!(promote(&ledger, 'a', 2).await, Promoted::Live(_)), "back again");
    let numbers: Vec<_> = ledger.promotions(9).await.unwrap().iter().map(|one| one.number).collect();
    assert_eq!((numbers, ledger.live().await.unwrap().unwrap().version), (vec![3, 2, 1], version('a')));
}

async fn sheds(place: Place) {
    let ledger = place.open().await;
    let mut files = vec![];
    for digit in ['a', 'b', 'c'] {
        files.push(known(&ledger, digit, None).await.0.weights.unwrap());
    }
    promote(&ledger, 'a', 0).await;
    assert!(ledger.pin(version('b'), true).await.unwrap() && !ledger.pin(version('d'), true).await.unwrap());
    let stats = ledger.stats().await.unwrap();
    assert_eq!((stats.files, stats.file_bytes, stats.weight_bytes), (0, 0, 27), "weights are counted apart");
    for (digit, shed) in [('a', false), ('b', false), ('c', true), ('d', false)] {
        assert_eq!(ledger.shed(version(digit)).await.unwrap(), shed, "{digit}");
    }
    assert_eq!(ledger.blobs().get(&files[0]).await.unwrap(), b"weights a");
    assert!(ledger.blobs().get(&files[2]).await.is_err());
    assert_eq!(ledger.version(&version('c')).await.unwrap().unwrap().weights, None, "its row stays");
    assert_eq!(ledger.stats().await.unwrap().weight_bytes, 18);
}

fn round() -> Round {
    Round {
        id: RoundId::fresh(),
        state: RoundState::Open,
        created_ms: 1,
        changed_ms: 1,
        by: "ann".into(),
        plan: r#"{"steps":3}"#.into(),
        since_ms: 0,
        until_ms: 1,
        base: None,
        candidate: None,
        report: None,
        paused: false,
    }
}

fn step(round: &Round, owner: &str, from: RoundState, to: RoundState) -> Move {
    let (owner, report) = (owner.to_owned(), None);
    Move { id: round.id, owner, from, to, base: None, candidate: None, report, now_ms: 50, tell: None }
}

async fn works(place: Place) {
    let ledger = place.open().await;
    let (first, second) = (round(), round());
    ledger.open_round(first.clone()).await.unwrap();
    ledger.open_round(second.clone()).await.unwrap();
    ledger.open_round(first.clone()).await.unwrap();
    assert_eq!(ledger.rounds(None, 9).await.unwrap(), [second.clone(), first.clone()]);
    assert_eq!(ledger.rounds(Some(second.id), 9).await.unwrap(), std::slice::from_ref(&first));

    let claim = async |owner: &str, now| ledger.claim_round(owner.into(), now, now + 10).await.unwrap().map(|r| r.id);
    assert_eq!(claim("one", 100).await, Some(first.id));
    assert_eq!(claim("two", 100).await, Some(second.id));
    assert_eq!(claim("three", 110).await, None, "both are held");
    assert_eq!(claim("one", 105).await, Some(first.id), "its own again");
    assert!(ledger.hold_round(first.id, "one".into(), 200).await.unwrap());
    assert!(!ledger.hold_round(first.id, "two".into(), 200).await.unwrap());
    assert_eq!(claim("three", 150).await, Some(second.id), "two let it go");

    use RoundState as S;
    assert!(ledger.move_round(step(&first, "one", S::Open, S::Judging)).await.is_err(), "no such way");
    let begun = Move { base: Some(version('a')), ..step(&first, "one", S::Open, S::Rolling) };
    assert!(!ledger.move_round(Move { owner: "two".into(), ..begun.clone() }).await.unwrap());
    assert!(ledger.move_round(begun.clone()).await.unwrap());
    assert!(ledger.move_round(begun).await.unwrap(), "written twice it is the same");
    assert!(!ledger.move_round(step(&first, "one", S::Training, S::Judging)).await.unwrap(), "not where it is");
    assert!(ledger.move_round(step(&first, "one", S::Rolling, S::Training)).await.unwrap());
    let made = Move { candidate: Some(version('b')), ..step(&first, "one", S::Training, S::Judging) };
    assert!(ledger.move_round(made).await.unwrap());
    let judged = Move { report: Some("{}".into()), ..step(&first, "one", S::Judging, S::Refused) };
    assert!(ledger.move_round(judged).await.unwrap());
    let found = ledger.round(first.id).await.unwrap().unwrap();
    assert_eq!((found.state, found.base, found.candidate), (S::Refused, Some(version('a')), Some(version('b'))));
    assert_eq!(found.report.as_deref(), Some("{}"));

    assert!(ledger.cancel_round(second.id, 60).await.unwrap() && !ledger.cancel_round(second.id, 61).await.unwrap());
    assert!(!ledger.hold_round(second.id, "three".into(), 300).await.unwrap(), "its worker learns of it");
    assert!(!ledger.move_round(step(&second, "three", S::Open, S::Rolling)).await.unwrap());
    assert_eq!(claim("one", 1000).await, None, "all have ended");

    let samples: Vec<_> = (0..1500).map(|_| SampleId::fresh()).collect();
    ledger.note_trained(version('b'), samples.clone()).await.unwrap();
    ledger.note_trained(version('b'), samples).await.unwrap();
}

on_both!(
    of_promotions_at_once_one_wins promotes,
    weights_that_nobody_needs_go sheds,
    a_round_is_one_workers_at_a_time works
);
