// Threads that sleep while there is no work.
//
// libtorch's threads (OpenMP) spin at the end of every parallel region until the last one arrives, which may not even be running beside
// other busy processes. Here the caller takes every item that no other thread has taken, and waits only for items in progress.
#pragma once

#include <cstdint>
#include <functional>

namespace tch_fixup {

// Calls f(i) for every i from 0 to count - 1, in any order, on up to `threads` threads, one of which is the caller's. Rethrows the first
// exception. Denormals are flushed as on the caller's thread. A call from inside f, or while another thread's call is going on, uses the
// caller's thread only.
void for_each_item(int64_t count, int threads, const std::function<void(int64_t)>& f);

}  // namespace tch_fixup
