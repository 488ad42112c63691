// The module around sentencepiece (piece_module.h says why it is one). It uses nothing else of Loci.
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include "loci/data/text/piece_module.h"

namespace loci {
namespace {

namespace spm = sentencepiece;

class Sentences final : public spm::SentenceIterator {
 public:
  explicit Sentences(const std::vector<std::string>& sentences) : sentences_(sentences) {}
  bool done() const override { return at_ >= sentences_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return sentences_[at_]; }
  spm::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& sentences_;
  size_t at_ = 0;
};

class SentencePieceModel final : public PieceModel {
 public:
  spm::SentencePieceProcessor processor;

  int size() const override { return processor.GetPieceSize(); }
  int end_of_text() const override { return processor.eos_id(); }
  std::string text(int id) const override { return processor.IdToPiece(id); }
  Kind kind(int id) const override {
    if (processor.IsByte(id)) return Kind::byte;
    return processor.IsControl(id) || processor.IsUnknown(id) ? Kind::control : Kind::text;
  }
  std::string encode(std::string_view text, std::vector<int>& ids) const override {
    const auto status = processor.Encode(text, &ids);
    return status.ok() ? "" : status.ToString();
  }
};

std::string train_pieces(const std::vector<std::string>& sentences, int64_t vocabulary, size_t longest_sentence,
                         std::string& model) {
  Sentences iterator(sentences);
  const auto status = spm::SentencePieceTrainer::Train({{"model_type", "bpe"},
                                                        {"vocab_size", std::to_string(vocabulary)},
                                                        {"hard_vocab_limit", "false"},
                                                        {"character_coverage", "1.0"},
                                                        {"byte_fallback", "true"},
                                                        {"normalization_rule_name", "identity"},
                                                        {"add_dummy_prefix", "false"},
                                                        {"remove_extra_whitespaces", "false"},
                                                        {"allow_whitespace_only_pieces", "true"},
                                                        {"unk_id", "0"},
                                                        {"eos_id", "1"},
                                                        {"bos_id", "-1"},
                                                        {"pad_id", "-1"},
                                                        {"max_sentence_length", std::to_string(longest_sentence)},
                                                        {"num_threads", "1"},
                                                        {"minloglevel", "2"}},
                                                       &iterator, &model);
  return status.ok() ? "" : status.ToString();
}

std::string load_pieces(std::string_view model, std::unique_ptr<PieceModel>& loaded) {
  auto made = std::make_unique<SentencePieceModel>();
  const auto status = made->processor.LoadFromSerializedProto(model);
  if (!status.ok()) return status.ToString();
  loaded = std::move(made);
  return "";
}

constexpr PieceModule kSentencePieceModule = {train_pieces, load_pieces};

}  // namespace
}  // namespace loci

const loci::PieceModule* loci_piece_module() {
  return &loci::kSentencePieceModule;
}
