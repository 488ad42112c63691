#include "loci/nn/memory/memory_map.h"

#include <ATen/TensorOperators.h>

#include <utility>

#include "loci/base/check.h"
#include "loci/nn/memory/convolution_query_net.h"

namespace loci {
namespace {

using at::Tensor;

constexpr const char* kMapForms[] = {"[B, C]", "[B, C, length]", "[B, C, height, width]",
                                     "[B, C, frames, height, width]"};

void check_map_options(const MemoryMapOptions& o) {
  const auto refuse = [](const std::string& expected, const std::string& got) {
    fail(ExitCode::usage, "MemoryMap", expected, got);
  };
  if (o.dimensions < 0 || o.dimensions > 3) refuse("dimensions must be within 0 .. 3", std::to_string(o.dimensions));
  if (o.query_kernels.size() != o.query_hidden.size() + 1) {
    refuse(fmt::format("query_kernels must be one more than the {} query_hidden", o.query_hidden.size()),
           std::to_string(o.query_kernels.size()));
  }
}

// None where the memory's own linear map does.
std::shared_ptr<QueryNet> map_query_net(const std::string& name, const MemoryMapOptions& o, uint64_t seed) {
  if (o.query_kernels == std::vector<int64_t>{1}) return nullptr;
  std::vector<int64_t> channels = {o.width};
  channels.insert(channels.end(), o.query_hidden.begin(), o.query_hidden.end());
  channels.push_back(o.heads * resolved_key_width(o, o.width));
  return std::make_shared<ConvolutionQueryNet>(name, o.dimensions, o.query_kernels, channels,
                                               keeps_constant(o.query_norm), seed);
}

ProductKeyMemoryOptions token_options(const MemoryMapOptions& options, bool own_net) {
  ProductKeyMemoryOptions result = options;
  if (own_net) result.query_hidden.clear();
  return result;
}

}  // namespace

void MemoryMapOptions::fields(ConfigFields& f) {
  ProductKeyMemoryOptions::fields(f);
  f.field("dimensions", dimensions, "of a map: 1, 2 or 3; 0: one query an image", {.minimum = 0, .maximum = 3});
  f.field("query_kernels", query_kernels, "odd edges of the query's convolutions", {.minimum = 1, .maximum = 63});
}

MemoryMap::MemoryMap(const std::string& name, const MemoryMapOptions& options, TablePtr table, uint64_t seed)
    : Module("MemoryMap"), options_(options) {
  check_map_options(options);
  auto net = map_query_net(name, options, seed);
  const bool own_net = net != nullptr;
  memory = register_module("memory", std::make_shared<ProductKeyMemory>(name, token_options(options, own_net),
                                                                        std::move(table), seed, std::move(net)));
}

Tensor MemoryMap::tokens(const Tensor& x) const {
  TORCH_CHECK(x.dim() == options_.dimensions + 2 && x.size(1) == options_.width, name(), ": x must be ",
              kMapForms[options_.dimensions], " with C = ", options_.width, ", got ", x.sizes());
  return x.movedim(1, -1).contiguous();
}

Tensor MemoryMap::map_like(const Tensor& x, const Tensor& tokens) {
  const Tensor map = tokens.movedim(-1, 1);
  return x.is_contiguous() ? map.contiguous() : map;
}

Tensor MemoryMap::forward(const Tensor& x, const BlockContext& context) {
  return map_like(x, memory->forward(tokens(x), context));
}

MemoryReads MemoryMap::read_with_indices(const Tensor& x, const BlockContext& context) {
  return memory->read_with_indices(tokens(x), context);
}

}  // namespace loci
