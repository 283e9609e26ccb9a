//! After a crash the backlog drains by itself, and nobody who asks waits behind it. How fast is measured by
//! `cargo bench --bench recovery`; here reads are counted.

mod backlog;

use std::time::Duration;

use crate::recovery::backlog::Backlog;

const IN_DOUBT: usize = 500;
const AT_ONCE: usize = 8;
const RETRIES: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_in_doubt_at_a_crash_settles_by_one_read_each_and_a_retry_jumps_the_queue() {
    let backlog = Backlog::build(IN_DOUBT).await;
    let (_life, _) = backlog.restart(Duration::from_millis(50), AT_ONCE).await;
    // The last ones: by the schedule they would be read after all others.
    let last = IN_DOUBT - RETRIES..IN_DOUBT;
    for n in last.clone() {
        backlog.retry(n).await;
    }
    assert!(backlog.is_open().await, "nothing was left to wait for");
    while backlog.is_open().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let reads = backlog.reads().await;
    assert_eq!(reads.len(), IN_DOUBT, "one read each");
    let at = |n: usize| reads.iter().position(|read| *read == backlog.asked[n].1).unwrap();
    assert!(at(0) < 2 * AT_ONCE, "the longest in doubt was read as number {}", at(0));
    for n in last {
        assert!(at(n) < IN_DOUBT - 2 * RETRIES, "{n} was read as number {}", at(n));
    }
    assert_eq!(backlog.effects().await, IN_DOUBT);
    for n in (0..IN_DOUBT).step_by(50) {
        assert!(backlog.is_settled(n).await);
    }
}
