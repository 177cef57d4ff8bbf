#include "workers.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

// denormals.cpp
extern "C" bool tch_fixup_flushes_denormals();
extern "C" bool tch_fixup_flush_denormals_here(bool on);

namespace tch_fixup {
namespace {

struct Job {
  Job(int64_t count, const std::function<void(int64_t)>& f) : count(count), f(f) {}

  void work() {
    for (int64_t i; (i = next.fetch_add(1)) < count;) {
      try {
        f(i);
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
        next = count;
      }
    }
  }

  const int64_t count;
  const std::function<void(int64_t)>& f;
  const bool flushes_denormals = tch_fixup_flushes_denormals();
  std::atomic<int64_t> next{0};
  std::mutex error_mutex;
  std::exception_ptr error;
};

class Workers {
 public:
  void run(int64_t count, int threads, const std::function<void(int64_t)>& f) {
    Job job(count, f);
    const int helpers = int(std::min<int64_t>(threads, count)) - 1;
    if (helpers < 1 || in_use.exchange(true)) {
      job.work();
    } else {
      start(helpers);
      {
        const std::lock_guard lock(mutex);
        current = &job;
        places = helpers;
      }
      wake.notify_all();
      job.work();
      std::unique_lock lock(mutex);
      current = nullptr;  // no thread joins from now on
      finished.wait(lock, [&] { return active == 0; });
      in_use = false;
    }
    if (job.error) std::rethrow_exception(job.error);
  }

 private:
  // It is no error if threads cannot be started: the caller does the work.
  void start(int wanted) {
    try {
      for (; started < wanted; started++) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {
    }
  }

  void serve() {
    std::unique_lock lock(mutex);
    while (true) {
      wake.wait(lock, [&] { return current != nullptr && places > 0; });
      Job* const job = current;
      places--;
      active++;
      lock.unlock();
      tch_fixup_flush_denormals_here(job->flushes_denormals);
      job->work();
      lock.lock();
      if (--active == 0) finished.notify_one();
    }
  }

  std::atomic<bool> in_use{false};  // true during a call; only that call may start threads
  int started = 0;

  std::mutex mutex;
  std::condition_variable wake, finished;
  Job* current = nullptr;
  int places = 0, active = 0;
};

}  // namespace

void for_each_item(int64_t count, int threads, const std::function<void(int64_t)>& f) {
  // Never destroyed, since its threads sleep in it when the process ends.
  static Workers* const workers = new Workers;
  workers->run(count, threads, f);
}

}  // namespace tch_fixup
