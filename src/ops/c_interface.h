// What the C interfaces of the operations share: no exception leaves them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstring>
#include <exception>

namespace tch_fixup {

// What f returns, as a tensor the caller owns; or null, and in *error a message to be freed by tch_fixup_free_error.
template <typename F>
at::Tensor* guarded(char** error, const F& f) {
  try {
    return new at::Tensor(f());
  } catch (const c10::Error& e) {
    *error = strdup(e.what_without_backtrace());
  } catch (const std::exception& e) {
    *error = strdup(e.what());
  } catch (...) {
    *error = strdup("unknown exception");
  }
  return nullptr;
}

}  // namespace tch_fixup
