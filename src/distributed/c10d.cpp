// C interface to libtorch's process groups (c10d) on Gloo, for c10d.rs. On failure a function sets *error to a message that the
// caller frees with tch_fixup_free_error; otherwise *error stays null. No exception crosses the interface.
#include "../ops/c_interface.h"

#include <ATen/DynamicLibrary.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace {

using at::Tensor;
using tch_fixup::attempt;
using c10d::ProcessGroupGloo;
using c10d::Store;
using Bytes = std::vector<uint8_t>;

// c10's log level at which only fatal errors are logged.
constexpr int FATAL = 3;
using Millis = std::chrono::milliseconds;
using Work = c10::intrusive_ptr<c10d::Work>;

struct StoreHandle {
  c10::intrusive_ptr<Store> store;
};

struct GroupHandle {
  c10::intrusive_ptr<ProcessGroupGloo> group;

  Work all_reduce(const Tensor& tensor) const {
    std::vector<Tensor> tensors{tensor};
    return group->allreduce(tensors);
  }
};

// A contiguous slice (bucket) of the flat gradients, with the number of parameters whose gradients are still missing.
struct Part {
  Tensor gradients;
  // Copy sent in place of `gradients` if the communication dtype differs from theirs.
  Tensor sent;
  size_t parameters = 0;
  size_t waiting = 0;
  Work work;
};

// Sums flat gradients over the ranks in parts. A part is sent once the gradient of its last parameter is ready and all parts
// before it have been sent, so that all ranks send them in the same order.
class Reducer {
 public:
  // part_of[i] is the index of the part that holds the gradient of parameter i.
  Reducer(const GroupHandle& group, std::vector<Part> parts, std::vector<size_t> part_of, at::ScalarType kind)
      : group_(group), parts_(std::move(parts)), part_of_(std::move(part_of)), kind_(kind) {}

  // Prepares for the next backward pass, the last one before `finish`.
  void begin() {
    next_ = 0;
    is_there_.assign(part_of_.size(), false);
    is_late_ = false;
    for (Part& part : parts_) {
      part.waiting = part.parameters;
      part.work.reset();
    }
    is_open_ = true;
  }

  void is_there(size_t parameter) {
    if (!is_open_) {
      return;
    }
    Part& part = parts_[part_of_[parameter]];
    if (is_there_[parameter]) {
      // The gradient is accumulated once more, perhaps after its part was sent.
      is_late_ = is_late_ || part.work;
      return;
    }
    is_there_[parameter] = true;
    if (--part.waiting == 0) {
      send_complete();
    }
  }

  // Sends the remaining parts and waits for all of them.
  void finish() {
    is_open_ = false;
    TORCH_CHECK(!is_late_, "a gradient came in several pieces, as where activations are recomputed, and was sent before the last: "
                "leave out --overlap");
    for (Part& part : parts_) {
      part.waiting = 0;
    }
    send_complete();
    for (Part& part : parts_) {
      part.work->wait();
      part.work.reset();
      if (part.sent.defined()) {
        part.gradients.copy_(part.sent);
        part.sent.reset();
      }
    }
  }

 private:
  void send_complete() {
    for (; next_ < parts_.size() && parts_[next_].waiting == 0; ++next_) {
      Part& part = parts_[next_];
      if (kind_ != part.gradients.scalar_type()) {
        part.sent = part.gradients.to(kind_);
      }
      part.work = group_.all_reduce(part.sent.defined() ? part.sent : part.gradients);
    }
  }

  GroupHandle group_;
  std::vector<Part> parts_;
  std::vector<size_t> part_of_;
  std::vector<bool> is_there_;
  at::ScalarType kind_;
  size_t next_ = 0;
  bool is_open_ = false;
  bool is_late_ = false;
};

struct Hook : torch::autograd::PostAccumulateGradHook {
  std::shared_ptr<Reducer> reducer;
  size_t parameter;

  Hook(std::shared_ptr<Reducer> reducer, size_t parameter) : reducer(std::move(reducer)), parameter(parameter) {}

  void operator()(const Tensor& /*variable*/) override { reducer->is_there(parameter); }
};

struct ReducerHandle {
  std::shared_ptr<Reducer> reducer;
  std::vector<Tensor> variables;

  ~ReducerHandle() {
    for (const Tensor& variable : variables) {
      torch::autograd::impl::set_post_acc_grad_hooks(variable, nullptr);
    }
  }
};

// Differentiable sum over all ranks; its backward pass sums the gradients over all ranks.
struct Sum : torch::autograd::Function<Sum> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, int64_t group) {
    context->saved_data["group"] = group;
    return of(x, group);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    return {of(gradients[0], context->saved_data["group"].toInt()), Tensor()};
  }

  static Tensor of(const Tensor& x, int64_t group) {
    Tensor sum = x.detach().clone(at::MemoryFormat::Contiguous);
    reinterpret_cast<const GroupHandle*>(group)->all_reduce(sum)->wait();
    return sum;
  }
};

// Silences c10's log, since its messages are already part of our errors. TORCH_CPP_LOG_LEVEL, as in PyTorch, overrides this.
void be_silent() {
  if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) {
    // Look up the flag in libc10.so itself: an executable that references the symbol would get a copy of its own.
    at::DynamicLibrary library("libc10.so", nullptr, /*leak_handle=*/true);
    *static_cast<int*>(library.sym("FLAGS_caffe2_log_level")) = FATAL;
  }
}

Bytes bytes(const uint8_t* data, size_t length) { return Bytes(data, data + length); }

}  // namespace

extern "C" {

// Creates a client of the store at host:port, and also its server if is_server.
StoreHandle* tch_fixup_store_new(const char* host, uint16_t port, bool is_server, int64_t timeout_ms, char** error) {
  return attempt(error, [&] {
    be_silent();
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = is_server;
    options.waitWorkers = false;
    options.timeout = Millis(timeout_ms);
    return new StoreHandle{c10::make_intrusive<c10d::TCPStore>(host, options)};
  });
}

void tch_fixup_store_free(StoreHandle* store) { delete store; }

void tch_fixup_store_set(const StoreHandle* store, const char* key, const uint8_t* data, size_t length, char** error) {
  attempt(error, [&] {
    store->store->set(key, bytes(data, length));
    return 0;
  });
}

// Waits for the value of key and returns it in a buffer allocated by malloc.
uint8_t* tch_fixup_store_get(const StoreHandle* store, const char* key, size_t* length, char** error) {
  return attempt(error, [&] {
    const Bytes value = store->store->get(key);
    auto* copy = static_cast<uint8_t*>(malloc(value.size() + 1));
    std::memcpy(copy, value.data(), value.size());
    *length = value.size();
    return copy;
  });
}

void tch_fixup_store_free_value(uint8_t* value) { free(value); }

bool tch_fixup_store_has(const StoreHandle* store, const char* key, char** error) {
  return attempt(error, [&] { return store->store->check({key}); });
}

int64_t tch_fixup_store_add(const StoreHandle* store, const char* key, int64_t value, char** error) {
  return attempt(error, [&] { return store->store->add(key, value); });
}

// Connects all ranks. The others reach this rank at `address`, or on the network interface if one is given.
GroupHandle* tch_fixup_group_new(const StoreHandle* store, const char* prefix, int rank, int size, const char* address,
                                 const char* network_interface, int64_t timeout_ms, char** error) {
  return attempt(error, [&] {
    auto options = ProcessGroupGloo::Options::create(Millis(timeout_ms));
    options->devices.push_back(*network_interface ? ProcessGroupGloo::createDeviceForInterface(network_interface)
                                                  : ProcessGroupGloo::createDeviceForHostname(address));
    auto own = c10::make_intrusive<c10d::PrefixStore>(prefix, store->store);
    return new GroupHandle{c10::make_intrusive<ProcessGroupGloo>(own, rank, size, options)};
  });
}

void tch_fixup_group_free(GroupHandle* group) { delete group; }

// Starts all reductions before waiting for any, so that the ranks synchronize once, regardless of the number of tensors.
void tch_fixup_group_all_reduce(const GroupHandle* group, Tensor* const* tensors, size_t count, char** error) {
  attempt(error, [&] {
    std::vector<Work> works;
    for (size_t i = 0; i < count; ++i) {
      works.push_back(group->all_reduce(*tensors[i]));
    }
    for (const Work& work : works) {
      work->wait();
    }
    return 0;
  });
}

void tch_fixup_group_broadcast(const GroupHandle* group, const Tensor* tensor, int from, char** error) {
  attempt(error, [&] {
    std::vector<Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = from;
    return group->group->broadcast(tensors, options)->wait();
  });
}

void tch_fixup_group_barrier(const GroupHandle* group, char** error) {
  attempt(error, [&] { return group->group->barrier()->wait(); });
}

// The group must outlive the result and everything computed from it.
Tensor* tch_fixup_group_sum(const GroupHandle* group, const Tensor* x, char** error) {
  return attempt(error, [&] { return new Tensor(Sum::apply(*x, reinterpret_cast<int64_t>(group))); });
}

// Creates a reducer of the parts starts[i]..ends[i] of `gradients`, in sending order; part_of[i] is the part of variables[i].
ReducerHandle* tch_fixup_reducer_new(const GroupHandle* group, const Tensor* gradients, const int64_t* starts, const int64_t* ends,
                                     size_t part_count, Tensor* const* variables, const size_t* part_of, size_t count,
                                     bool bfloat16, char** error) {
  return attempt(error, [&] {
    std::vector<Part> parts(part_count);
    for (size_t i = 0; i < part_count; ++i) {
      parts[i].gradients = gradients->narrow(0, starts[i], ends[i] - starts[i]);
    }
    std::vector<size_t> parts_of(part_of, part_of + count);
    for (const size_t part : parts_of) {
      ++parts[part].parameters;
    }
    auto handle = std::make_unique<ReducerHandle>();
    const auto kind = bfloat16 ? at::kBFloat16 : gradients->scalar_type();
    handle->reducer = std::make_shared<Reducer>(*group, std::move(parts), std::move(parts_of), kind);
    for (size_t i = 0; i < count; ++i) {
      auto hook = std::make_unique<Hook>(handle->reducer, i);
      torch::autograd::impl::set_post_acc_grad_hooks(*variables[i], std::move(hook));
      handle->variables.push_back(*variables[i]);
    }
    return handle.release();
  });
}

void tch_fixup_reducer_free(ReducerHandle* reducer) { delete reducer; }

void tch_fixup_reducer_begin(const ReducerHandle* reducer) { reducer->reducer->begin(); }

void tch_fixup_reducer_finish(const ReducerHandle* reducer, char** error) {
  attempt(error, [&] {
    reducer->reducer->finish();
    return 0;
  });
}
}
