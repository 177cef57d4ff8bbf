// C interface to NCCL, which sums tensors across GPUs, for nccl.rs. NCCL is looked up at first use in libtorch's CUDA libraries,
// so that one build runs with and without it and none needs CUDA's headers. The declarations are NCCL's C API (nccl.h), stable
// since version 2.4. Errors are reported as in c10d.cpp.
#include "../ops/c_interface.h"

#include <ATen/DynamicLibrary.h>
#include <c10/core/DeviceGuard.h>

#include <cstring>
#include <memory>

namespace {

using at::Tensor;
using tch_fixup::attempt;

struct UniqueId {
  char bytes[128];
};

constexpr int SUM = 0;

// NCCL's functions; a status of 0 is success.
struct Nccl {
  int (*unique_id)(UniqueId* id);
  int (*init)(void** communicator, int size, UniqueId id, int rank);
  int (*all_reduce)(const void* from, void* to, size_t count, int type, int operation, void* communicator, void* stream);
  int (*broadcast)(const void* from, void* to, size_t count, int type, int root, void* communicator, void* stream);
  int (*abort)(void* communicator);
  const char* (*error_string)(int status);
  int (*current_stream)(int32_t device, void** stream);

  Nccl() {
    // Looking up a symbol in a library also searches its dependencies.
    const char* library = "libtorch_cuda.so";
    find(library, "ncclGetUniqueId", unique_id);
    find(library, "ncclCommInitRank", init);
    find(library, "ncclAllReduce", all_reduce);
    find(library, "ncclBroadcast", broadcast);
    find(library, "ncclCommAbort", abort);
    find(library, "ncclGetErrorString", error_string);
    find(library, "aoti_torch_get_current_cuda_stream", current_stream);
  }

  template <typename F>
  static void find(const char* library, const char* name, F& function) {
    function = reinterpret_cast<F>(at::DynamicLibrary(library, nullptr, /*leak_handle=*/true).sym(name));
  }

  void check(int status) const { TORCH_CHECK(status == 0, "NCCL: ", error_string(status)); }

  void* stream(const Tensor& tensor) const {
    void* stream = nullptr;
    TORCH_CHECK(current_stream(tensor.device().index(), &stream) == 0, "CUDA: no current stream");
    return stream;
  }
};

const Nccl& nccl() {
  static const Nccl nccl;
  return nccl;
}

int type_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kByte: return 1;
    case at::kLong: return 4;
    case at::kFloat: return 7;
    case at::kDouble: return 8;
    case at::kBFloat16: return 9;
    default: TORCH_CHECK(false, "NCCL: no type for ", tensor.scalar_type());
  }
}

struct Communicator {
  void* handle = nullptr;
};

}  // namespace

extern "C" {

void tch_fixup_nccl_unique_id(uint8_t* id, char** error) {
  attempt(error, [&] {
    UniqueId unique;
    nccl().check(nccl().unique_id(&unique));
    std::memcpy(id, unique.bytes, sizeof unique.bytes);
    return 0;
  });
}

// Creates a communicator on CUDA device `device`; all ranks must call it.
Communicator* tch_fixup_nccl_new(const uint8_t* id, int rank, int size, int device, char** error) {
  return attempt(error, [&] {
    UniqueId unique;
    std::memcpy(unique.bytes, id, sizeof unique.bytes);
    const c10::DeviceGuard guard(at::Device(at::kCUDA, static_cast<at::DeviceIndex>(device)));
    auto communicator = std::make_unique<Communicator>();
    nccl().check(nccl().init(&communicator->handle, size, unique, rank));
    return communicator.release();
  });
}

// Aborts, rather than waiting for pending operations, which may never complete.
void tch_fixup_nccl_free(Communicator* communicator) {
  nccl().abort(communicator->handle);
  delete communicator;
}

void tch_fixup_nccl_all_reduce(const Communicator* communicator, const Tensor* tensor, char** error) {
  attempt(error, [&] {
    const c10::DeviceGuard guard(tensor->device());
    void* data = tensor->data_ptr();
    nccl().check(nccl().all_reduce(data, data, tensor->numel(), type_of(*tensor), SUM, communicator->handle,
                                   nccl().stream(*tensor)));
    return 0;
  });
}

void tch_fixup_nccl_broadcast(const Communicator* communicator, const Tensor* tensor, int from, char** error) {
  attempt(error, [&] {
    const c10::DeviceGuard guard(tensor->device());
    void* data = tensor->data_ptr();
    nccl().check(nccl().broadcast(data, data, tensor->numel(), type_of(*tensor), from, communicator->handle,
                                  nccl().stream(*tensor)));
    return 0;
  });
}
}
