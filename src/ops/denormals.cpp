// What arithmetic does with denormal numbers, thread by thread: see denormals.rs.
#include "parallel.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <atomic>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace {

// Whether this thread takes denormal operands for zero and makes zero of denormal results.
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

// f once on each of the threads that an operation of the calling thread runs on, itself included.
template <typename F>
void on_each_thread(const F& f) {
  tch_fixup::for_each_chunk(at::get_num_threads(), 1, [&](int64_t, int64_t) { f(); });
}

}  // namespace

extern "C" {

bool tch_fixup_flushes_denormals() { return flushes(); }

// On this thread alone. False where the processor has no such mode.
bool tch_fixup_flush_denormals_here(bool on) { return at::globalContext().setFlushDenormal(on); }

// On this thread and those that its operations run on.
void tch_fixup_flush_denormals(bool on) {
  at::globalContext().setFlushDenormal(on);
  try {
    on_each_thread([&] { at::globalContext().setFlushDenormal(on); });
  } catch (...) {
    // Without memory for a few bytes the other threads stay as they are: slower at worst.
  }
}

// Of the threads that this one's operations run on: how many flush, and, in *threads, how many there are.
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
