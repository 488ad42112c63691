// Networks and blocks behind a command line, in evaluation, for the comparison with their formulas in Python
// (test_weights.py).
//   network_tool OPTIONS.toml WEIGHTS INPUT OUTPUT     INPUT has the tensor x; OUTPUT gets y, what the network returns
// With `train` a block starts as it is drawn from `seed` under the name "block", but for the tensors of WEIGHTS, and is
// run in training: INPUT has grad, that of y, and OUTPUT gets "grad.x", "grad.NAME" of its parameters, parameters and
// buffers. The relatives of the non-local block are always run so, and machines: two of them, `seed` and `seed` + 1,
// with the module HALF after the standard ones; INPUT has the tensors of RamUnrollInput, OUTPUT gets those of
// RamUnrollOutput. Slots read and write once for each of `states`, and y is all they give (trained_slots).
// Attention over views is always run so.
// Of a retrieval memory INPUT has items and mask too.
// An ODE block is that of tanh(W z + b). Binary layers are a convolution, drawn signs and a product.
#include <ATen/ops/cat.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/models/image_resnet.h"
#include "loci/models/load_state.h"
#include "loci/models/video_resnet.h"
#include "loci/nn/machine/neural_ram.h"
#include "loci/nn/relation/criss_cross.h"
#include "loci/nn/relation/efficient_attention.h"
#include "loci/nn/relation/global_context.h"
#include "loci/nn/relation/non_local.h"
#include "loci/nn/small/binary_layers.h"
#include "loci/nn/small/ode_block.h"
#include "loci/nn/small/retrieval_memory.h"
#include "loci/nn/small/slots.h"
#include "loci/nn/small/view_attention.h"
#include "loci/train/tensor_file.h"

namespace {

enum class Kind {
  image_resnet,
  video_resnet,
  non_local,
  global_context,
  criss_cross,
  efficient_attention,
  neural_ram,
  slots,
  view_attention,
  retrieval_memory,
  ode_block,
  binary
};

struct RetrievalDescription : loci::RetrievalMemoryOptions {
  void fields(loci::ConfigFields& f) {
    f.field("vocabulary", vocabulary, "tokens");
    f.field("length", length, "of an item");
    f.field("count_padding", count_padding, "as a token");
    f.field("zero_start", zero_start, "of what is added");
    read.fields(f);
  }
};

struct Description {
  Kind kind = Kind::image_resnet;
  int64_t classes = 4;
  int64_t channels = 3;
  loci::ImageResnetOptions image;
  loci::VideoResnetOptions video;
  loci::NonLocalOptions block;
  loci::GlobalContextOptions context;
  loci::CrissCrossOptions cross;
  loci::EfficientAttentionOptions efficient;
  loci::NeuralRamOptions machine;
  RetrievalDescription retrieval;
  loci::OdeBlockOptions ode;
  bool train = false;
  int64_t seed = 0;

  void fields(loci::ConfigFields& f) {
    f.choice("kind", kind, "what is run",
             {{"image_resnet", Kind::image_resnet},
              {"video_resnet", Kind::video_resnet},
              {"non_local", Kind::non_local},
              {"global_context", Kind::global_context},
              {"criss_cross", Kind::criss_cross},
              {"efficient_attention", Kind::efficient_attention},
              {"neural_ram", Kind::neural_ram},
              {"slots", Kind::slots},
              {"view_attention", Kind::view_attention},
              {"retrieval_memory", Kind::retrieval_memory},
              {"ode_block", Kind::ode_block},
              {"binary", Kind::binary}});
    f.field("classes", classes, "of a network");
    f.field("channels", channels, "of the input");
    f.section("image", image);
    f.field("depth", video.depth, "of a video network");
    f.field("width", video.width, "of a video network");
    f.field("time_halvings", video.time_halvings, "of a video network");
    f.choice("inflation", video.inflation, "of a video network",
             {{"none", loci::Inflation::none},
              {"first", loci::Inflation::first_convolution},
              {"second", loci::Inflation::second_convolution}});
    f.field("after", video.non_local.after, "of a video network");
    f.field("dimensions", block.dimensions, "of a block");
    f.field("train", train, "whether a block is trained");
    f.field("seed", seed, "of a block");
    f.section("non_local", block);
    f.section("global_context", context);
    f.section("criss_cross", cross);
    f.section("efficient_attention", efficient);
    f.section("neural_ram", machine);
    f.section("retrieval_memory", retrieval);
    f.field("concat", ode.concat, "of an ODE block");
    f.field("whole", ode.whole, "of an ODE block");
    f.section("ode_block", ode);
  }
};

at::Tensor output_of(Description d, const std::map<std::string, at::Tensor>& weights, const at::Tensor& x) {
  if (d.kind == Kind::image_resnet) {
    d.image.classes = d.classes;
    d.image.channels = d.channels;
    loci::ImageResnet network(d.image, 0);
    network.load(weights);
    network.eval();
    return network.forward(x);
  }
  if (d.kind == Kind::video_resnet) {
    d.video.classes = d.classes;
    d.video.channels = d.channels;
    static_cast<loci::NonLocalOptions&>(d.video.non_local) = d.block;
    d.video.has_non_local = !d.video.non_local.after.empty();
    loci::VideoResnet network(d.video, 0);
    network.load(weights);
    network.eval();
    return network.forward(x);
  }
  d.block.channels = d.channels;
  loci::NonLocal block("block", d.block, 0);
  loci::load_state("NonLocal", block, weights, [](const std::string&) { return std::string(); });
  block.eval();
  return block.forward(x);
}

using Tensors = std::map<std::string, at::Tensor>;

template <class Block>
Tensors trained(Block&& block, const Tensors& weights, const Tensors& input) {
  {
    const at::NoGradGuard no_gradient;
    auto parameters = block.named_parameters();
    for (const auto& [name, value] : weights) parameters[name].copy_(value);
  }
  const at::Tensor x = input.at("x").clone().set_requires_grad(true);
  const at::Tensor y = block.forward(x);
  y.backward(input.at("grad"));
  Tensors found = {{"y", y.detach()}, {"grad.x", x.grad()}};
  for (const auto& parameter : block.named_parameters()) {
    found[parameter.key()] = parameter.value().detach();
    if (parameter.value().grad().defined()) found["grad." + parameter.key()] = parameter.value().grad();
  }
  for (const auto& buffer : block.named_buffers()) found[buffer.key()] = buffer.value();
  return found;
}

// With the hidden width `classes`. INPUT has mask, 1 where a view is present.
struct MaskedViews : loci::ViewAttention {
  MaskedViews(const Description& d, at::Tensor present)
      : ViewAttention("block", d.channels, d.classes, static_cast<uint64_t>(d.seed)), mask(std::move(present)) {}
  at::Tensor forward(const at::Tensor& x) const { return ViewAttention::forward(x, mask); }
  at::Tensor mask;
};

Tensors trained_machines(Description d, const Tensors& input) {
  d.machine.modules.push_back(
      {"HALF", 1, loci::RamModule::Role::pure, [](uint32_t a, uint32_t, uint32_t) { return a / 2; }, "{a}/2", "a / 2"});
  const auto seed = static_cast<uint64_t>(d.seed);
  loci::NeuralRam machine(d.machine, {seed, seed + 1});
  const auto out = machine.run(
      {input.at("tape"), input.at("target"), input.at("cell_weight"), input.at("steps"), input.at("bonus")}, true);
  out.objective.sum().backward();
  const at::Tensor& controllers = machine.parameters_of_seeds();
  return {{"controllers", controllers.detach()},
          {"grad.controllers", controllers.grad()},
          {"objective", out.objective.detach()},
          {"loss", out.loss},
          {"entropy", out.entropy},
          {"wrong", out.wrong},
          {"gradient", out.gradient},
          {"sound", out.sound.to(at::kInt)}};
}

// INPUT: x [B, N, channels], its mask [B, N], states [T, B, S]. y: the penalties, what each state reads, the last
// slots.
struct SlotNetwork : torch::nn::Module {
  SlotNetwork(const Description& d, Tensors input) : input_(std::move(input)) {
    const auto seed = static_cast<uint64_t>(d.seed);
    compress = register_module("compress", std::make_shared<loci::CompressToSlots>("compress", d.channels, 4, seed));
    memory = register_module(
        "memory", std::make_shared<loci::SlotMemory>("memory", d.channels, input_.at("states").size(2), seed));
  }
  at::Tensor forward(const at::Tensor& x) {
    const loci::CompressedSlots start = compress->forward(x, input_.at("mask").to(at::kBool));
    at::Tensor slots = start.slots;
    std::vector<at::Tensor> found = {start.penalty};
    for (const at::Tensor& state : input_.at("states").unbind()) {
      const loci::SlotRead read = memory->read(slots, state);
      found.push_back(read.content.flatten());
      slots = memory->write(slots, state, read.weight);
    }
    found.push_back(slots.flatten());
    return at::cat(found);
  }

  std::shared_ptr<loci::CompressToSlots> compress;
  std::shared_ptr<loci::SlotMemory> memory;

 private:
  Tensors input_;
};

// x [B, channels, height, width]; two batches are made, and the second one's output is given.
struct BinaryNetwork : torch::nn::Module {
  BinaryNetwork(const Description& d, const at::Tensor& x) {
    const auto seed = static_cast<uint64_t>(d.seed);
    convolution = register_module("convolution",
                                  std::make_shared<loci::BinaryConv2d>("block.convolution", d.channels, 4, 3, seed));
    sign = register_module("sign", std::make_shared<loci::StraightThroughSign>("block.sign", true, seed));
    linear = register_module("linear",
                             std::make_shared<loci::BinaryLinear>("block.linear", 4 * x.size(2) * x.size(3), 5, seed));
  }
  at::Tensor forward(const at::Tensor& x) {
    sign->forward(x.detach());
    return linear->forward(sign->forward(convolution->forward(x) / 8).flatten(1));
  }

  std::shared_ptr<loci::BinaryConv2d> convolution;
  std::shared_ptr<loci::StraightThroughSign> sign;
  std::shared_ptr<loci::BinaryLinear> linear;
};

struct RetrievalNetwork : loci::RetrievalMemory {
  RetrievalNetwork(const Description& d, Tensors input)
      : RetrievalMemory("block", with_width(d), static_cast<uint64_t>(d.seed)), input_(std::move(input)) {}
  at::Tensor forward(const at::Tensor& x) const {
    return RetrievalMemory::forward(x, input_.at("items"), input_.at("mask").to(at::kBool));
  }

 private:
  static loci::RetrievalMemoryOptions with_width(const Description& d) {
    loci::RetrievalMemoryOptions options = d.retrieval;
    options.width = d.channels;
    return options;
  }
  Tensors input_;
};

Tensors trained_block(Description d, const Tensors& weights, const Tensors& input) {
  const auto run = [&]<class Block>(auto options) {
    options.channels = d.channels;
    if constexpr (requires { options.dimensions; }) options.dimensions = d.block.dimensions;
    return trained(Block("block", options, static_cast<uint64_t>(d.seed)), weights, input);
  };
  switch (d.kind) {
    case Kind::global_context:
      return run.operator()<loci::GlobalContext>(d.context);
    case Kind::criss_cross:
      return run.operator()<loci::CrissCross>(d.cross);
    case Kind::efficient_attention:
      return run.operator()<loci::EfficientAttention>(d.efficient);
    case Kind::neural_ram:
      return trained_machines(d, input);
    case Kind::slots:
      return trained(SlotNetwork(d, input), weights, input);
    case Kind::view_attention:
      return trained(MaskedViews(d, input.at("mask") > 0), weights, input);
    case Kind::retrieval_memory:
      return trained(RetrievalNetwork(d, input), weights, input);
    case Kind::binary:
      return trained(BinaryNetwork(d, input.at("x")), weights, input);
    case Kind::ode_block: {
      d.ode.channels = d.channels;
      const torch::nn::Sequential field(torch::nn::Linear(d.ode.field_inputs(), d.ode.part_channels()),
                                        torch::nn::Tanh());
      return trained(loci::OdeBlock({loci::OdePart::of(field.ptr())}, d.ode, static_cast<uint64_t>(d.seed), "block"),
                     weights, input);
    }
    default:
      return run.operator()<loci::NonLocal>(d.block);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 5) {
      Description description;
      loci::Config::from_file(argv[1]).read(description);
      const auto weights = loci::read_tensors(argv[2]);
      if (description.train || description.kind > Kind::non_local) {
        const auto found = trained_block(description, weights, loci::read_tensors(argv[3]));
        return loci::write_tensors(argv[4], {found.begin(), found.end()}), 0;
      }
      const c10::InferenceMode no_gradient;
      const at::Tensor y = output_of(description, weights, loci::read_tensors(argv[3]).at("x"));
      return loci::write_tensors(argv[4], {{"y", y}}), 0;
    }
  } catch (const loci::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
  std::fprintf(stderr, "network_tool OPTIONS.toml WEIGHTS INPUT OUTPUT\n");
  return 2;
}
