//! Many equal writes, carefully: 1, then 2, then 4 at once, stopping at the first batch with a failure.
//!
//! A thousand creates that a quota would all refuse cost one refused call; a thousand that succeed take ten rounds.

use std::future::Future;

use futures_util::future::join_all;

/// Runs `work(0..count)` in doubling batches. Returns what succeeded and, if a batch failed, its first error; later batches are not tried.
pub async fn slow_start<T, E, F, R>(count: usize, work: F) -> (Vec<T>, Option<E>)
where
    F: Fn(usize) -> R,
    R: Future<Output = Result<T, E>>,
{
    let mut succeeded = Vec::with_capacity(count);
    let (mut next, mut batch) = (0, 1);
    while next < count {
        let end = (next + batch).min(count);
        let mut failure = None;
        for outcome in join_all((next..end).map(&work)).await {
            match outcome {
                Ok(value) => succeeded.push(value),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if failure.is_some() {
            return (succeeded, failure);
        }
        (next, batch) = (end, batch * 2);
    }
    (succeeded, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn does_everything_when_nothing_fails() {
        let (done, error) = slow_start(100, async |index| Ok::<_, ()>(index)).await;
        assert_eq!((done, error), ((0..100).collect(), None));
    }

    #[tokio::test]
    async fn the_first_failure_ends_it_after_its_batch() {
        let (done, error) = slow_start(100, async |index| if index == 3 { Err(index) } else { Ok(index) }).await;
        assert_eq!((done, error), (vec![0, 1, 2, 4, 5, 6], Some(3)));
    }
}
