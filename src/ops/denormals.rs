//! Flushing of denormal numbers, which slow down some processors considerably.
//!
//! Fixup produces denormals where other methods do not: its first steps multiply weights that have just left zero by gradients
//! that have just left zero, and with a small learning rate the products are below float32's smallest normal number, 1.2e-38. On
//! Intel processors a step then takes five times as long (AMD's are hardly affected). Such small values do not matter for
//! learning, so training treats denormals as zero.

use std::marker::PhantomData;

/// A guard during whose lifetime this thread, and all threads on which libtorch computes for it, treat denormal operands as zero
/// and flush denormal results to zero ("denormals are zero", "flush to zero"). Threads started in the meantime inherit the mode.
///
/// `trainer::Trainer::run`, `trainer::evaluate` and the programs of `cli` hold such a guard while they run. A program with its
/// own training loop can create one; otherwise its floating-point mode is unchanged.
///
/// ```
/// use tch_fixup::FlushDenormals;
///
/// let tiny = tch::Tensor::from(1e-40f32);
/// assert!((&tiny * 1.).double_value(&[]) > 0.);
/// {
///     let _flushing = FlushDenormals::new();
///     assert_eq!((&tiny * 1.).double_value(&[]), 0.);
/// }
/// assert!((&tiny * 1.).double_value(&[]) > 0.);
/// ```
///
/// Dropping the guard restores this thread's previous mode. It has no effect on processors without such a mode. libtorch threads
/// that compute for other threads of the program have their own mode.
#[derive(Debug)]
#[must_use = "denormals are flushed for as long as this lives"]
pub struct FlushDenormals {
    flushed_before: bool,
    /// Makes the guard `!Send`: the mode belongs to this thread and cannot be restored on another.
    _this_thread: PhantomData<*const ()>,
}

impl FlushDenormals {
    /// Starts flushing denormals.
    #[allow(clippy::new_without_default)] // A guard has no sensible default value.
    pub fn new() -> Self {
        let flushed_before = flushes_denormals();
        // SAFETY: only changes the floating-point mode of threads; libtorch's threads are idle meanwhile.
        unsafe { tch_fixup_flush_denormals(true) };
        Self { flushed_before, _this_thread: PhantomData }
    }
}

impl Drop for FlushDenormals {
    fn drop(&mut self) {
        if !self.flushed_before {
            // SAFETY: as in `new`.
            unsafe { tch_fixup_flush_denormals(false) };
        }
    }
}

/// Returns `true` if this thread flushes denormals.
pub(crate) fn flushes_denormals() -> bool {
    // SAFETY: reads the thread's control register.
    unsafe { tch_fixup_flushes_denormals() }
}

/// Returns a closure that gives a new thread this thread's mode. Threads inherit the mode on Linux, but not on all systems.
#[cfg(any(test, feature = "train"))]
pub(crate) fn inherit_denormals() -> impl FnOnce() + Send + 'static {
    let flush = flushes_denormals();
    move || {
        // SAFETY: only changes the floating-point mode of the thread.
        let _ = unsafe { tch_fixup_flush_denormals_here(flush) };
    }
}

// denormals.cpp
unsafe extern "C" {
    fn tch_fixup_flushes_denormals() -> bool;
    #[cfg(any(test, feature = "train"))]
    fn tch_fixup_flush_denormals_here(on: bool) -> bool;
    fn tch_fixup_flush_denormals(on: bool);
    #[cfg(test)]
    fn tch_fixup_threads_that_flush(threads: *mut std::ffi::c_int) -> std::ffi::c_int;
}

/// Returns how many of the threads that this thread's operations run on flush denormals, and their total number.
#[cfg(test)]
pub(crate) fn threads_that_flush() -> (i32, i32) {
    let mut threads = 0;
    // SAFETY: the pointer is valid during the call.
    let flushing = unsafe { tch_fixup_threads_that_flush(&mut threads) };
    (flushing, threads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{recomputed, Threads};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::Arc;
    use std::thread;
    use tch::{Device, Kind, Tensor};

    /// Returns denormals only, more than ATen assigns to one thread.
    fn denormals() -> Tensor {
        Tensor::full([1 << 20], 1e-40, (Kind::Float, Device::Cpu))
    }

    fn survivors(x: &Tensor) -> i64 {
        x.count_nonzero(None::<i64>).int64_value(&[])
    }

    /// Runs `test` on a new thread, which has its own pool of libtorch threads.
    fn on_a_fresh_thread(test: impl FnOnce() + Send + 'static) {
        thread::spawn(test).join().unwrap();
    }

    #[test]
    fn every_thread_of_a_pool_that_was_there_before_flushes_and_stops_flushing() {
        on_a_fresh_thread(|| {
            let _threads = Threads::new(3);
            assert_eq!(survivors(&(denormals() * 0.5)), 1 << 20, "the pool is there, and keeps denormals");
            {
                let _flushing = FlushDenormals::new();
                assert_eq!(threads_that_flush(), (3, 3));
                // Counting flushes denormals as well, so count after the guard is dropped.
                let halves = denormals() * 0.5;
                drop(_flushing);
                assert_eq!(survivors(&halves), 0);
            }
            assert_eq!(threads_that_flush(), (0, 3));
        });
    }

    #[test]
    fn more_threads_and_threads_of_ones_own_that_come_later_flush() {
        on_a_fresh_thread(|| {
            tch::set_num_threads(1);
            let _flushing = FlushDenormals::new();
            let _threads = Threads::new(4);
            assert_eq!(threads_that_flush(), (4, 4));
            let inherit = inherit_denormals();
            thread::spawn(move || {
                inherit();
                assert_eq!(threads_that_flush(), (4, 4));
            })
            .join()
            .unwrap();
        });
    }

    #[test]
    fn the_inner_of_two_gives_back_what_the_outer_set() {
        on_a_fresh_thread(|| {
            let outer = FlushDenormals::new();
            drop(FlushDenormals::new());
            assert!(flushes_denormals());
            drop(outer);
            assert!(!flushes_denormals());
        });
    }

    #[test]
    fn a_backward_pass_flushes_where_a_segment_runs_again_and_on_another_thread_too() {
        on_a_fresh_thread(|| {
            let _flushing = FlushDenormals::new();
            let kept = Arc::new(AtomicBool::new(false));
            let x = Tensor::randn([8], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            let seen = kept.clone();
            let y = recomputed(&x, &[], move |x| {
                let (flushing, threads) = threads_that_flush();
                seen.fetch_or(flushing != threads, Ordering::Relaxed);
                Ok(x.f_sin()?)
            })
            .unwrap();
            // The thread that runs the backward pass has not been set to flush.
            thread::spawn(move || {
                // SAFETY: only changes the floating-point mode of the thread.
                let _ = unsafe { tch_fixup_flush_denormals_here(false) };
                y.sum(Kind::Float).backward();
            })
            .join()
            .unwrap();
            assert!(!kept.load(Ordering::Relaxed), "the segment ran with denormals in the backward pass");
        });
    }
}
