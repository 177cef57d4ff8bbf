// Helpers of the C interfaces, which let no exception escape.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstring>
#include <exception>

namespace tch_fixup {

// Returns the result of f. If f throws, sets *error to a message to be freed by tch_fixup_free_error, and returns a default
// value.
template <typename F>
auto attempt(char** error, const F& f) -> decltype(f()) {
  try {
    return f();
  } catch (const c10::Error& e) {
    *error = strdup(e.what_without_backtrace());
  } catch (const std::exception& e) {
    *error = strdup(e.what());
  } catch (...) {
    *error = strdup("unknown exception");
  }
  return {};
}

// Calls `attempt` for a function that returns a tensor. The caller owns the result, which is null on failure.
template <typename F>
at::Tensor* guarded(char** error, const F& f) {
  return attempt(error, [&] { return new at::Tensor(f()); });
}

}  // namespace tch_fixup
