//! Whether the journal that is opened is the one that was written last.

use std::fs;
use std::time::Duration;

use payops::journal::entry::{Event, State};
use payops::journal::{Error, Journal as _, Terms, embedded};

use super::{NOW, Place, change, copy, insert, minted, not_sent, proven, started};

#[tokio::test]
async fn an_empty_folder_is_a_loss_unless_it_is_said_to_be_new() {
    let mut place = Place::new();
    assert_eq!(place.open().loss(), None);
    // The beginning is over: the journal knows so itself.
    place.settings.terms.new = false;
    assert_eq!(place.open().loss(), None);

    let mut lost = Place::new();
    lost.settings.terms.new = false;
    let loss = lost.open().loss().unwrap();
    assert_eq!((loss.at, loss.quiet_until), (NOW, NOW + lost.settings.terms.loss_quiet));
    assert_eq!(loss.clock_leeway, lost.settings.terms.key_clock_leeway);
    // It is remembered, whatever is said afterwards.
    lost.clock.advance(Duration::from_hours(1));
    lost.settings.terms.new = true;
    assert_eq!(lost.open().loss().unwrap().at, NOW);
    // Until every key that may come back is refused for its age.
    lost.clock.advance(lost.settings.terms.retention.saturating_sub(Duration::from_hours(2)));
    assert!(lost.open().loss().is_some());
    lost.clock.advance(Duration::from_hours(1));
    assert_eq!(lost.open().loss(), None);
}

#[tokio::test]
async fn a_generation_below_the_configured_one_is_an_older_copy() {
    let mut place = Place::new();
    let later = NOW + Duration::from_hours(5);
    {
        let journal = place.open();
        for key in ["doubted", "accepted", "review", "done", "released"] {
            insert(&journal, &started(key, NOW)).await;
        }
        let find = async |key: &str| {
            journal.find(&"orders".parse().unwrap(), &key.parse().unwrap()).await.unwrap().unwrap()
        };
        let pushback = Event::Doubted { why: "HTTP 429".to_owned(), pushback: true, retry_after: None };
        change(&journal, &find("doubted").await, &pushback, NOW).await;
        change(&journal, &find("accepted").await, &Event::Accepted { request_id: None }, NOW).await;
        change(&journal, &find("review").await, &Event::Contradicted { why: "two".to_owned() }, NOW).await;
        change(&journal, &find("done").await, &proven(), NOW).await;
        change(&journal, &find("released").await, &not_sent(), NOW).await;
        insert(&journal, &started("sending", NOW)).await;
    }
    place.clock.advance(Duration::from_hours(5));
    place.settings.terms.generation = 2;
    let journal = place.open();
    assert_eq!(journal.loss().unwrap().at, later);
    let find = async |key: &str| {
        journal.find(&"orders".parse().unwrap(), &key.parse().unwrap()).await.unwrap().unwrap()
    };
    // A later attempt of what is open may be among what was lost.
    for key in ["doubted", "accepted", "review", "sending"] {
        let entry = find(key).await;
        assert_eq!(entry.fence_at, later + place.settings.terms.loss_fence, "{key}");
        assert!(
            entry.history.iter().any(|change| change.why.as_deref().is_some_and(|why| why.contains("lost")))
        );
    }
    // Two empty reads are enough for the attempt that was pushed back, not for a later one.
    assert!(matches!(find("doubted").await.state, State::InDoubt { pushback: false, .. }));
    assert!(matches!(find("sending").await.state, State::InDoubt { .. }));
    for key in ["done", "released"] {
        assert_eq!(find(key).await.fence_at, NOW + Duration::from_hours(4), "{key}");
    }
    drop(journal);
    // Once: the file has the generation now.
    place.clock.advance(Duration::from_hours(1));
    assert_eq!(place.open().loss().unwrap().at, later);
}

#[tokio::test]
async fn a_generation_above_the_configured_one_is_refused() {
    let mut place = Place::new();
    place.settings.terms.generation = 3;
    place.settings.terms.new = false;
    drop(place.open());
    place.settings.terms.generation = 2;
    let refused = place.refused();
    assert!(refused.contains("Set journal.generation = 3"), "{refused}");
    assert!(refused.contains(place.directory().to_str().unwrap()), "{refused}");
    // Not even when the file is gone and its mark is not.
    fs::remove_file(place.directory().join("journal.sqlite")).unwrap();
    assert!(place.refused().contains("Set journal.generation = 3"));
}

#[tokio::test]
async fn a_backup_is_a_loss_whatever_the_generation() {
    for generation in [1, 2] {
        let place = Place::new();
        let file = place.folder.path().join("backup");
        let entry = started("k", NOW);
        let journal = place.open();
        insert(&journal, &entry).await;
        embedded::backup(place.directory(), &file).unwrap();
        insert(&journal, &started("later", NOW)).await;
        drop(journal);

        let mut other = Place::new();
        other.settings.terms.generation = generation;
        fs::create_dir(other.directory()).unwrap();
        fs::copy(&file, other.directory().join("journal.sqlite")).unwrap();
        let stats = embedded::stats(other.directory()).unwrap();
        assert!(stats.is_backup && stats.lost_at.is_none());
        let journal = other.open();
        assert_eq!(journal.loss().unwrap().at, NOW);
        assert!(journal.get(entry.id).await.unwrap().is_some());
        drop(journal);
        // It is the journal now.
        other.clock.advance(Duration::from_hours(1));
        assert_eq!(other.open().loss().unwrap().at, NOW);
        assert!(!embedded::stats(other.directory()).unwrap().is_backup);
    }
}

/// What is beside the file tells on it: the commits that were acknowledged.
#[tokio::test]
async fn an_older_file_in_the_same_folder_is_noticed() {
    let mut place = Place::new();
    let older = place.folder.path().join("older");
    insert(&place.open(), &started("k", NOW)).await;
    copy(place.directory(), &older);
    insert(&place.open(), &started("later", NOW)).await;
    fs::copy(older.join("journal.sqlite"), place.directory().join("journal.sqlite")).unwrap();
    let refused = place.refused();
    assert!(
        refused.contains("were acknowledged") && refused.contains("set journal.generation = 2"),
        "{refused}"
    );
    // Said to be meant, it is a loss.
    place.settings.terms.generation = 2;
    assert!(place.open().loss().is_some());
}

#[tokio::test]
async fn a_file_that_is_gone_is_noticed_even_if_the_journal_is_said_to_be_new() {
    let mut place = Place::new();
    insert(&place.open(), &started("k", NOW)).await;
    fs::remove_file(place.directory().join("journal.sqlite")).unwrap();
    assert!(place.refused().contains("were acknowledged"));
    place.settings.terms = Terms { generation: 2, new: false, ..place.settings.terms };
    assert!(place.open().loss().is_some());
}

#[tokio::test]
async fn a_file_that_was_copied_by_hand_is_a_loss() {
    let place = Place::new();
    insert(&place.open(), &started("k", NOW)).await;
    let other = Place::new();
    fs::create_dir(other.directory()).unwrap();
    fs::copy(place.directory().join("journal.sqlite"), other.directory().join("journal.sqlite")).unwrap();
    assert!(other.open().loss().is_some());
}

#[tokio::test]
async fn a_log_without_its_file_is_refused() {
    let place = Place::new();
    let journal = place.open();
    insert(&journal, &started("k", NOW)).await;
    let crashed = Place::new();
    copy(place.directory(), crashed.directory());
    fs::remove_file(crashed.directory().join("journal.sqlite")).unwrap();
    assert!(crashed.refused().contains("missing or empty, and its log is there"));
}

#[tokio::test]
async fn a_log_that_was_deleted_is_noticed() {
    let place = Place::new();
    let journal = place.open();
    insert(&journal, &started("k", NOW)).await;
    let crashed = Place::new();
    copy(place.directory(), crashed.directory());
    fs::remove_file(crashed.directory().join("journal.sqlite-wal")).unwrap();
    let refused = crashed.refused();
    assert!(refused.contains("were acknowledged"), "{refused}");
}

#[tokio::test]
async fn a_journal_of_another_format_or_of_somebody_else_is_left_alone() {
    let place = Place::new();
    drop(place.open());
    let file = place.directory().join("journal.sqlite");
    let set = |pragma: &str, value: i32| {
        rusqlite::Connection::open(&file).unwrap().pragma_update(None, pragma, value).unwrap();
    };
    set("user_version", 4);
    let newer = place.try_open().err().unwrap();
    assert!(matches!(&newer, Error::Unavailable(why) if why.contains("a newer payops (format 4")), "{newer}");
    set("user_version", 1);
    assert!(place.refused().contains("an older payops (format 1"));
    set("user_version", 3);
    set("application_id", 7);
    assert!(place.refused().contains("not a journal of payops"));
}

/// The quiet is over, the loss is not: a key tells by its age whether it can have been lost.
#[tokio::test]
async fn a_key_of_after_the_loss_needs_no_look() {
    let mut place = Place::new();
    place.settings.terms.new = false;
    let loss = place.open().loss().unwrap();
    let (leeway, second) = (place.settings.terms.key_clock_leeway, Duration::from_secs(1));
    let now = NOW + Duration::from_hours(1);
    let is_after = |key: &str| loss.is_before(&key.parse().unwrap(), now);
    assert!(is_after(&minted(NOW + leeway + second)));
    assert!(!is_after(&minted(NOW + leeway)));
    assert!(!is_after(&minted(now + leeway + second)), "a date that no clock can have shown");
    assert!(!is_after("order-1001"));
}
