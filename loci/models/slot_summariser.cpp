// Legend: B texts, N sentences, L words of a sentence, T words of a summary, r slots, e width of words, d width, V
// vocabulary.
#include "loci/models/slot_summariser.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gru.h>
#include <ATen/ops/gru_cell.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/nn/utils/rnn.h>

#include <cmath>
#include <tuple>
#include <utility>

#include "loci/base/check.h"
#include "loci/models/trained_parameters.h"
#include "loci/nn/initialise.h"

namespace loci {

using at::Tensor;

namespace {

constexpr int64_t kNoTarget = -1;

Tensor linear_start(uint64_t seed, const std::string& name, int64_t outputs, int64_t inputs) {
  return normal_start(seed, name, {outputs, inputs}, 1 / std::sqrt(static_cast<double>(inputs)));
}

// W_x, W_h, b_x, b_h of a GRU of h states.
std::vector<Tensor> gru_start(uint64_t seed, const std::string& name, int64_t inputs, int64_t h) {
  const double bound = 1 / std::sqrt(static_cast<double>(h));
  return {uniform_start(seed, name + ".input_weight", {3 * h, inputs}, bound),
          uniform_start(seed, name + ".state_weight", {3 * h, h}, bound),
          uniform_start(seed, name + ".input_bias", {3 * h}, bound),
          uniform_start(seed, name + ".state_bias", {3 * h}, bound)};
}

int64_t gru_parameters(int64_t inputs, int64_t h) {
  return 3 * h * (inputs + h + 2);
}

constexpr const char* kGruParameters[] = {"input_weight", "state_weight", "input_bias", "state_bias"};

}  // namespace

void SlotSummariserOptions::fields(ConfigFields& f) {
  f.choice<SummaryMemory>("memory", memory,
                          "what the decoder reads: nothing, all sentences, slots, slots it overwrites",
                          {{"none", SummaryMemory::none},
                           {"attention", SummaryMemory::attention},
                           {"read", SummaryMemory::read},
                           {"read_write", SummaryMemory::read_write}});
  f.when(has_slots(), "model.memory is \"read\" or \"read_write\"", [&] {
    f.field("slots", slots, "vectors that a text is compressed into", {.minimum = 1, .maximum = 4096});
    f.field("penalty", penalty, "weight of |A A^T - I|^2 in the loss; 0: slots may look at the same sentence",
            {.minimum = 0, .maximum = 1e6});
  });
  f.field("embedding", embedding, "width of words", {.minimum = 1, .maximum = 1 << 14});
  f.field("width", width, "width of sentences, slots and the decoder's state; even",
          {.minimum = 2, .maximum = 1 << 14});
}

void SlotSummariserOptions::check() const {
  if (width % 2 != 0) fail(ExitCode::usage, "config", "model.width must be even", fmt::to_string(width));
}

int64_t SlotSummariserOptions::parameters() const {
  const int64_t d = width, e = embedding, half = d / 2;
  int64_t count = vocabulary * e + 2 * gru_parameters(e, half) + 2 * gru_parameters(d, half) + d * d + d +
                  gru_parameters(e + content(), d) + vocabulary * (d + content() + 1);
  if (has_slots()) count += d * d + slots * d;
  if (memory != SummaryMemory::none) count += d * d;
  if (memory == SummaryMemory::read_write) count += 2 * d * d + d;
  return count;
}

int64_t SlotSummariserOptions::multiply_adds(const TextExtents& text) const {
  const int64_t d = width, e = embedding, half = d / 2;
  const int64_t of_word = 2 * gru_parameters(e, half);
  int64_t of_sentence = 2 * gru_parameters(d, half);
  int64_t of_step = gru_parameters(e + content(), d) + vocabulary * (d + content());
  if (has_slots()) of_sentence += d * d + 2 * slots * d;
  if (memory != SummaryMemory::none) of_step += d * d + 2 * (has_slots() ? slots : text.sentences) * d;
  if (memory == SummaryMemory::read_write) of_step += 2 * d * d + 2 * slots * d;
  return text.sentences * (text.words * of_word + of_sentence) + d * d + text.summary * of_step;
}

double SlotSummariserOptions::kept_numbers(const TextExtents& text) const {
  // A step of a GRU keeps its gates, before and behind their functions, and its states.
  const double of_gru = 10 * static_cast<double>(width);
  double of_step = of_gru + static_cast<double>(embedding + 2 * content() + 2 * vocabulary);
  if (has_slots()) of_step += static_cast<double>(4 * slots * width);
  const double of_sentence = static_cast<double>(text.words) * (of_gru + static_cast<double>(embedding)) + of_gru +
                             static_cast<double>(3 * width + slots);
  return static_cast<double>(text.sentences) * of_sentence + static_cast<double>(text.summary) * of_step;
}

// A GRU in both directions, half the states each.
struct SlotSummariser::Bidirectional : torch::nn::Module {
  Bidirectional(const std::string& name, int64_t inputs, int64_t width, uint64_t seed) : Module("Bidirectional") {
    for (const char* direction : {"forward", "backward"}) {
      const std::vector<Tensor> start = gru_start(seed, name + "." + direction, inputs, width / 2);
      for (size_t i = 0; i < start.size(); ++i) {
        weights.push_back(register_parameter(fmt::format("{}_{}", direction, kGruParameters[i]), start[i]));
      }
    }
  }

  // x [n, T, inputs], lengths [n] int64, at least 1; undefined: all are T. States [n, T, width], which are 0 behind a
  // sequence, and the last ones of each direction [n, width].
  std::pair<Tensor, Tensor> forward(const Tensor& x, const Tensor& lengths) const {
    namespace rnn = torch::nn::utils::rnn;
    const Tensor zeros = at::zeros({2, x.size(0), weights[1].size(1)}, x.options());
    if (!lengths.defined()) {
      const auto [states, last] = at::gru(x, zeros, weights, /*has_biases=*/true, 1, 0, is_training(), true, true);
      return {states, last.transpose(0, 1).flatten(1)};
    }
    const rnn::PackedSequence packed = rnn::pack_padded_sequence(x, lengths, /*batch_first=*/true, false);
    const auto [data, last] =
        at::gru(packed.data(), packed.batch_sizes(), zeros, weights, /*has_biases=*/true, 1, 0, is_training(), true);
    const rnn::PackedSequence states(data, packed.batch_sizes(), packed.sorted_indices(), packed.unsorted_indices());
    const Tensor padded = std::get<0>(rnn::pad_packed_sequence(states, /*batch_first=*/true, 0, x.size(1)));
    return {padded, last.index_select(1, packed.unsorted_indices()).transpose(0, 1).flatten(1)};
  }

  std::vector<Tensor> weights;  // gru_start of each direction
};

SlotSummariser::~SlotSummariser() = default;

SlotSummariser::SlotSummariser(const SlotSummariserOptions& options, uint64_t seed)
    : Module("SlotSummariser"), options_(options) {
  options.check();
  const int64_t V = options.vocabulary, e = options.embedding, d = options.width, c = options.content();
  embedding_ = register_parameter("embedding", normal_start(seed, "embedding", {V, e}, 1));
  words_ = register_module("words", std::make_shared<Bidirectional>("words", e, d, seed));
  sentences_ = register_module("sentences", std::make_shared<Bidirectional>("sentences", d, d, seed));
  start_weight_ = register_parameter("start_weight", linear_start(seed, "start_weight", d, d));
  start_bias_ = register_parameter("start_bias", at::zeros({d}));
  const std::vector<Tensor> start = gru_start(seed, "decoder", e + c, d);
  for (size_t i = 0; i < start.size(); ++i) {
    decoder_.push_back(register_parameter(fmt::format("decoder_{}", kGruParameters[i]), start[i]));
  }
  output_weight_ = register_parameter("output_weight", linear_start(seed, "output_weight", V, d + c));
  output_bias_ = register_parameter("output_bias", at::zeros({V}));
  if (options.has_slots()) {
    compress_ = register_module("compress", std::make_shared<CompressToSlots>("compress", d, options.slots, seed));
  }
  if (options.memory != SummaryMemory::none) {
    memory_ = register_module("memory", std::make_shared<SlotMemory>("memory", d, d, seed));
    if (options.memory != SummaryMemory::read_write) {
      for (const auto& unused : {memory_->erase_weight, memory_->erase_bias, memory_->add_weight}) {
        unused.set_requires_grad(false);
      }
    }
  }
}

std::vector<NamedParameter> SlotSummariser::dense_parameters() const {
  std::vector<NamedParameter> parameters = trained_parameters(*this);
  for (NamedParameter& parameter : parameters) parameter.embedding = parameter.name == "embedding";
  return parameters;
}

SlotSummariser::Encoded SlotSummariser::encode(const Tensor& words) const {
  TORCH_CHECK(words.dim() == 3 && words.scalar_type() == at::kLong && words.size(1) > 0 && words.size(2) > 0,
              "SlotSummariser: words must be [B, N, L] of Long with N and L of at least 1, got ", words.sizes(), " of ",
              words.scalar_type());
  const int64_t B = words.size(0), N = words.size(1), L = words.size(2), d = options_.width;
  const Tensor lengths = words.ne(0).sum(2);  // [B, N]
  const bool whole = lengths.eq(L).all().item<bool>();
  Tensor v, mask, sentences;  // v [B, N, d], mask [B, N], sentences [B]
  if (whole) {
    v = words_->forward(at::embedding(embedding_, words.view({B * N, L})), {}).second.view({B, N, d});
  } else {
    mask = lengths.gt(0);
    sentences = mask.sum(1);
    // Sentences of a text, and words of one, without a gap before them.
    const Tensor first = mask.cumprod(1).sum(1), of_sentence = words.ne(0).cumprod(2).sum(2);
    TORCH_CHECK(sentences.gt(0).all().item<bool>() && first.equal(sentences) && of_sentence.equal(lengths),
                "SlotSummariser: a text must have a sentence, and sentences and their words must stand first, got ",
                "gaps or an empty text");
    const Tensor there = mask.flatten().nonzero().squeeze(1);
    const Tensor x = at::embedding(embedding_, words.view({B * N, L}).index_select(0, there));
    const Tensor of_sentences = words_->forward(x, lengths.flatten().index_select(0, there)).second;
    v = at::zeros({B * N, d}, of_sentences.options()).index_copy(0, there, of_sentences).view({B, N, d});
  }
  const auto [H, last] = sentences_->forward(v, sentences);
  Encoded encoded;
  encoded.state = at::linear(last, start_weight_, start_bias_).tanh();
  if (compress_) {
    const CompressedSlots slots = compress_->forward(H, mask);
    encoded.memory = slots.slots;
    encoded.weight = slots.weight;
    encoded.penalty = slots.penalty;
  } else if (memory_) {
    encoded.memory = H;
    encoded.mask = mask;
  }
  return encoded;
}

void SlotSummariser::step(Decoding& decoding, const Tensor& word, const Tensor& mask) const {
  Tensor input = at::embedding(embedding_, word), weight;  // [B, e], [B, n]
  if (memory_) {
    const SlotRead read = memory_->read(decoding.memory, decoding.state, mask);
    decoding.content = read.content;
    weight = read.weight;
    input = at::cat({input, read.content}, 1);
  }
  decoding.state = at::gru_cell(input, decoding.state, decoder_[0], decoder_[1], decoder_[2], decoder_[3]);
  if (options_.memory == SummaryMemory::read_write) {
    decoding.memory = memory_->write(decoding.memory, decoding.state, weight);
  }
}

Tensor SlotSummariser::logits(const Tensor& state, const Tensor& content) const {
  return at::linear(memory_ ? at::cat({state, content}, -1) : state, output_weight_, output_bias_);
}

SummaryLoss SlotSummariser::loss(const Tensor& words, const Tensor& summary, int64_t begin) const {
  const Encoded encoded = encode(words);
  Decoding decoding = {encoded.memory, encoded.state, {}};
  const int64_t T = summary.size(1);
  const Tensor first = at::full({summary.size(0), 1}, begin, summary.options());
  const Tensor given = at::cat({first, summary.narrow(1, 0, T - 1).clamp_min(0)}, 1);
  std::vector<Tensor> states, contents;
  for (int64_t t = 0; t < T; ++t) {
    step(decoding, given.select(1, t), encoded.mask);
    states.push_back(decoding.state);
    contents.push_back(decoding.content);
  }
  const Tensor scores = logits(at::stack(states, 1), memory_ ? at::stack(contents, 1) : Tensor());  // [B, T, V]
  SummaryLoss found;
  found.words =
      at::cross_entropy_loss(scores.flatten(0, 1), summary.flatten(), {}, at::Reduction::Mean, /*ignore=*/kNoTarget);
  found.penalty = compress_ ? encoded.penalty.mean() : at::zeros({}, found.words.options());
  found.total = options_.penalty > 0 && compress_ ? found.words + options_.penalty * found.penalty : found.words;
  return found;
}

Tensor SlotSummariser::greedy(const Encoded& encoded, int64_t begin, int64_t end, int64_t steps) const {
  Decoding decoding = {encoded.memory, encoded.state, {}};
  Tensor word = at::full({encoded.state.size(0)}, begin, at::kLong), ended = word.eq(end);
  std::vector<Tensor> written;
  for (int64_t t = 0; t < steps; ++t) {
    step(decoding, word, encoded.mask);
    word = logits(decoding.state, decoding.content).argmax(1).masked_fill(ended, end);
    ended = ended.logical_or(word.eq(end));
    written.push_back(word);
  }
  return at::stack(written, 1);
}

}  // namespace loci
