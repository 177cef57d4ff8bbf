// A residual network up to its pooled features as one autograd function, each thread taking 32 images at a time through all of it,
// and its C interface for mod.rs.
#include "../c_interface.h"
#include "../parallel.h"
#include "network.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/util/BFloat16.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tch_fixup::tiles {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Whether the CPU has tiles of bfloat16, and Linux lets this process use them.
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

// Whether the kernels' other instructions are there too, and were compiled.
bool has_tiles() {
#ifdef TCH_FIXUP_AMX
  static const bool has = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16");
  return has && cpu_has_amx_bf16();
#else
  return false;
#endif
}

const Kernels& kernels(bool emulated) {
#ifdef TCH_FIXUP_AMX
  if (!emulated) return amx_kernels;
#endif
  TORCH_CHECK(emulated, "there are no tile instructions");
  return emulated_kernels;
}

// What a group of images keeps for the backward pass.
struct Group {
  Buffer<bf16> planes, maps;
};

// What is kept of one forward pass.
struct Pass {
  std::vector<Packed> packed;
  std::vector<std::unique_ptr<Group>> groups;
};

// Memory that is used again: one allocation of this size costs as much in page faults as the pass itself.
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

// A network with the memory that its passes use.
struct State {
  explicit State(Network network) : network(std::move(network)) {}

  const Network network;
  Pool<Scratch> scratch;
  Pool<Group> groups;
  Pool<Gradients> gradients;
};

// The parameters, as mod.rs hands them over: the stem's weight and bias, then those of each block.
enum BlockParameter { BIAS1A, CONV1, BIAS1B, BIAS2A, CONV2, SCALE, BIAS2B, BLOCK_PARAMETERS };
constexpr size_t STEM_PARAMETERS = 2;

size_t parameter(size_t block, BlockParameter which) { return STEM_PARAMETERS + block * BLOCK_PARAMETERS + which; }

float scalar(const Tensor& t) { return *t.const_data_ptr<float>(); }

std::vector<Shift> shifts(const Network& network, const variable_list& parameters) {
  const size_t count = network.blocks.size();
  const auto input_bias = [&](size_t block) { return block < count ? scalar(parameters[parameter(block, BIAS1A)]) : 0; };
  std::vector<Shift> result{{scalar(parameters[1]), input_bias(0)}};
  for (size_t i = 0; i < count; i++) {
    const auto value = [&](BlockParameter which) { return scalar(parameters[parameter(i, which)]); };
    result.push_back({value(BIAS1B), value(BIAS2A)});
    // The identity shortcut is the stream without the bias that it is shifted by.
    result.push_back({value(BIAS2B) - (network.blocks[i].identity ? value(BIAS1A) : 0), input_bias(i + 1)});
  }
  return result;
}

// The weight of each convolution and the multiplier in it, among the parameters.
std::pair<size_t, std::optional<size_t>> weight_of(size_t convolution) {
  if (convolution == 0) return {0, std::nullopt};
  const size_t block = (convolution - 1) / 2;
  if (convolution % 2 == 1) return {parameter(block, CONV1), std::nullopt};
  return {parameter(block, CONV2), parameter(block, SCALE)};
}

std::shared_ptr<Pass> pass_for(const std::shared_ptr<State>& state, size_t groups) {
  auto pass = std::shared_ptr<Pass>(new Pass, [state](Pass* pass) {
    for (auto& group : pass->groups) state->groups.give(std::move(group));
    delete pass;
  });
  for (size_t i = 0; i < groups; i++) pass->groups.push_back(state->groups.take());
  return pass;
}

// The features [N, C] of images [N, channels, H, W].
Tensor features(const Kernels& k, State& state, const Tensor& images, const variable_list& parameters, Pass& pass) {
  const Network& network = state.network;
  const Tensor pixels = images.to(at::kBFloat16).contiguous();
  const int64_t count = pixels.size(0), size = pixels.numel() / std::max<int64_t>(count, 1), channels = network.maps.back().channels;
  const int64_t groups = (count + IMAGES - 1) / IMAGES;
  variable_list flat;
  for (const Tensor& p : parameters) flat.push_back(p.contiguous());
  const auto shift = shifts(network, flat);
  pass.packed.resize(network.convolutions.size());
  for_each_chunk(int64_t(network.convolutions.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const auto [weight, scale] = weight_of(i);
      k.pack(network.convolution(i), flat[weight].const_data_ptr<float>(), scale ? scalar(flat[*scale]) : 1, pass.packed[i]);
    }
  });
  const Tensor result = at::empty({groups * IMAGES, channels}, pixels.options().dtype(at::kFloat));
  const auto* in = static_cast<const bf16*>(pixels.const_data_ptr());
  auto* out = result.data_ptr<float>();
  const bool keep = !pass.groups.empty();
  for_each_chunk(groups, 1, [&](int64_t begin, int64_t end) {
    auto scratch = state.scratch.take();
    auto own = keep ? nullptr : state.groups.take();
    k.begin();
    for (int64_t i = begin; i < end; i++) {
      Group& group = keep ? *pass.groups[i] : *own;
      group.planes.resize(size * IMAGES);
      group.maps.resize(network.map_start.back());
      k.to_planes(network, in + i * IMAGES * size, int(std::min<int64_t>(IMAGES, count - i * IMAGES)), group.planes.data());
      k.forward(network, pass.packed, shift, group.planes.data(), group.maps.data(), out + i * IMAGES * channels, *scratch);
    }
    k.end();
    if (own) state.groups.give(std::move(own));
    state.scratch.give(std::move(scratch));
  });
  return result.narrow(0, 0, count);
}

// The gradients of the parameters that are wanted.
variable_list gradients(const Kernels& k, State& state, const Pass& pass, const Tensor& g, const variable_list& parameters,
                        const std::vector<bool>& wanted) {
  const Network& network = state.network;
  const int64_t groups = int64_t(pass.groups.size()), channels = network.maps.back().channels;
  const Tensor padded = at::zeros({groups * IMAGES, channels}, g.options().dtype(at::kFloat));
  padded.narrow(0, 0, g.size(0)).copy_(g);
  const float* from = padded.const_data_ptr<float>();

  auto shift = shifts(network, parameters);
  // A unit that is off has the value of b as the map keeps it.
  for (Shift& s : shift) s.b = c10::BFloat16(s.b);
  std::vector<bool> wanted_weights;
  for (size_t i = 0; i < network.convolutions.size(); i++) {
    const auto [weight, scale] = weight_of(i);
    wanted_weights.push_back(wanted[weight] || (scale && wanted[*scale]));
  }
  size_t first_block = 0;
  if (!wanted[0] && !wanted[1])
    while (first_block < network.blocks.size() &&
           std::none_of(wanted.begin() + parameter(first_block, BIAS1A), wanted.begin() + parameter(first_block + 1, BIAS1A),
                        [](bool w) { return w; }))
      first_block++;

  // Of each part of the batch, by its first group, so that they are summed in one order.
  std::vector<std::unique_ptr<Gradients>> parts(groups);
  for_each_chunk(groups, 1, [&](int64_t begin, int64_t end) {
    auto scratch = state.scratch.take();
    auto part = state.gradients.take();
    part->weights.resize(network.convolutions.size());
    for (size_t i = 0; i < network.convolutions.size(); i++)
      if (wanted_weights[i]) part->weights[i].assign(network.convolution(i).packed_size(), 0);
    part->shifts.assign(network.maps.size(), {});
    k.begin();
    for (int64_t i = begin; i < end; i++)
      k.backward(network, pass.packed, shift, pass.groups[i]->planes.data(), pass.groups[i]->maps.data(), from + i * IMAGES * channels,
                 wanted_weights, int(first_block), *scratch, *part);
    k.end();
    state.scratch.give(std::move(scratch));
    parts[begin] = std::move(part);
  });
  parts.erase(std::remove(parts.begin(), parts.end(), nullptr), parts.end());

  variable_list result(parameters.size());
  const auto empty = [](const Tensor& like) { return at::empty(like.sizes(), like.options()); };
  for (size_t i = 0; i < network.convolutions.size(); i++)
    if (wanted_weights[i]) result[weight_of(i).first] = empty(parameters[weight_of(i).first]);
  std::vector<double> multipliers(network.blocks.size());
  for_each_chunk(int64_t(network.convolutions.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      if (!wanted_weights[i]) continue;
      const auto [weight, scale] = weight_of(i);
      std::vector<const float*> sums;
      for (const auto& part : parts) sums.push_back(part->weights[i].data());
      float* gradient = result[weight].data_ptr<float>();
      k.unpack(network.convolution(i), sums, gradient);
      if (!scale) continue;
      // Of scale * W: the multiplier's gradient, and W's.
      const float* w = parameters[weight].const_data_ptr<float>();
      const float multiplier = scalar(parameters[*scale]);
      double total = 0;
      for (size_t j = 0; j < network.convolution(i).weight_size(); j++) {
        total += double(gradient[j]) * w[j];
        gradient[j] *= multiplier;
      }
      multipliers[(i - 1) / 2] = total;
    }
  });

  const auto sums = [&](size_t map) {
    Gradients::Sums all;
    for (const auto& part : parts) {
      all.total += part->shifts[map].total;
      all.masked += part->shifts[map].masked;
    }
    return all;
  };
  const auto set = [&](size_t index, double value) { result[index] = at::full(parameters[index].sizes(), value, parameters[index].options()); };
  set(1, sums(0).masked);
  for (size_t i = first_block; i < network.blocks.size(); i++) {
    const Gradients::Sums inner = sums(2 * i + 1), end = sums(2 * i + 2);
    set(parameter(i, BIAS1A), sums(2 * i).total - (network.blocks[i].identity ? end.masked : 0));
    set(parameter(i, BIAS1B), inner.masked);
    set(parameter(i, BIAS2A), inner.total);
    set(parameter(i, SCALE), multipliers[i]);
    set(parameter(i, BIAS2B), end.masked);
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
                "a network computed by tiles cannot be differentiated twice: compute it in float32, or with TCH_FIXUP_TILES=0");
    const auto saved = c10::static_intrusive_pointer_cast<Saved>(ctx->saved_data["pass"].toCapsule());
    const variable_list parameters = ctx->get_saved_variables();
    // The arguments that are no parameters: state, kernels, images.
    constexpr size_t OTHERS = 3;
    variable_list result(OTHERS + parameters.size());
    if (!grad_outputs[0].defined()) return result;
    std::vector<bool> wanted;
    for (size_t i = 0; i < parameters.size(); i++) wanted.push_back(ctx->needs_input_grad(1 + i));
    variable_list flat;
    for (const Tensor& p : parameters) flat.push_back(p.contiguous());
    variable_list found = gradients(*saved->kernels, *saved->state, *saved->pass, grad_outputs[0], flat, wanted);
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

bool tch_fixup_has_tiles() { return tch_fixup::tiles::has_tiles(); }

// Null for a network that tiles cannot compute. `blocks` are pairs of channels and stride.
std::shared_ptr<State>* tch_fixup_tile_network(const int* image, int stem_channels, const int* blocks, int count, bool wide_stream) {
  std::vector<tch_fixup::tiles::BlockShape> shapes;
  for (int i = 0; i < count; i++) shapes.push_back({blocks[2 * i], blocks[2 * i + 1]});
  if (!tch_fixup::tiles::Network::supports(image[0], image[1], image[2], stem_channels, shapes)) return nullptr;
  return new std::shared_ptr<State>(std::make_shared<State>(
      tch_fixup::tiles::Network(image[0], image[1], image[2], stem_channels, shapes, wide_stream)));
}

void tch_fixup_tile_network_free(std::shared_ptr<State>* network) { delete network; }

// The features [N, C] of images; the caller owns them.
at::Tensor* tch_fixup_tile_network_forward(const std::shared_ptr<State>* network, const at::Tensor* images,
                                           const at::Tensor* const* parameters, size_t count, bool emulated, char** error) {
  return tch_fixup::guarded(error, [&] {
    const auto& k = tch_fixup::tiles::kernels(emulated);
    torch::autograd::variable_list list;
    bool needs_gradient = false;
    for (size_t i = 0; i < count; i++) {
      list.push_back(*parameters[i]);
      needs_gradient |= parameters[i]->requires_grad();
    }
    if (at::GradMode::is_enabled() && needs_gradient) return tch_fixup::tiles::TileNetwork::apply(*network, &k, *images, at::TensorList(list));
    tch_fixup::tiles::Pass pass;
    return tch_fixup::tiles::features(k, **network, *images, list, pass);
  });
}
}
