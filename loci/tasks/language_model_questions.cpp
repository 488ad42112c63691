// Questions to a language model: how likely it finds the right continuation of a prompt, and whether it is the
// likeliest.
//
// Legend: B questions at a time, L tokens of the longest.
#include <ATen/ops/full.h>

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "loci/base/durable_file.h"
#include "loci/base/stop_signal.h"
#include "loci/tasks/language_model.h"

namespace loci {
namespace {

struct Question {
  std::vector<int64_t> tokens;  // the end of a text, the prompt, the answer
  int64_t answer_begin = 0;     // in tokens
};

std::vector<Question> read_questions(const std::filesystem::path& path, const Tokenizer& tokenizer, int64_t context) {
  const std::string text = read_text_file(path);
  std::vector<Question> questions;
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line(text.data() + begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const auto refuse = [&](const std::string& expected, const std::string& got) {
      fail(ExitCode::input, fmt::format("{}:{}", path.string(), number), expected, got);
    };
    const size_t tab = line.find('\t');
    if (tab == std::string_view::npos || line.find('\t', tab + 1) != std::string_view::npos || tab + 1 == line.size()) {
      refuse("a line must be PROMPT, one tab, ANSWER", std::string(line.substr(0, 80)));
    }
    Question question;
    question.tokens.push_back(tokenizer.end_of_text());
    for (const int32_t token : tokenizer.encode(line.substr(0, tab))) question.tokens.push_back(token);
    question.answer_begin = std::ssize(question.tokens);
    for (const int32_t token : tokenizer.encode(line.substr(tab + 1))) question.tokens.push_back(token);
    if (std::ssize(question.tokens) > context + 1) {
      refuse(fmt::format("a question must have at most {} tokens, as the model's context", context),
             fmt::to_string(std::ssize(question.tokens) - 1));
    }
    questions.push_back(std::move(question));
  }
  if (questions.empty()) fail(ExitCode::input, path.string(), "the file must hold questions", "none");
  return questions;
}

}  // namespace

// An answer is right when each of its tokens is the likeliest after the prompt and those before it, which is what
// greedy generation would say.
void LanguageModelTask::add_answers(const std::filesystem::path& path, Account& account) {
  const std::vector<Question> questions = read_questions(path, tokens_.tokenizer, window_);
  const int64_t total = std::ssize(questions);
  const int64_t at_once = std::max<int64_t>(1, batch_.per_micro_batch());
  double nats = 0;
  int64_t answer_tokens = 0, right = 0;
  for (int64_t begin = 0; begin < total; begin += at_once) {
    StopSignal::check("stopped while questions were asked");
    if (progress_ != nullptr) progress_->show(fmt::format("asking: {} of {} questions", begin, total));
    const int64_t end = std::min(begin + at_once, total);
    int64_t longest = 0;
    for (int64_t q = begin; q < end; ++q) {
      longest = std::max<int64_t>(longest, std::ssize(questions[static_cast<size_t>(q)].tokens) - 1);
    }
    Batch batch{at::full({end - begin, longest}, tokens_.tokenizer.end_of_text(), at::kLong),
                at::full({end - begin, longest}, EvaluationWindows::kNoTarget, at::kLong)};
    auto* input = batch.input.mutable_data_ptr<int64_t>();
    auto* target = batch.target.mutable_data_ptr<int64_t>();
    for (int64_t q = begin; q < end; ++q, input += longest, target += longest) {
      const Question& question = questions[static_cast<size_t>(q)];
      std::copy(question.tokens.begin(), question.tokens.end() - 1, input);
      std::copy(question.tokens.begin() + question.answer_begin, question.tokens.end(),
                target + question.answer_begin - 1);
    }
    const auto [losses, likeliest] = losses_of(batch);  // [B, L]
    const at::Tensor asked = batch.target.ge(0);
    nats += losses.sum().item<double>();
    answer_tokens += asked.sum().item<int64_t>();
    right += likeliest.logical_or(asked.logical_not()).all(1).sum().item<int64_t>();
  }
  const double loss = nats / static_cast<double>(answer_tokens);
  const double share = static_cast<double>(right) / static_cast<double>(total);
  account.text += fmt::format("questions: {} of {} answers right ({:.1f} %), {:.3f} nats per token of an answer\n",
                              right, total, 100 * share, loss);
  account.json["questions"] = {{"file", path.string()}, {"questions", total}, {"right", right}, {"loss", loss}};
}

}  // namespace loci
