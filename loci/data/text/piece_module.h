// The interface to sentencepiece, in a module that is opened when text is first tokenised.
//
// Debian's libsentencepiece and libc10 both define FLAGS_minloglevel: an object of 32 bytes in one, an int in the
// other. In one symbol scope the loader makes them one object, and sentencepiece's constructor writes over c10's
// memory. So nothing but the module is linked with sentencepiece. The module is opened with RTLD_LOCAL (nobody binds to
// it) and RTLD_DEEPBIND (it binds to itself first). Names of data that a process may hold twice are in
// tests/test_symbol_scope.py.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace loci {

// A trained model. Safe to use from several threads at once.
class PieceModel {
 public:
  enum class Kind { text, byte, control };

  virtual ~PieceModel() = default;
  virtual int size() const = 0;
  virtual int end_of_text() const = 0;  // -1: it has none
  virtual std::string text(int id) const = 0;
  virtual Kind kind(int id) const = 0;
  // What went wrong; empty: nothing did.
  virtual std::string encode(std::string_view text, std::vector<int>& ids) const = 0;
};

// What the module exports. Both functions return what went wrong, or nothing; they throw only for lack of memory.
struct PieceModule {
  // A byte pair encoding of at most `vocabulary` pieces, as a serialised model.
  std::string (*train)(const std::vector<std::string>& sentences, int64_t vocabulary, size_t longest_sentence,
                       std::string& model);
  std::string (*load)(std::string_view model, std::unique_ptr<PieceModel>& loaded);
};

// The module, opened at the first call. Throws Error (input) when it is not there. Safe from several threads.
const PieceModule& piece_module();

}  // namespace loci

extern "C" __attribute__((visibility("default"))) const loci::PieceModule* loci_piece_module();
