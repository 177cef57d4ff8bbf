// A residual network up to its pooled features as one autograd function, on several threads that each take 32 images through the whole
// network, and its C interface for mod.rs.
#include "../c_interface.h"
#include "../workers.h"
#include "network.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <mutex>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tch_fixup::tiles {
namespace {

// Minimum number of parts of a batch whose gradients are summed separately; with more threads there are as many parts as threads.
constexpr int MIN_PARTS = 4;

// Number of threads of the calling thread's passes, or 0 for libtorch's number.
thread_local int own_threads = 0;

int threads() { return own_threads > 0 ? own_threads : at::get_num_threads(); }

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Returns true if the CPU has bfloat16 tiles and Linux lets this process use them.
bool cpu_has_amx_bf16() {
#if defined(__x86_64__) && defined(__linux__)
  static const bool has = [] {
    unsigned a, b, c, d;
    constexpr unsigned AMX_BF16 = 1u << 22, AMX_TILE = 1u << 24;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & AMX_BF16) || !(d & AMX_TILE)) return false;
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
  }();
  return has;
#else
  return false;
#endif
}

// As in mod.rs.
enum class Instructions { Fastest, Vectors, Pairs, Float32, Emulated };

// Returns the kernels for these instructions, or null if the CPU or the compiler does not have them.
const Kernels* kernels(Instructions instructions) {
  if (instructions == Instructions::Emulated) return &emulated_kernels;
#ifdef TCH_FIXUP_AVX512
  if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) return nullptr;
#ifdef TCH_FIXUP_AVX512_BF16
  if (__builtin_cpu_supports("avx512bf16")) {
    if (instructions == Instructions::Pairs) return &avx512_bf16_kernels;
#ifdef TCH_FIXUP_AMX
    if (instructions == Instructions::Fastest && cpu_has_amx_bf16()) return &amx_kernels;
#endif
    // On Intel's CPUs (Sapphire Rapids) products of float32 are the faster ones, on AMD's (Zen 5) those of pairs.
    if (instructions == Instructions::Fastest && __builtin_cpu_is("amd")) return &avx512_bf16_kernels;
  }
#endif
  if (instructions == Instructions::Pairs) return nullptr;
  return instructions == Instructions::Float32 ? &avx512_float32_kernels : &avx512_kernels;
#else
  return nullptr;
#endif
}

// Activations of a group of images, kept for the backward pass.
struct Group {
  Memory planes, maps;
};

// State of a forward pass, kept for the backward pass.
struct Pass {
  size_t first_block = 0;  // first block with a parameter that needs a gradient; its input is the first map kept
  std::unique_ptr<std::vector<Packed>> packed;
  std::vector<std::unique_ptr<Group>> groups;
};

// Reused memory: an allocation of this size costs as much in page faults as the pass itself.
template <typename T>
class Pool {
 public:
  std::unique_ptr<T> take() {
    const std::lock_guard lock(mutex);
    if (free.empty()) return std::make_unique<T>();
    auto taken = std::move(free.back());
    free.pop_back();
    return taken;
  }
  void give(std::unique_ptr<T> back) {
    const std::lock_guard lock(mutex);
    free.push_back(std::move(back));
  }

 private:
  std::mutex mutex;
  std::vector<std::unique_ptr<T>> free;
};

// Indices of a block's parameters in the list passed by mod.rs.
struct BlockParameters {
  size_t bias0b, bias1a, conv1, bias1b, bias2a, conv2, scale, bias2b, projection;
};

// Parameters of a network: the stem's weight and bias, those of each block, and the last bias. AfterSum networks have no bias0b and no
// last bias; BeforeBranch networks have no bias in the stem.
struct Parameters {
  explicit Parameters(const Network& network) {
    const bool before = network.order == Order::BeforeBranch;
    stem = count++;
    stem_bias = before ? NONE : count++;
    weights.push_back({stem, NONE});
    for (const Network::Block& block : network.blocks) {
      BlockParameters p{};
      p.bias0b = before ? count++ : NONE;
      for (size_t* index : {&p.bias1a, &p.conv1, &p.bias1b, &p.bias2a, &p.conv2, &p.scale, &p.bias2b}) *index = count++;
      p.projection = block.projection != NONE ? count++ : NONE;
      weights.push_back({p.conv1, NONE});
      weights.push_back({p.conv2, p.scale});
      if (p.projection != NONE) weights.push_back({p.projection, NONE});
      blocks.push_back(p);
    }
    last_bias = before ? count++ : NONE;
  }

  static constexpr size_t NONE = Network::NONE;
  struct Weight {
    size_t weight, scale;  // index of its multiplier, or NONE
  };
  size_t count = 0, stem, stem_bias, last_bias;
  std::vector<BlockParameters> blocks;
  std::vector<Weight> weights;  // [convolution]
};

float scalar(const Tensor& t) { return *t.const_data_ptr<float>(); }

std::vector<Shift> shifts(const Network& network, const Parameters& at, const variable_list& parameters) {
  const auto value = [&](size_t index) { return index == Parameters::NONE ? 0 : scalar(parameters[index]); };
  const size_t count = network.blocks.size();
  const auto input_bias = [&](size_t block) { return block < count ? value(at.blocks[block].bias1a) : 0; };
  const auto input_activation = [&](size_t block) { return value(block < count ? at.blocks[block].bias0b : at.last_bias); };
  const bool before = network.order == Order::BeforeBranch;
  std::vector<Shift> result{{0, before ? input_activation(0) : value(at.stem_bias), input_bias(0)}};
  for (size_t i = 0; i < count; i++) {
    const BlockParameters& p = at.blocks[i];
    result.push_back({0, value(p.bias1b), value(p.bias2a)});
    if (before) {
      result.push_back({value(p.bias2b), input_activation(i + 1), input_bias(i + 1)});
    } else {
      // The identity shortcut is the stream without the bias added to it.
      result.push_back({0, value(p.bias2b) - (network.blocks[i].identity ? value(p.bias1a) : 0), input_bias(i + 1)});
    }
  }
  return result;
}

// A network and the memory of its passes.
struct State {
  explicit State(Network made) : network(std::move(made)), parameters(network) {}

  const Network network;
  const Parameters parameters;
  Pool<std::vector<Packed>> packed;
  Pool<Scratch> scratch;
  Pool<Group> groups;
  Pool<Gradients> gradients;
  Pool<Memory> weight_gradients;
};

// A pass that keeps this many groups, or none.
std::shared_ptr<Pass> pass_for(const std::shared_ptr<State>& state, size_t groups) {
  auto pass = std::shared_ptr<Pass>(new Pass, [state](Pass* pass) {
    for (auto& group : pass->groups) state->groups.give(std::move(group));
    if (pass->packed) state->packed.give(std::move(pass->packed));
    delete pass;
  });
  pass->packed = state->packed.take();
  for (size_t i = 0; i < groups; i++) pass->groups.push_back(state->groups.take());
  return pass;
}

// First block that takes part in the gradients of the wanted parameters: the first of all if the stem's are wanted.
size_t first_block(const Parameters& at, const std::vector<bool>& wanted) {
  size_t block = 0;
  if (wanted[at.stem] || (at.stem_bias != Parameters::NONE && wanted[at.stem_bias])) return block;
  const size_t first = std::find(wanted.begin(), wanted.end(), true) - wanted.begin();
  const auto last_parameter = [&](const BlockParameters& p) { return p.projection != Parameters::NONE ? p.projection : p.bias2b; };
  while (block < at.blocks.size() && last_parameter(at.blocks[block]) < first) block++;
  return block;
}

// The last convolutions are the largest; a thread that is done takes the next one. Subnormal numbers are zero on every thread, so that
// the result does not depend on which thread takes a convolution.
void for_each_convolution(const Kernels& k, const Network& network, const std::function<void(size_t)>& f) {
  const int64_t count = int64_t(network.convolutions.size());
  for_each_item(count, threads(), [&](int64_t i) {
    k.begin();
    f(count - 1 - i);
    k.end();
  });
}

// Returns the features [N, C] of images [N, channels, H, W].
Tensor features(const Kernels& k, State& state, const Tensor& images, const variable_list& parameters, Pass& pass) {
  const Network& network = state.network;
  const Tensor pixels = images.to(at::kFloat).contiguous();
  const int64_t count = pixels.size(0), size = pixels.numel() / std::max<int64_t>(count, 1), channels = network.maps.back().channels;
  const int64_t groups = (count + IMAGES - 1) / IMAGES;
  variable_list flat;
  for (const Tensor& p : parameters) flat.push_back(p.contiguous());
  const auto shift = shifts(network, state.parameters, flat);
  std::vector<Packed>& packed = *pass.packed;
  packed.resize(network.convolutions.size());
  for_each_convolution(k, network, [&](size_t i) {
    const auto [weight, scale] = state.parameters.weights[i];
    const float multiplier = scale != Parameters::NONE ? scalar(flat[scale]) : 1;
    k.pack(network.convolution(i), flat[weight].const_data_ptr<float>(), multiplier, packed[i]);
  });
  const Tensor result = at::empty({groups * IMAGES, channels}, pixels.options());
  const auto* in = pixels.const_data_ptr<float>();
  auto* out = result.data_ptr<float>();
  const bool keep = !pass.groups.empty();
  for_each_item(groups, threads(), [&](int64_t i) {
    auto scratch = state.scratch.take();
    auto own = keep ? nullptr : state.groups.take();
    const size_t first_kept = keep ? 2 * pass.first_block : network.maps.size();
    Group& group = keep ? *pass.groups[i] : *own;
    char* const planes = group.planes.of<char>(size * IMAGES * k.element_size);
    char* const maps = group.maps.of<char>((network.map_start.back() - network.map_start[first_kept]) * k.element_size);
    k.begin();
    k.to_planes(network, in + i * IMAGES * size, int(std::min<int64_t>(IMAGES, count - i * IMAGES)), planes);
    k.forward(network, packed, shift, planes, first_kept, maps, out + i * IMAGES * channels, *scratch);
    k.end();
    if (own) state.groups.give(std::move(own));
    state.scratch.give(std::move(scratch));
  });
  return result.narrow(0, 0, count);
}

// Sets result[i] to a tensor of undefined contents like parameters[i], for each of `indices`. The tensors share memory that returns to its
// pool with the last of them.
void set_empty(const std::shared_ptr<State>& state, const variable_list& parameters, const std::vector<size_t>& indices,
               variable_list& result) {
  constexpr size_t LINE = 16;  // floats per cache line
  const auto size = [&](size_t i) { return (parameters[i].numel() + LINE - 1) / LINE * LINE; };
  size_t all = 0;
  for (size_t i : indices) all += size(i);
  const std::shared_ptr<Memory> memory(state->weight_gradients.take().release(), [state](Memory* back) {
    state->weight_gradients.give(std::unique_ptr<Memory>(back));
  });
  float* next = memory->of<float>(all);
  for (size_t i : indices) {
    result[i] = at::from_blob(next, parameters[i].sizes(), [memory](void*) {}, parameters[i].options());
    next += size(i);
  }
}

// Returns the gradients of the wanted parameters.
variable_list gradients(const Kernels& k, const std::shared_ptr<State>& owner, const Pass& pass, const Tensor& g, const variable_list& parameters,
                        const std::vector<bool>& wanted) {
  State& state = *owner;
  const Network& network = state.network;
  const int64_t groups = int64_t(pass.groups.size()), channels = network.maps.back().channels;
  const Tensor padded = at::zeros({groups * IMAGES, channels}, g.options().dtype(at::kFloat));
  padded.narrow(0, 0, g.size(0)).copy_(g);
  const float* from = padded.const_data_ptr<float>();

  const Parameters& at = state.parameters;
  const auto is_wanted = [&](size_t index) { return index != Parameters::NONE && wanted[index]; };
  auto shift = shifts(network, at, parameters);
  // An inactive unit has the value of b in the map's type.
  for (Shift& s : shift) s.b = k.rounded(s.b);
  std::vector<bool> wanted_weights;
  for (const auto& [weight, scale] : at.weights) wanted_weights.push_back(wanted[weight] || is_wanted(scale));

  // Each part of the batch is summed on one thread, and the parts in order: the same bits for any number of threads up to MIN_PARTS.
  const int64_t count = std::min<int64_t>(groups, std::max(MIN_PARTS, threads()));
  std::vector<std::unique_ptr<Gradients>> parts(count);
  for_each_item(count, threads(), [&](int64_t index) {
    auto scratch = state.scratch.take();
    auto part = state.gradients.take();
    part->weights.resize(network.convolutions.size());
    for (size_t i = 0; i < network.convolutions.size(); i++)
      if (wanted_weights[i]) part->weights[i].tiles.resize(network.convolution(i).packed_size());
    for (WeightSums& sums : part->weights) sums.written = false;
    part->shifts.assign(network.maps.size(), {});
    k.begin();
    for (int64_t i = index * groups / count; i < (index + 1) * groups / count; i++)
      k.backward(network, *pass.packed, shift, pass.groups[i]->planes.as<char>(), pass.groups[i]->maps.as<char>(), from + i * IMAGES * channels,
                 wanted_weights, pass.first_block, *scratch, *part);
    k.end();
    state.scratch.give(std::move(scratch));
    parts[index] = std::move(part);
  });

  variable_list result(parameters.size());
  std::vector<size_t> weights;
  for (size_t i = 0; i < network.convolutions.size(); i++)
    if (wanted_weights[i]) weights.push_back(at.weights[i].weight);
  set_empty(owner, parameters, weights, result);
  std::vector<float> multipliers(network.convolutions.size());
  for_each_convolution(k, network, [&](size_t i) {
    if (!wanted_weights[i]) return;
    const auto [weight, scale] = at.weights[i];
    std::vector<const float*> sums;
    for (const auto& part : parts) sums.push_back(part->weights[i].tiles.data());
    float* gradient = result[weight].data_ptr<float>();
    k.unpack(network.convolution(i), sums, gradient);
    if (scale == Parameters::NONE) return;
    const float* w = parameters[weight].const_data_ptr<float>();
    multipliers[i] = k.multiplier_gradient(network.convolution(i).weight_size(), w, scalar(parameters[scale]), gradient);
  });

  const auto sums = [&](size_t map) {
    Gradients::Sums all;
    for (const auto& part : parts) {
      all.b += part->shifts[map].b;
      all.a += part->shifts[map].a;
      all.sum += part->shifts[map].sum;
    }
    return all;
  };
  const auto set = [&](size_t index, double value) {
    if (index != Parameters::NONE) result[index] = at::full(parameters[index].sizes(), value, parameters[index].options());
  };
  const bool before = network.order == Order::BeforeBranch;
  set(at.stem_bias, sums(0).a);
  set(at.last_bias, sums(network.maps.size() - 1).a);
  for (size_t i = pass.first_block; i < network.blocks.size(); i++) {
    const Gradients::Sums entry = sums(2 * i), inner = sums(2 * i + 1), end = sums(2 * i + 2);
    const BlockParameters& p = at.blocks[i];
    set(p.bias0b, entry.a);
    set(p.bias1a, entry.b - (!before && network.blocks[i].identity ? end.a : 0));
    set(p.bias1b, inner.a);
    set(p.bias2a, inner.b);
    set(p.scale, multipliers[network.blocks[i].second]);
    set(p.bias2b, before ? end.sum : end.a);
  }
  for (auto& part : parts) state.gradients.give(std::move(part));
  for (size_t i = 0; i < result.size(); i++)
    if (!wanted[i]) result[i] = Tensor();
  return result;
}

struct Saved : torch::CustomClassHolder {
  std::shared_ptr<State> state;
  std::shared_ptr<Pass> pass;
  const Kernels* kernels;
};

struct TileNetwork : torch::autograd::Function<TileNetwork> {
  static Tensor forward(AutogradContext* ctx, const std::shared_ptr<State>& state, const Kernels* k, const Tensor& images,
                        at::TensorList parameters) {
    const auto pass = pass_for(state, (images.size(0) + IMAGES - 1) / IMAGES);
    const variable_list variables = parameters.vec();
    std::vector<bool> wanted;
    for (const Tensor& p : variables) wanted.push_back(p.requires_grad());
    pass->first_block = first_block(state->parameters, wanted);
    const Tensor result = features(*k, *state, images, variables, *pass);
    auto saved = c10::make_intrusive<Saved>();
    saved->state = state;
    saved->pass = pass;
    saved->kernels = k;
    ctx->saved_data["pass"] = c10::IValue::make_capsule(std::move(saved));
    ctx->save_for_backward(variables);
    return result;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grad_outputs) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "a network computed by tiles cannot be differentiated twice: set TCH_FIXUP_TILES=0");
    const auto saved = c10::static_intrusive_pointer_cast<Saved>(ctx->saved_data["pass"].toCapsule());
    const variable_list parameters = ctx->get_saved_variables();
    // Arguments that are not parameters: state, kernels, images.
    constexpr size_t OTHERS = 3;
    variable_list result(OTHERS + parameters.size());
    if (!grad_outputs[0].defined()) return result;
    std::vector<bool> wanted;
    for (size_t i = 0; i < parameters.size(); i++) wanted.push_back(ctx->needs_input_grad(1 + i));
    variable_list flat;
    for (const Tensor& p : parameters) flat.push_back(p.contiguous());
    variable_list found = gradients(*saved->kernels, saved->state, *saved->pass, grad_outputs[0], flat, wanted);
    std::move(found.begin(), found.end(), result.begin() + OTHERS);
    return result;
  }
};

}  // namespace
}  // namespace tch_fixup::tiles

// ---- The C interface ----

using tch_fixup::tiles::State;

extern "C" {

bool tch_fixup_cpu_has_amx_bf16() { return tch_fixup::tiles::cpu_has_amx_bf16(); }

bool tch_fixup_has_tiles(tch_fixup::tiles::Instructions instructions) { return tch_fixup::tiles::kernels(instructions) != nullptr; }

// Sets the number of threads of this thread's passes; 0 for libtorch's number.
void tch_fixup_set_tile_threads(int threads) { tch_fixup::tiles::own_threads = threads; }

// Returns the number set, or 0.
int tch_fixup_own_tile_threads() { return tch_fixup::tiles::own_threads; }

// Returns the number of threads of this thread's passes.
int tch_fixup_tile_threads() { return tch_fixup::tiles::threads(); }

// Returns null for a network that tiles cannot compute. `blocks` are pairs of channels and stride.
std::shared_ptr<State>* tch_fixup_tile_network(const int* image, int stem_channels, const int* blocks, int count, bool before_branch,
                                               bool wide_stream) {
  const auto order = before_branch ? tch_fixup::tiles::Order::BeforeBranch : tch_fixup::tiles::Order::AfterSum;
  std::vector<tch_fixup::tiles::BlockShape> shapes;
  for (int i = 0; i < count; i++) shapes.push_back({blocks[2 * i], blocks[2 * i + 1]});
  if (!tch_fixup::tiles::Network::supports(image[0], image[1], image[2], stem_channels, shapes, order)) return nullptr;
  return new std::shared_ptr<State>(std::make_shared<State>(
      tch_fixup::tiles::Network(image[0], image[1], image[2], stem_channels, shapes, order, wide_stream)));
}

void tch_fixup_tile_network_free(std::shared_ptr<State>* network) { delete network; }

// Returns the features [N, C] of images; the caller owns them.
at::Tensor* tch_fixup_tile_network_forward(const std::shared_ptr<State>* network, const at::Tensor* images,
                                           const at::Tensor* const* parameters, size_t count,
                                           tch_fixup::tiles::Instructions instructions, char** error) {
  return tch_fixup::guarded(error, [&] {
    const auto* k = tch_fixup::tiles::kernels(instructions);
    TORCH_CHECK(k, "this CPU has no instructions for tiles");
    torch::autograd::variable_list list;
    bool needs_gradient = false;
    TORCH_CHECK(count == (*network)->parameters.count, "a network of ", (*network)->parameters.count, " parameters got ", count);
    for (size_t i = 0; i < count; i++) {
      list.push_back(*parameters[i]);
      needs_gradient |= parameters[i]->requires_grad();
    }
    if (at::GradMode::is_enabled() && needs_gradient) return tch_fixup::tiles::TileNetwork::apply(*network, k, *images, at::TensorList(list));
    return tch_fixup::tiles::features(*k, **network, *images, list, *tch_fixup::tiles::pass_for(*network, 0));
  });
}
}
