// Legend: B dialogues of a batch, N sentences, L tokens of a sentence, T tokens of a summary with its end.
#include "loci/tasks/meetings.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/base/stop_signal.h"
#include "loci/tasks/language_model.h"
#include "loci/tasks/network_size.h"

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kDialoguesAtOnce = 50;  // of an evaluation
constexpr int64_t kMeetingBegin = 1, kMeetingEnd = 2, kFirstToken = 3;
constexpr size_t kLeadSentences = 3;
constexpr int64_t kByteTokens = 257;  // of the byte tokenizer: the bytes and the end of a text

// At most `most` tokens.
std::vector<int64_t> words_of_text(const Tokenizer& tokenizer, const std::string& text, int64_t most) {
  std::vector<int64_t> words;
  for (const int32_t token : tokenizer.encode(text)) {
    if (std::ssize(words) == most) break;
    words.push_back(kFirstToken + token);
  }
  return words;
}

std::vector<EncodedDialogue> encode_dialogues(const Tokenizer& tokenizer, const std::vector<Dialogue>& dialogues,
                                              const MeetingsData& data) {
  std::vector<EncodedDialogue> encoded;
  for (const Dialogue& dialogue : dialogues) {
    EncodedDialogue words;
    const auto add = [&](const std::string& sentence) {
      if (std::ssize(words.sentences) == data.sentences || sentence.empty()) return;
      words.sentences.push_back(words_of_text(tokenizer, sentence, data.sentence_tokens));
    };
    add(dialogue.query);
    for (const std::string& sentence : dialogue.sentences) add(sentence);
    words.summary = words_of_text(tokenizer, dialogue.references.front(), data.summary_tokens - 1);
    words.summary.push_back(kMeetingEnd);
    encoded.push_back(std::move(words));
  }
  return encoded;
}

Tokenizer dialogue_tokenizer(const TokenizerOptions& options, const std::vector<Dialogue>& dialogues) {
  std::vector<std::string> texts;
  int64_t bytes = 0;
  for (const Dialogue& dialogue : dialogues) {
    std::string text = dialogue.query + "\n";
    for (const std::string& sentence : dialogue.sentences) text += sentence + "\n";
    for (const std::string& reference : dialogue.references) text += reference + "\n";
    bytes += std::ssize(text);
    texts.push_back(std::move(text));
  }
  size_t next = 0;
  return Tokenizer::train(options, bytes, [&](std::string& text) {
    if (next == texts.size()) return false;
    text = texts[next++];
    return true;
  });
}

std::shared_ptr<const OpenedDialogues> open_dialogues(const MeetingsPlan& plan, const TaskInputs& inputs) {
  std::optional<Tokenizer> given;
  if (!inputs.checkpoint.empty()) given = load_tokenizer(inputs.checkpoint / kTokenizerFile);
  const auto known = std::dynamic_pointer_cast<const OpenedDialogues>(inputs.opened);
  if (known && (!given || given->save() == known->tokenizer.save())) return known;
  Dialogues texts = read_dialogues(inputs.data, plan.data.dialogues);
  auto opened = std::make_shared<OpenedDialogues>(given ? *given : dialogue_tokenizer(plan.tokenizer, texts.train));
  opened->train = encode_dialogues(opened->tokenizer, texts.train, plan.data);
  opened->test = encode_dialogues(opened->tokenizer, texts.test, plan.data);
  opened->test_texts = std::move(texts.test);
  opened->key = texts.inventory.key();
  return opened;
}

// The first sentences: what a summariser must beat.
std::string lead_of(const Dialogue& dialogue) {
  std::string lead;
  for (size_t i = 0; i < std::min(kLeadSentences, dialogue.sentences.size()); ++i) {
    if (i > 0) lead += ' ';
    lead += dialogue.sentences[i];
  }
  return lead;
}

}  // namespace

void MeetingsData::fields(ConfigFields& f) {
  dialogues.fields(f);
  f.field("sentences", sentences, "sentences of a dialogue that are read, its query among them",
          {.minimum = 1, .maximum = 1 << 14});
  f.field("sentence_tokens", sentence_tokens, "tokens of a sentence that are read", {.minimum = 1, .maximum = 1 << 14});
  f.field("summary_tokens", summary_tokens, "tokens of a summary that are trained on and written, its end among them",
          {.minimum = 2, .maximum = 1 << 14});
}

void MeetingsPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("tokenizer", tokenizer);
  f.section("model", model);
}

void MeetingsPlan::check() const {
  model.check();
}

SlotSummariserOptions MeetingsPlan::model_for(int64_t tokens) const {
  SlotSummariserOptions options = model;
  options.vocabulary = kFirstToken + tokens;
  return options;
}

RunSize MeetingsPlan::size(const BatchShape& batch, const RowOptimizerOptions&, bool bfloat16) const {
  const SlotSummariserOptions options = model_for(tokenizer.kind == "bytes" ? kByteTokens : tokenizer.vocabulary);
  RunSize size = network_size(options.parameters(), options.multiply_adds(text()), batch);
  add_activations(size, options.kept_numbers(text()) * (bfloat16 ? 2 : 4), batch);
  return size;
}

std::string MeetingsPlan::data_settings() const {
  return Config::write(data) + Config::write(tokenizer);
}

std::unique_ptr<Task> MeetingsPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<Meetings>(*this, inputs);
}

std::unique_ptr<TaskPlan> meetings_plan() {
  return std::make_unique<MeetingsPlan>();
}

Meetings::Meetings(const MeetingsPlan& plan, const TaskInputs& inputs)
    : plan_(plan),
      batch_(inputs.batch),
      opened_(open_dialogues(plan, inputs)),
      model_(std::make_shared<SlotSummariser>(plan.model_for(opened_->tokenizer.vocabulary()), inputs.seed)),
      order_(std::ssize(opened_->train), inputs.seed),
      progress_(inputs.progress),
      batches_([this](int64_t position) { return training_batch(position); }) {}

Meetings::Batch Meetings::batch_of(const std::vector<const EncodedDialogue*>& dialogues) {
  int64_t N = 1, L = 1, T = 1;
  for (const EncodedDialogue* dialogue : dialogues) {
    N = std::max<int64_t>(N, std::ssize(dialogue->sentences));
    T = std::max<int64_t>(T, std::ssize(dialogue->summary));
    for (const auto& sentence : dialogue->sentences) L = std::max<int64_t>(L, std::ssize(sentence));
  }
  const int64_t B = std::ssize(dialogues);
  Batch batch = {at::zeros({B, N, L}, at::kLong), at::full({B, T}, -1, at::kLong)};
  auto* words = batch.words.mutable_data_ptr<int64_t>();
  auto* summary = batch.summary.mutable_data_ptr<int64_t>();
  for (const EncodedDialogue* dialogue : dialogues) {
    for (size_t n = 0; n < dialogue->sentences.size(); ++n) {
      std::copy(dialogue->sentences[n].begin(), dialogue->sentences[n].end(), words + static_cast<int64_t>(n) * L);
    }
    std::copy(dialogue->summary.begin(), dialogue->summary.end(), summary);
    words += N * L;
    summary += T;
  }
  return batch;
}

Meetings::Batch Meetings::training_batch(int64_t position) const {
  std::vector<const EncodedDialogue*> dialogues;
  for (int64_t b = 0; b < batch_.per_micro_batch(); ++b) {
    const int64_t item = order_.at(position * batch_.per_micro_batch() + b).item;
    dialogues.push_back(&opened_->train[static_cast<size_t>(item)]);
  }
  return batch_of(dialogues);
}

int64_t Meetings::test_batches() const {
  return (std::ssize(opened_->test) + kDialoguesAtOnce - 1) / kDialoguesAtOnce;
}

Meetings::Batch Meetings::test_batch(int64_t index) const {
  std::vector<const EncodedDialogue*> dialogues;
  const int64_t end = std::min((index + 1) * kDialoguesAtOnce, std::ssize(opened_->test));
  for (int64_t i = index * kDialoguesAtOnce; i < end; ++i) dialogues.push_back(&opened_->test[static_cast<size_t>(i)]);
  return batch_of(dialogues);
}

Tensor Meetings::loss(int64_t step, int64_t micro) {
  const Batch batch = batches_.take(step * batch_.accumulation + micro);
  return model_->loss(batch.words, batch.summary, kMeetingBegin).total;
}

std::vector<Measure> Meetings::measures() const {
  return {
      {"loss", 4, true, "nats", "what the network misses of a token of the first reference, given those before it"}};
}

Evaluation Meetings::evaluate() {
  double loss = 0;
  int64_t tokens = 0;
  for (int64_t index = 0; index < test_batches(); ++index) {
    StopSignal::check("stopped while the model was evaluated");
    if (progress_ != nullptr) progress_->show(fmt::format("evaluating: {} tokens", tokens));
    const Batch batch = test_batch(index);
    const auto count = batch.summary.ge(0).sum().item<int64_t>();
    loss += model_->loss(batch.words, batch.summary, kMeetingBegin).words.item<double>() * static_cast<double>(count);
    tokens += count;
  }
  return {{loss / static_cast<double>(tokens)},
          {{"dialogues", opened_->test.size()}, {"tokens", tokens}, {"parameters", model_->options().parameters()}}};
}

std::vector<std::string> Meetings::written(const Batch& batch) const {
  const Tensor words =
      model_->greedy(model_->encode(batch.words), kMeetingBegin, kMeetingEnd, plan_.data.summary_tokens).contiguous();
  std::vector<std::string> texts;
  for (const Tensor& row : words.unbind()) {
    std::vector<int32_t> tokens;
    for (int64_t t = 0; t < row.numel(); ++t) {
      const auto word = row[t].item<int64_t>();
      if (word >= kFirstToken) tokens.push_back(static_cast<int32_t>(word - kFirstToken));
    }
    texts.push_back(opened_->tokenizer.decode(tokens));
  }
  return texts;
}

Account Meetings::account(const Evaluation& evaluation, const AccountOptions& options) {
  Account account = Task::account(evaluation, options);
  nlohmann::json summaries = nlohmann::json::array();
  for (int64_t index = 0; index < test_batches(); ++index) {
    StopSignal::check("stopped while summaries were written");
    if (progress_ != nullptr) progress_->show(fmt::format("writing: {} summaries", summaries.size()));
    for (const std::string& text : written(test_batch(index))) {
      const Dialogue& dialogue = opened_->test_texts[summaries.size()];
      summaries.push_back({{"name", dialogue.name},
                           {"written", text},
                           {"lead", lead_of(dialogue)},
                           {"references", dialogue.references}});
    }
  }
  account.text =
      fmt::format("{} test dialogues, {} tokens of their summaries; {} parameters\nfirst summary: {}\n",
                  evaluation.details.at("dialogues").get<int64_t>(), evaluation.details.at("tokens").get<int64_t>(),
                  model_->options().parameters(), printable(summaries.at(0).at("written").get<std::string>()));
  account.json["summaries"] = std::move(summaries);
  return account;
}

int64_t Meetings::infer(int64_t position) {
  const Batch batch = test_batch(position % test_batches());
  written(batch);
  return batch.words.size(0);
}

std::vector<std::pair<std::string, std::string>> Meetings::files() {
  return {{kTokenizerFile, opened_->tokenizer.save()}};
}

nlohmann::json Meetings::data_facts() const {
  return {{"training dialogues", opened_->train.size()},
          {"test dialogues", opened_->test.size()},
          {"vocabulary", opened_->tokenizer.vocabulary()}};
}

}  // namespace loci
