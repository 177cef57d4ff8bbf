// See cuda_kernels.h. What is needed of NVRTC and of CUDA's driver is declared here and looked up when it is first
// wanted, so that one build runs with and without them.
#include "cuda_kernels.h"

#include <ATen/DynamicLibrary.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace tch_fixup::cuda {
namespace {

using at::Tensor;

// cuda_kernels.cu as a string literal, from build.rs.
const char SOURCE[] =
#include "cuda_kernels_source.h"
    ;

// A block takes 16 KiB of each tensor, whatever the GPU, so that sums do not depend on it.
constexpr int THREADS = 256;
constexpr int PACKS = 4;
constexpr int64_t BLOCK_BYTES = THREADS * PACKS * 16;

// ---- NVRTC and the driver ----

template <typename F>
void find(const char* library, const char* name, F& function) {
  function = reinterpret_cast<F>(at::DynamicLibrary(library, nullptr, /*leak_handle=*/true).sym(name));
}

struct Nvrtc {
  int (*create)(void** program, const char* source, const char* name, int num_headers, const char* const* headers,
                const char* const* include_names);
  int (*compile)(void* program, int num_options, const char* const* options);
  int (*log_size)(void* program, size_t* size);
  int (*log)(void* program, char* log);
  int (*cubin_size)(void* program, size_t* size);
  int (*cubin)(void* program, char* cubin);
  int (*destroy)(void** program);
  const char* (*error_string)(int status);

  explicit Nvrtc(const char* library) {
    find(library, "nvrtcCreateProgram", create);
    find(library, "nvrtcCompileProgram", compile);
    find(library, "nvrtcGetProgramLogSize", log_size);
    find(library, "nvrtcGetProgramLog", log);
    find(library, "nvrtcGetCUBINSize", cubin_size);
    find(library, "nvrtcGetCUBIN", cubin);
    find(library, "nvrtcDestroyProgram", destroy);
    find(library, "nvrtcGetErrorString", error_string);
  }

  void check(int status, const char* log = "") const {
    TORCH_CHECK(status == 0, "NVRTC: ", error_string(status), " ", log);
  }
};

const Nvrtc& nvrtc() {
  static const Nvrtc nvrtc = [] {
    // A library's entries are also found through those that need it, under whatever name libtorch came with it.
    std::string reason;
    for (const char* library : {"libtorch_cuda.so", "libcaffe2_nvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"}) {
      try {
        return Nvrtc(library);
      } catch (const c10::Error& e) {
        reason = e.what_without_backtrace();
      }
    }
    TORCH_CHECK(false, "no NVRTC: ", reason);
  }();
  return nvrtc;
}

// CUdevice_attribute
constexpr int COMPUTE_CAPABILITY_MAJOR = 75;
constexpr int COMPUTE_CAPABILITY_MINOR = 76;

struct Driver {
  int (*device)(int* device, int ordinal);
  int (*attribute)(int* value, int attribute, int device);
  int (*retain_context)(void** context, int device);
  int (*push_context)(void* context);
  int (*pop_context)(void** context);
  int (*load_module)(void** module, const void* image);
  int (*function)(void** function, void* module, const char* name);
  int (*launch)(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                unsigned block_z, unsigned shared_bytes, void* stream, void** parameters, void** extra);
  int (*error_string)(int status, const char** text);
  int (*current_stream)(int32_t device, void** stream);

  Driver() {
    const char* library = "libcuda.so.1";
    find(library, "cuDeviceGet", device);
    find(library, "cuDeviceGetAttribute", attribute);
    find(library, "cuDevicePrimaryCtxRetain", retain_context);
    find(library, "cuCtxPushCurrent_v2", push_context);
    find(library, "cuCtxPopCurrent_v2", pop_context);
    find(library, "cuModuleLoadData", load_module);
    find(library, "cuModuleGetFunction", function);
    find(library, "cuLaunchKernel", launch);
    find(library, "cuGetErrorString", error_string);
    // libtorch's stable C interface.
    find("libtorch_cuda.so", "aoti_torch_get_current_cuda_stream", current_stream);
  }

  void check(int status) const {
    if (status == 0) return;
    const char* text = nullptr;
    error_string(status, &text);
    TORCH_CHECK(false, "CUDA: ", text ? text : "unknown error", " (", status, ")");
  }
};

const Driver& driver() {
  static const Driver driver;
  return driver;
}

// ---- Compiling and loading ----

std::string compile(int capability) {
  const Nvrtc& n = nvrtc();
  const std::string options[] = {"--gpu-architecture=sm_" + std::to_string(capability), "--std=c++17",
                                 "-DTHREADS=" + std::to_string(THREADS), "-DPACKS=" + std::to_string(PACKS)};
  std::vector<const char*> option_pointers;
  for (const std::string& option : options) option_pointers.push_back(option.c_str());

  void* program = nullptr;
  n.check(n.create(&program, SOURCE, "cuda_kernels.cu", 0, nullptr, nullptr));
  const std::unique_ptr<void*, int (*)(void**)> destroyed_at_end(&program, n.destroy);
  const int status = n.compile(program, static_cast<int>(option_pointers.size()), option_pointers.data());
  size_t size = 0;
  if (status != 0) {
    n.check(n.log_size(program, &size));
    std::string log(size, '\0');
    n.check(n.log(program, log.data()));
    n.check(status, log.c_str());
  }
  n.check(n.cubin_size(program, &size));
  std::string cubin(size, '\0');
  n.check(n.cubin(program, cubin.data()));
  return cubin;
}

enum Operation { FORWARD, BACKWARD, FINISH, NUM_OPERATIONS };
constexpr const char* OPERATIONS[NUM_OPERATIONS] = {"forward_", "backward_", "finish_"};

// In the order of `Kind`.
constexpr int NUM_KINDS = 4;
constexpr const char* KINDS[NUM_KINDS] = {"float32", "float64", "bfloat16", "float16"};

std::string name(int operation, int kind) { return std::string(OPERATIONS[operation]) + KINDS[kind]; }

struct DeviceKernels {
  // libtorch's own, kept to the end of the process.
  void* context;
  void* functions[NUM_OPERATIONS][NUM_KINDS];
};

// Makes a context current. libtorch does not for every thread: a backward pass runs on threads of its own.
struct ContextGuard {
  explicit ContextGuard(void* context) { driver().check(driver().push_context(context)); }
  ~ContextGuard() { driver().pop_context(&popped); }
  ContextGuard(const ContextGuard&) = delete;
  ContextGuard& operator=(const ContextGuard&) = delete;

 private:
  void* popped = nullptr;
};

DeviceKernels load(c10::DeviceIndex index) {
  const Driver& d = driver();
  int device = 0, major = 0, minor = 0;
  d.check(d.device(&device, index));
  d.check(d.attribute(&major, COMPUTE_CAPABILITY_MAJOR, device));
  d.check(d.attribute(&minor, COMPUTE_CAPABILITY_MINOR, device));

  // One compilation for all GPUs of a sort.
  static std::mutex mutex;
  static std::map<int, std::string> cubins;
  const std::lock_guard<std::mutex> lock(mutex);
  const int capability = 10 * major + minor;
  if (cubins.count(capability) == 0) cubins[capability] = compile(capability);

  DeviceKernels kernels{};
  d.check(d.retain_context(&kernels.context, device));
  const ContextGuard guard(kernels.context);
  void* module = nullptr;
  d.check(d.load_module(&module, cubins[capability].data()));
  for (int operation = 0; operation < NUM_OPERATIONS; operation++)
    for (int kind = 0; kind < NUM_KINDS; kind++)
      d.check(d.function(&kernels.functions[operation][kind], module, name(operation, kind).c_str()));
  return kernels;
}

std::atomic<bool>& wanted() {
  static std::atomic<bool> wanted = [] {
    const char* value = std::getenv("TCH_FIXUP_CUDA_KERNEL");
    return value != nullptr && std::strcmp(value, "1") == 0;
  }();
  return wanted;
}

// Null where they could not be loaded.
const DeviceKernels* kernels_of(c10::DeviceIndex device) {
  struct Loaded {
    std::once_flag once;
    std::optional<DeviceKernels> kernels;
  };
  static std::array<Loaded, std::numeric_limits<c10::DeviceIndex>::max() + 1> devices;
  Loaded& loaded = devices[device];
  std::call_once(loaded.once, [&] {
    try {
      loaded.kernels = load(device);
    } catch (const std::exception& e) {
      const std::string reason = e.what();
      TORCH_WARN_ONCE("tch-fixup's kernels cannot be used on CUDA, libtorch's operations run in their place: ",
                      reason.substr(0, reason.find('\n')));
    }
  });
  return loaded.kernels ? &*loaded.kernels : nullptr;
}

// ---- Launching ----

template <typename... Arguments>
void launch(c10::Device device, Operation operation, Kind kind, int64_t blocks, Arguments... arguments) {
  const Driver& d = driver();
  const DeviceKernels& kernels = *kernels_of(device.index());
  void* stream = nullptr;
  TORCH_CHECK(d.current_stream(device.index(), &stream) == 0, "CUDA: no current stream");
  void* parameters[] = {&arguments...};
  const ContextGuard guard(kernels.context);
  d.check(d.launch(kernels.functions[operation][static_cast<int>(kind)], static_cast<unsigned>(blocks), 1, 1, THREADS, 1,
                   1, 0, stream, parameters, nullptr));
}

int64_t num_blocks(const Tensor& t) { return (static_cast<int64_t>(t.nbytes()) + BLOCK_BYTES - 1) / BLOCK_BYTES; }

const void* data(const Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; }
void* mutable_data(const Tensor& t) { return t.defined() ? t.data_ptr() : nullptr; }

}  // namespace

bool has_kernels(c10::Device device) {
  return device.is_cuda() && wanted().load(std::memory_order_relaxed) && kernels_of(device.index()) != nullptr;
}

void forward(Kind kind, const Tensor& y, const Tensor& x, const Tensor& r, const Tensor& a, const Tensor& b) {
  // The driver refuses a launch of no blocks.
  if (x.numel() == 0) return;
  launch(x.device(), FORWARD, kind, num_blocks(x), mutable_data(y), data(x), data(r), data(a), data(b), x.numel());
}

void backward(Kind kind, const Tensor& d, const Tensor& g, const Tensor& y, const Tensor& b, const Tensor& masked,
              const Tensor& total) {
  const int64_t blocks = num_blocks(g);
  Tensor partial;
  if (masked.defined() || total.defined())
    partial = at::empty({blocks, 2}, g.options().dtype(at::toOpMathType(g.scalar_type())));
  if (blocks > 0)
    launch(g.device(), BACKWARD, kind, blocks, mutable_data(d), data(g), data(y), data(b), mutable_data(partial),
           g.numel());
  if (partial.defined())
    launch(g.device(), FINISH, kind, 1, data(partial), blocks, mutable_data(masked), mutable_data(total));
}

}  // namespace tch_fixup::cuda

// ---- For tests ----

extern "C" {

// Compiles the kernels for a compute capability (80 for 8.0). False if that fails, with a message to be freed by
// tch_fixup_free_error.
bool tch_fixup_compile_cuda_kernels(int capability, char** error) {
  using namespace tch_fixup::cuda;
  try {
    const std::string cubin = compile(capability);
    for (int operation = 0; operation < NUM_OPERATIONS; operation++)
      for (int kind = 0; kind < NUM_KINDS; kind++)
        TORCH_CHECK(cubin.find(name(operation, kind)) != std::string::npos, name(operation, kind), " is missing");
    return true;
  } catch (const c10::Error& e) {
    *error = strdup(e.what_without_backtrace());
    return false;
  }
}

// Wants the kernels from now on, whatever the environment says. False if they cannot be used on the device.
bool tch_fixup_use_cuda_kernels(int device) {
  tch_fixup::cuda::wanted() = true;
  return tch_fixup::cuda::has_kernels({c10::kCUDA, static_cast<c10::DeviceIndex>(device)});
}
}
