#include "loci/data/text/tokenizer.h"

#include <algorithm>
#include <array>
#include <map>
#include <unordered_set>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/random.h"
#include "loci/base/utf8.h"
#include "loci/data/text/piece_module.h"

namespace loci {
namespace {

constexpr std::string_view kBpe = "loci-tokenizer 1 bpe\n";
constexpr std::string_view kBytes = "loci-tokenizer 1 bytes\n";
constexpr std::string_view kSpace = "\xE2\x96\x81";     // U+2581, a space inside sentencepiece
constexpr std::string_view kReserved = "\xE2\x96\x85";  // U+2585: sentences that hold it would be skipped in training
constexpr size_t kLongestWord = 4096;                   // longer ones are cut: the encoder is not linear
constexpr size_t kLongestCached = 64;
constexpr size_t kMostCached = 1 << 18;
constexpr size_t kSampleChunk = 2048;

// Calls part(text, whole) for each stretch that sentencepiece keeps as it is (whole), and for each one that it does
// not (one character or malformed part). Without a token for the space, that one is kept out as well.
template <class Part>
void for_each_stretch(std::string_view text, bool has_space, Part part) {
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text.substr(at));
    const std::string_view here = text.substr(at, step.length);
    if (!step.valid || here == kSpace || here[0] == '\0' || (here[0] == ' ' && !has_space)) {
      if (at > begin) part(text.substr(begin, at - begin), true);
      part(here, false);
      begin = at + step.length;
    }
    at += step.length;
  }
  if (begin < text.size()) part(text.substr(begin), true);
}

// The cuts are part of the tokenizer: before a run of spaces, behind a run of line ends, and in very long words.
template <class Word>
void for_each_word(std::string_view text, Word word) {
  size_t begin = 0;
  for (size_t at = 1; at < text.size(); ++at) {
    const bool cut = (text[at] == ' ' && text[at - 1] != ' ') || (text[at - 1] == '\n' && text[at] != '\n') ||
                     (at - begin >= kLongestWord && (text[at] & 0xC0) != 0x80);
    if (!cut) continue;
    word(text.substr(begin, at - begin));
    begin = at;
  }
  if (begin < text.size()) word(text.substr(begin));
}

// Lines of an even sample of the texts, in chunks of about kSampleChunk bytes.
std::vector<std::string> sample_lines(const TokenizerOptions& options, int64_t total_bytes,
                                      const Tokenizer::TextSource& next) {
  const double share = total_bytes <= 0 ? 1 : static_cast<double>(options.training_bytes) / total_bytes;
  const CounterRandom random(0, "tokenizer sample");
  std::vector<std::string> lines;
  std::string line;
  const auto add_line = [&lines](std::string_view text) {
    for_each_stretch(text, true, [&lines](std::string_view part, bool whole) {
      if (whole) lines.emplace_back(part);
    });
  };
  uint64_t chunk = 0;
  size_t in_chunk = 0;
  size_t in_line = 0;
  bool wanted = random.uniform(0) < share;
  for (std::string text; next(text);) {
    for_each_word(text, [&](std::string_view word) {
      if (wanted) line += word;
      in_chunk += word.size();
      in_line += word.size();
      if (word.back() != '\n' && in_line < kLongestWord) return;
      in_line = 0;
      if (!line.empty()) add_line(std::exchange(line, ""));
      if (in_chunk < kSampleChunk) return;
      in_chunk = 0;
      wanted = random.uniform(++chunk) < share;
    });
    if (!line.empty()) add_line(std::exchange(line, ""));
  }
  return lines;
}

template <class Character>
void for_each_character(std::string_view text, Character character) {
  for (size_t at = 0; at < text.size();) {
    const auto length = static_cast<size_t>(utf8_step(text.substr(at)).length);
    character(text.substr(at, length));
    at += length;
  }
}

// The characters that get a token: the most frequent ones, up to the coverage and a half of the vocabulary (Chinese
// with 4,096 tokens). The others go byte by byte.
std::unordered_set<std::string> frequent_characters(const std::vector<std::string>& lines,
                                                    const TokenizerOptions& options) {
  std::map<std::string, int64_t, std::less<>> counts;
  int64_t total = 0;
  for (const std::string& line : lines) {
    for_each_character(line, [&](std::string_view character) {
      const auto known = counts.find(character);
      ++(known == counts.end() ? counts.emplace(character, 0).first : known)->second;
      ++total;
    });
  }
  std::vector<std::pair<int64_t, std::string>> sorted;
  for (const auto& [character, count] : counts) sorted.emplace_back(-count, character);
  std::sort(sorted.begin(), sorted.end());
  const auto most = static_cast<size_t>(options.vocabulary - 258) / 2;
  std::unordered_set<std::string> frequent;
  double covered = 0;
  for (const auto& [negative_count, character] : sorted) {
    if (character == kReserved) continue;
    if (frequent.size() == most || covered >= options.character_coverage * static_cast<double>(total)) break;
    frequent.insert(character);
    covered -= static_cast<double>(negative_count);
  }
  return frequent;
}

// Cuts the lines at the characters that get no token.
std::vector<std::string> without_rare_characters(const std::vector<std::string>& lines,
                                                 const TokenizerOptions& options) {
  const auto frequent = frequent_characters(lines, options);
  std::vector<std::string> parts;
  std::string part;
  for (const std::string& line : lines) {
    for_each_character(line, [&](std::string_view character) {
      if (frequent.contains(std::string(character))) {
        part += character;
      } else if (!part.empty()) {
        parts.push_back(std::exchange(part, ""));
      }
    });
    if (!part.empty()) parts.push_back(std::exchange(part, ""));
  }
  return parts;
}

std::string train_bpe(const TokenizerOptions& options, int64_t total_bytes, const Tokenizer::TextSource& next) {
  const auto lines = without_rare_characters(sample_lines(options, total_bytes, next), options);
  if (lines.empty()) fail(ExitCode::input, "tokenizer", "the training text must hold characters", "none");
  std::string model;
  const std::string problem = piece_module().train(lines, options.vocabulary, 4 * kLongestWord, model);
  if (!problem.empty()) fail(ExitCode::input, "tokenizer", "the text and vocabulary must suit sentencepiece", problem);
  return std::string(kBpe) + model;
}

}  // namespace

struct Tokenizer::State {
  std::string saved;
  std::vector<std::string> pieces;  // the bytes of each token
  int32_t end_of_text = 256;
  bool has_space = false;
  std::array<int32_t, 256> byte_tokens{};
  std::unique_ptr<PieceModel> model;  // bpe only
};

void TokenizerOptions::fields(ConfigFields& f) {
  f.choice("kind", kind, "byte-pair encoding learned from the training text, or one token a byte", {"bpe", "bytes"});
  f.when(kind == "bpe", "tokenizer.kind is \"bpe\"", [&] {
    f.field("vocabulary", vocabulary, "most tokens; fewer are made of a small text",
            {.minimum = 512, .maximum = 1'000'000});
    f.field("training_bytes", training_bytes, "bytes of an even sample of the training text to learn from",
            {.minimum = 1000, .maximum = 1'000'000'000});
    f.field("character_coverage", character_coverage, "share of the characters that get a token of their own",
            {.minimum = 0.5, .maximum = 1});
  });
}

Tokenizer Tokenizer::train(const TokenizerOptions& options, int64_t total_bytes, const TextSource& next) {
  if (options.kind == "bytes") return load(kBytes);
  if (options.kind != "bpe") fail(ExitCode::usage, "tokenizer", "kind must be \"bpe\" or \"bytes\"", options.kind);
  return load(train_bpe(options, total_bytes, next));
}

Tokenizer Tokenizer::load(std::string_view saved, std::string_view who) {
  const auto refuse = [who](const std::string& got) {
    fail(ExitCode::input, who, "the saved tokenizer must be one of Loci", got);
  };
  auto state = std::make_shared<State>();
  state->saved = saved;
  if (saved == kBytes) {
    for (int byte = 0; byte < 256; ++byte) {
      state->pieces.emplace_back(1, static_cast<char>(byte));
      state->byte_tokens[byte] = byte;
    }
    state->pieces.emplace_back();
    return Tokenizer(std::move(state));
  }
  if (!saved.starts_with(kBpe)) refuse(fmt::format("{} bytes of another kind", saved.size()));
  const std::string problem = piece_module().load(saved.substr(kBpe.size()), state->model);
  if (!problem.empty()) refuse(problem);
  const PieceModel& model = *state->model;
  state->end_of_text = model.end_of_text();
  state->byte_tokens.fill(-1);
  int bytes = 0;
  for (int id = 0; id < model.size(); ++id) {
    std::string piece = model.text(id);
    const PieceModel::Kind kind = model.kind(id);
    if (kind == PieceModel::Kind::byte) {
      const int byte = bytes++ & 255;  // sentencepiece stores <0x00> .. <0xFF> in order
      if (piece != fmt::format("<0x{:02X}>", byte)) refuse("byte tokens out of order");
      state->byte_tokens[byte] = id;
      piece.assign(1, static_cast<char>(byte));
    } else if (kind == PieceModel::Kind::control) {
      piece.clear();
    } else {
      for (size_t at = 0; (at = piece.find(kSpace, at)) != std::string::npos; ++at) {
        piece.replace(at, kSpace.size(), " ");
      }
      state->has_space = state->has_space || piece == " ";
    }
    state->pieces.push_back(std::move(piece));
  }
  if (bytes != 256 || state->end_of_text < 0) refuse("one without byte tokens or end of text");
  Tokenizer tokenizer(std::move(state));
  const std::string probe = " a  b\n\tc\r\n\n  \xC3\xA4 ";
  if (tokenizer.decode(tokenizer.encode(probe)) != probe) refuse("one that changes text");
  return tokenizer;
}

const std::string& Tokenizer::save() const {
  return state_->saved;
}
int64_t Tokenizer::vocabulary() const {
  return static_cast<int64_t>(state_->pieces.size());
}
int32_t Tokenizer::end_of_text() const {
  return state_->end_of_text;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  WordCache cache;
  std::vector<int32_t> tokens;
  encode(text, cache, tokens);
  return tokens;
}

void Tokenizer::encode(std::string_view text, WordCache& cache, std::vector<int32_t>& tokens) const {
  const auto add_bytes = [&](std::string_view bytes) {
    for (char byte : bytes) tokens.push_back(state_->byte_tokens[static_cast<unsigned char>(byte)]);
  };
  if (state_->model == nullptr) return add_bytes(text);
  for_each_stretch(text, state_->has_space, [&](std::string_view part, bool whole) {
    if (!whole) return add_bytes(part);
    for_each_word(part, [&](std::string_view word) { encode_word(word, cache, tokens); });
  });
}

void Tokenizer::encode_word(std::string_view word, WordCache& cache, std::vector<int32_t>& tokens) const {
  const auto known = cache.words_.find(word);
  if (known != cache.words_.end()) {
    tokens.insert(tokens.end(), known->second.begin(), known->second.end());
    return;
  }
  std::vector<int> ids;
  const std::string problem = state_->model->encode(word, ids);
  if (!problem.empty()) fail(ExitCode::bug, "tokenizer", "sentencepiece must encode every text", problem);
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  if (word.size() > kLongestCached) return;
  if (cache.words_.size() >= kMostCached) cache.words_.clear();
  cache.words_.emplace(word, std::move(ids));
}

std::string Tokenizer::decode(std::span<const int32_t> tokens) const {
  std::string text;
  for (int32_t token : tokens) text += bytes_of(token);
  return text;
}

std::string_view Tokenizer::bytes_of(int32_t token) const {
  if (token < 0 || token >= vocabulary()) {
    fail(ExitCode::input, "tokenizer", fmt::format("token must be in 0 .. {}", vocabulary() - 1),
         fmt::to_string(token));
  }
  return state_->pieces[token];
}

std::string StreamDecoder::push(int32_t token) {
  pending_ += tokenizer_.bytes_of(token);
  std::string ready;
  size_t at = 0;
  while (at < pending_.size()) {
    const Utf8Step step = utf8_step(std::string_view(pending_).substr(at));
    if (step.truncated) break;
    ready += step.valid ? std::string_view(pending_).substr(at, step.length) : kReplacement;
    at += step.length;
  }
  pending_.erase(0, at);
  return ready;
}

std::string StreamDecoder::finish() {
  return std::exchange(pending_, "").empty() ? "" : std::string(kReplacement);
}

}  // namespace loci
