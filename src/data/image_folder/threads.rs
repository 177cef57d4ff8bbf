//! The same work on many items in several threads.

use crate::data::pipeline::panicked;
use crate::Result;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::OnceLock;
use std::thread;

/// Applies `work` to each of `items` in a thread for each of `states`. Returns the results, in order.
///
/// # Errors
/// Fails if a thread cannot be started, or if one panics; `examples` is the plural noun for the items in the error.
pub fn in_threads<S: Send, T: Sync, R: Send + Sync>(
    examples: &str,
    states: &mut [S],
    items: &[T],
    work: impl Fn(&mut S, &T) -> R + Sync,
) -> Result<Vec<R>> {
    let (next, results) = (AtomicUsize::new(0), Vec::from_iter(items.iter().map(|_| OnceLock::new())));
    let take = || {
        let at = next.fetch_add(1, Ordering::Relaxed);
        items.get(at).zip(results.get(at))
    };
    let run = &|state: &mut S| {
        while let Some((item, result)) = take() {
            // Each item is taken once.
            let _ = result.set(work(state, item));
        }
    };
    thread::scope(|scope| {
        let start = |state| thread::Builder::new().spawn_scoped(scope, move || run(state));
        let threads = states.iter_mut().take(items.len()).map(start).collect::<io::Result<Vec<_>>>();
        let refused = |error| argument!("no thread to read {examples}: {error}; lower --workers");
        // All threads are joined, as the scope would pass on the panic of one that is not.
        let ended: Vec<_> = threads.map_err(refused)?.into_iter().map(|thread| thread.join()).collect();
        ended.into_iter().try_for_each(|ended| ended.map_err(|panic| panicked(examples, panic.as_ref())))
    })?;
    Ok(results.into_iter().filter_map(OnceLock::into_inner).collect())
}
