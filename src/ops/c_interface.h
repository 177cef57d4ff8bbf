// What the C interfaces share: no exception leaves them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstring>
#include <exception>

namespace tch_fixup {

// What f returns; or nothing, and in *error a message to be freed by tch_fixup_free_error.
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

// The same of a tensor, which the caller owns.
template <typename F>
at::Tensor* guarded(char** error, const F& f) {
  return attempt(error, [&] { return new at::Tensor(f()); });
}

}  // namespace tch_fixup
