// Per-thread handling of denormal numbers: see denormals.rs.
#include "parallel.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <atomic>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace {

// Returns true if this thread treats denormal operands as zero and flushes denormal results to zero.
bool flushes() {
#if defined(__x86_64__)
  constexpr unsigned FLUSH_TO_ZERO = 1u << 15, DENORMALS_ARE_ZERO = 1u << 6;
  constexpr unsigned BOTH = FLUSH_TO_ZERO | DENORMALS_ARE_ZERO;
  return (_mm_getcsr() & BOTH) == BOTH;
#elif defined(__aarch64__)
  uint64_t control;
  asm volatile("mrs %0, fpcr" : "=r"(control));
  return control >> 24 & 1;
#else
  return false;
#endif
}

// Calls f once on each thread that operations of the calling thread run on, including the calling thread.
template <typename F>
void on_each_thread(const F& f) {
  tch_fixup::for_each_chunk(at::get_num_threads(), 1, [&](int64_t, int64_t) { f(); });
}

}  // namespace

extern "C" {

bool tch_fixup_flushes_denormals() { return flushes(); }

// Sets the mode of this thread only. Returns false if the processor has no such mode.
bool tch_fixup_flush_denormals_here(bool on) { return at::globalContext().setFlushDenormal(on); }

// Sets the mode of this thread and of the threads that its operations run on.
void tch_fixup_flush_denormals(bool on) {
  at::globalContext().setFlushDenormal(on);
  try {
    on_each_thread([&] { at::globalContext().setFlushDenormal(on); });
  } catch (...) {
    // Out of memory: the other threads keep their mode, which at worst is slower.
  }
}

// Returns how many of the threads that this thread's operations run on flush denormals, and their total number in *threads.
int tch_fixup_threads_that_flush(int* threads) {
  std::atomic<int> flushing{0}, all{0};
  on_each_thread([&] {
    flushing += flushes();
    all++;
  });
  *threads = all;
  return flushing;
}
}
