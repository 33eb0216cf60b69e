//! Trials in the ledger, and what is said of a version: one body for both databases.

use std::collections::BTreeMap;
use std::time::Duration;

use ulm::domain::id::{CallId, FeedbackId, ImagesId, RoundId, SampleId};
use ulm::domain::record::{Asked, By, Call, Opinion, Record};
use ulm::domain::round::{Round, RoundState};
use ulm::domain::sample::{Finish, Output, Sample, Timings, Version};
use ulm::domain::task::{Draw, Sampling};
use ulm::domain::trial::{Share, Terms, Trial, TrialState};
use ulm::store::{Beginning, Begun, Ending, Kept, Ledger, Move, Order, Promoted, Rated, Rating, Said, Settled, Target};

use super::place::{Place, on_both};
use super::rounds::{known, version};

fn beginning(digit: char, after: i64, round: Option<RoundId>) -> Beginning {
    let terms = Terms { share: Share::TENTH, votes: 50, time_ms: 1000 };
    let (by, why) = ("round x".to_owned(), "the score rose".to_owned());
    Beginning { version: version(digit), after, terms, by, why, round, now_ms: 10 }
}

fn ending(trial: &Trial, state: TrialState) -> Ending {
    let promoter = Some("canary".to_owned());
    Ending { number: trial.number, state, said: "so it is".into(), promoter, now_ms: 20 }
}

fn running(begun: Begun) -> Trial {
    let Begun::Running(trial) = begun else { panic!("{begun:?}") };
    trial
}

/// A round that waits for the trial of its candidate.
async fn waiting(ledger: &Ledger) -> RoundId {
    let round = Round::open("ann".into(), "{}".into(), 0, 1);
    ledger.open_round(round.clone()).await.unwrap();
    assert_eq!(ledger.claim_round("one".into(), 5, 1000).await.unwrap().map(|found| found.id), Some(round.id));
    use RoundState as S;
    for way in [S::Open, S::Rolling, S::Training, S::Judging, S::Trying].windows(2) {
        let step = Move {
            id: round.id,
            owner: "one".into(),
            from: way[0],
            to: way[1],
            base: None,
            candidate: None,
            report: None,
            now_ms: 5,
            tell: None,
        };
        assert!(ledger.move_round(step).await.unwrap());
    }
    assert_eq!(ledger.claim_round("two".into(), 5000, 6000).await.unwrap(), None, "nobody works on it");
    round.id
}

async fn tries(place: Place) {
    let ledger = place.open().await;
    for digit in ['a', 'b', 'c'] {
        known(&ledger, digit, None).await;
    }
    assert!(matches!(
        ledger.promote(version('a'), 0, "ann".into(), String::new(), 7).await.unwrap(),
        Promoted::Live(_)
    ));
    assert_eq!(ledger.begin_trial(beginning('d', 1, None)).await.unwrap(), Begun::Unknown);
    assert_eq!(ledger.begin_trial(beginning('b', 0, None)).await.unwrap(), Begun::Lost, "not the last promotion");

    // Of many at once one begins, and of many that would end it one does; its round ends with it.
    let round = waiting(&ledger).await;
    let other = place.open().await;
    let both = |n: usize| if n.is_multiple_of(2) { &ledger } else { &other };
    let all = (0..8).map(|n| both(n).begin_trial(beginning(if n < 4 { 'b' } else { 'c' }, 1, Some(round))));
    let all: Vec<Begun> = futures_util::future::join_all(all).await.into_iter().map(Result::unwrap).collect();
    let mut begun = all.iter().filter(|one| matches!(one, Begun::Running(_)));
    let (trial, None) = (running(begun.next().unwrap().clone()), begun.next()) else { panic!("{all:?}") };
    assert_eq!((trial.number, trial.state, trial.until_ms()), (1, TrialState::Running, 1010));
    assert_eq!(ledger.running_trials().await.unwrap(), std::slice::from_ref(&trial));
    assert_eq!(ledger.trial_of(round).await.unwrap().as_ref(), Some(&trial));
    assert!(!ledger.shed(trial.version.clone()).await.unwrap(), "its weights are needed");
    let ends = (0..8).map(|n| both(n).settle_trial(ending(&trial, TrialState::Promoted)));
    let ends: Vec<Settled> = futures_util::future::join_all(ends).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(ends.iter().filter(|end| **end == Settled::Ended(TrialState::Promoted)).count(), 1, "{ends:?}");
    let live = ledger.live().await.unwrap().unwrap();
    assert_eq!(
        (live.number, &live.version, live.by.as_str(), live.why.as_str()),
        (2, &trial.version, "canary", "so it is")
    );
    assert_eq!(ledger.round(round).await.unwrap().unwrap().state, RoundState::Promoted);
    assert_eq!(ledger.running_trials().await.unwrap(), []);

    // Withdrawn, its round is refused and nothing is promoted.
    let round = waiting(&ledger).await;
    let trial = running(ledger.begin_trial(beginning('a', 2, Some(round))).await.unwrap());
    let withdrawn = ledger.settle_trial(ending(&trial, TrialState::Withdrawn)).await.unwrap();
    assert_eq!((withdrawn, trial.number), (Settled::Ended(TrialState::Withdrawn), 2));
    assert_eq!(ledger.settle_trial(ending(&trial, TrialState::Promoted)).await.unwrap(), Settled::Lost);
    assert_eq!(ledger.round(round).await.unwrap().unwrap().state, RoundState::Refused);
    assert_eq!(ledger.live().await.unwrap().unwrap().number, 2);

    // A promotion by hand comes first: what would have been promoted is overtaken.
    let trial = running(ledger.begin_trial(beginning('a', 2, None)).await.unwrap());
    ledger.promote(version('c'), 2, "ann".into(), String::new(), 7).await.unwrap();
    let overtaken = ledger.settle_trial(ending(&trial, TrialState::Promoted)).await.unwrap();
    assert_eq!(overtaken, Settled::Ended(TrialState::Overtaken));
    assert_eq!(ledger.live().await.unwrap().unwrap().version, version('c'));

    // One who cancels a round cancels the trial of its candidate.
    let round = waiting(&ledger).await;
    running(ledger.begin_trial(beginning('a', 3, Some(round))).await.unwrap());
    assert!(ledger.cancel_round(round, 60).await.unwrap());
    let last = ledger.trials(1).await.unwrap().pop().unwrap();
    assert_eq!((last.number, last.state), (4, TrialState::Withdrawn));
    assert!(ledger.shed(version('a')).await.unwrap(), "nobody needs it");
}

/// A picture that `version` drew for somebody, with what a rater says of it.
async fn drawn(ledger: &Ledger, version: &Version, at_ms: i64, person: Option<&str>, rater: Option<&str>, up: bool) {
    let file = ledger.blobs().put(b"a picture".to_vec()).await.unwrap();
    let id = SampleId::fresh();
    let sample = Sample {
        tokens: vec![1],
        log_probs: vec![-0.5],
        conditional_log_probs: vec![-0.5],
        seed: 1,
        version: version.clone(),
        finish: Finish::Stop,
        output: Output::Picture(file.id().clone()),
        timings: Timings { admitted: Duration::ZERO, first_token: Duration::ZERO, finished: Duration::ZERO },
    };
    let call = Call {
        id: CallId::Images(ImagesId::fresh()),
        created_ms: at_ms,
        asked: Asked::Draw(Draw { prompt: "a star".into() }),
        model: "ulm".into(),
        version: version.clone(),
        config: "c0".into(),
        prompt_tokens: 1,
        by: By { person: person.map(str::to_owned), key: "k".into() },
        metadata: BTreeMap::new(),
    };
    let record = Record { id, at: 0, sampling: Sampling::default(), sample, millis: 1 };
    ledger.append(Kept { call, records: vec![record] }, std::slice::from_ref(&file)).await.unwrap();
    let rating = Rating {
        target: Target::Sample(id),
        opinion: Said::Other(Opinion::Thumb(up)),
        id: FeedbackId::fresh(),
        client_key: None,
        rater: rater.map(str::to_owned),
        key: "k".into(),
        metadata: BTreeMap::new(),
        created_ms: at_ms + 1,
    };
    assert!(matches!(ledger.rate(rating, &[]).await.unwrap(), Rated::New(_)));
}

async fn remarks(place: Place) {
    let ledger = place.open().await;
    let (a, b) = (version('a'), version('b'));
    drawn(&ledger, &a, 5, Some("ann"), None, true).await;
    drawn(&ledger, &a, 10, Some("ann"), Some("bob"), false).await;
    drawn(&ledger, &b, 10, None, None, true).await;
    drawn(&ledger, &a, 20, None, None, true).await;
    let found = async |version: &Version, asked, between, order, limit| {
        let found = ledger.remarks(version, asked, between, order, limit).await.unwrap();
        found.into_iter().map(|one| (one.rater, one.opinion.value())).collect::<Vec<_>>()
    };
    let one = |rater: &str, value: f64| (rater.to_owned(), Some(value));
    let all = [one("ann", 1.0), one("bob", 0.0), one("key k", 1.0)];
    assert_eq!(found(&a, 0, [0, 100], Order::Oldest, 9).await, all);
    assert_eq!(found(&a, 0, [0, 100], Order::Newest, 2).await, [all[2].clone(), all[1].clone()]);
    assert_eq!(found(&a, 5, [6, 11], Order::Oldest, 9).await, [all[1].clone()]);
    assert_eq!(found(&b, 0, [0, 100], Order::Oldest, 9).await, [one("key k", 1.0)]);
}

on_both!(
    of_those_who_begin_or_end_a_trial_one_does tries,
    what_is_said_of_a_version_is_found remarks
);
