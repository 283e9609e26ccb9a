//! A stream with a time limit.

use std::{future::Future as _, task::Poll};

use futures::Stream;
use tokio::time::Instant;

/// What `stream` gives; once it is `until` and there is nothing more to give
/// yet, what `late` says.
pub fn limited<T, E>(
    stream: impl Stream<Item = Result<T, E>>,
    until: Option<Instant>,
    late: impl Fn() -> E,
) -> impl Stream<Item = Result<T, E>> {
    let mut stream = Box::pin(stream);
    let mut timer = until.map(|until| Box::pin(tokio::time::sleep_until(until)));
    futures::stream::poll_fn(move |context| match (stream.as_mut().poll_next(context), &mut timer) {
        (Poll::Pending, Some(timer)) => timer.as_mut().poll(context).map(|()| Some(Err(late()))),
        (given, _) => given,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_there_in_time_is_given_and_then_what_late_says() {
        let numbers = futures::stream::iter([Ok(1), Ok(2)]).chain(futures::stream::pending());
        let until = Instant::now() + Duration::from_secs(1);
        let mut numbers = Box::pin(limited(numbers, Some(until), || "late"));
        assert_eq!(numbers.next().await, Some(Ok(1)));
        assert_eq!(numbers.next().await, Some(Ok(2)));
        assert!(Instant::now() < until);
        assert_eq!(numbers.next().await, Some(Err("late")));
        assert!(Instant::now() >= until);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_ends_in_time_just_ends() {
        let until = Instant::now() + Duration::from_secs(1);
        let mut numbers = Box::pin(limited(futures::stream::iter([Ok::<_, ()>(1)]), Some(until), || ()));
        assert_eq!(numbers.next().await, Some(Ok(1)));
        assert_eq!(numbers.next().await, None);
    }
}
