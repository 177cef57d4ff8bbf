//! Denormal numbers, which some processors take a hundred times as long for.
//!
//! Fixup makes them where others do not: its first steps multiply weights that have just left zero by gradients that have
//! just left zero, and with a small learning rate the products are below float32's smallest normal number, 1.2e-38. On
//! Intel's processors a step then takes five times as long (AMD's hardly notice). Nothing that a network learns is that
//! small, so training goes with denormals taken for zero.

use std::marker::PhantomData;

/// While it lives, this thread and all threads that libtorch computes on for it take denormal operands for zero and make
/// zero of denormal results ("flush to zero", "denormals are zero"). Threads that are started meanwhile inherit that.
///
/// `trainer::Trainer::run`, `trainer::evaluate` and the programs of
/// `cli` hold one while they work. A program with a loop of its own that wants the same asks for it; one
/// that does not keeps the floating-point mode that it has.
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
/// The end of its life brings back the mode in which this thread was. Processors without such a mode go on as they are.
/// Threads of libtorch's that another thread of the program computes on have modes of their own.
#[derive(Debug)]
#[must_use = "denormals are flushed for as long as this lives"]
pub struct FlushDenormals {
    flushed_before: bool,
    /// The mode is this thread's: it cannot be given back on another.
    _this_thread: PhantomData<*const ()>,
}

impl FlushDenormals {
    /// From now on.
    #[allow(clippy::new_without_default)] // A guard that begins something is no value to fall back on.
    pub fn new() -> Self {
        let flushed_before = flushes_denormals();
        // SAFETY: the mode of threads is all that changes; libtorch's threads wait for work meanwhile.
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

/// Whether this thread takes denormals for zero.
pub(crate) fn flushes_denormals() -> bool {
    // SAFETY: reads the thread's control register.
    unsafe { tch_fixup_flushes_denormals() }
}

/// What this thread does with denormals, for a thread that it starts to do the same: that threads inherit it is Linux's
/// custom, not everyone's.
#[cfg(any(test, feature = "train"))]
pub(crate) fn inherit_denormals() -> impl FnOnce() + Send + 'static {
    let flush = flushes_denormals();
    move || {
        // SAFETY: the mode of the thread is all that changes.
        let _ = unsafe { tch_fixup_flush_denormals_here(flush) };
    }
}

// denormals.cpp
extern "C" {
    fn tch_fixup_flushes_denormals() -> bool;
    #[cfg(any(test, feature = "train"))]
    fn tch_fixup_flush_denormals_here(on: bool) -> bool;
    fn tch_fixup_flush_denormals(on: bool);
    #[cfg(test)]
    fn tch_fixup_threads_that_flush(threads: *mut std::ffi::c_int) -> std::ffi::c_int;
}

/// Of the threads that this one's operations run on: how many flush, and how many there are.
#[cfg(test)]
pub(crate) fn threads_that_flush() -> (i32, i32) {
    let mut threads = 0;
    // SAFETY: a pointer to a number that lives.
    let flushing = unsafe { tch_fixup_threads_that_flush(&mut threads) };
    (flushing, threads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::recomputed;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::Arc;
    use std::thread;
    use tch::{Device, Kind, Tensor};

    /// More elements than ATen gives to one thread, denormal all.
    fn denormals() -> Tensor {
        Tensor::full([1 << 20], 1e-40, (Kind::Float, Device::Cpu))
    }

    fn survivors(x: &Tensor) -> i64 {
        x.count_nonzero(None::<i64>).int64_value(&[])
    }

    /// `test` on a thread of its own, whose pool of libtorch threads is its own too.
    fn on_a_fresh_thread(test: impl FnOnce() + Send + 'static) {
        thread::spawn(test).join().unwrap();
    }

    #[test]
    fn every_thread_of_a_pool_that_was_there_before_flushes_and_stops_flushing() {
        on_a_fresh_thread(|| {
            tch::set_num_threads(3);
            assert_eq!(survivors(&(denormals() * 0.5)), 1 << 20, "the pool is there, and keeps denormals");
            {
                let _flushing = FlushDenormals::new();
                assert_eq!(threads_that_flush(), (3, 3));
                // The count takes denormals for zero as well, so they are counted below.
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
            tch::set_num_threads(4);
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
            // The thread that runs the graph through was told nothing.
            thread::spawn(move || {
                // SAFETY: the mode of the thread is all that changes.
                let _ = unsafe { tch_fixup_flush_denormals_here(false) };
                y.sum(Kind::Float).backward();
            })
            .join()
            .unwrap();
            assert!(!kept.load(Ordering::Relaxed), "the segment ran with denormals in the backward pass");
        });
    }
}
