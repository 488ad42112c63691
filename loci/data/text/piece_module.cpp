#include "loci/data/text/piece_module.h"

#include <dlfcn.h>

#include "loci/base/check.h"

namespace loci {
namespace {

// AddressSanitizer and ThreadSanitizer forbid RTLD_DEEPBIND. Their builds have no torch, so that nothing clashes.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kBindToItself = 0;
#else
constexpr int kBindToItself = RTLD_DEEPBIND;
#endif

// Found through our own RUNPATH: next to libloci, in the build and in the installed tree. It stays open for ever, since
// models and threads outlive any scope of ours.
const PieceModule* open_piece_module() {
  void* library = dlopen(LOCI_PIECE_MODULE, RTLD_NOW | RTLD_LOCAL | kBindToItself);
  void* symbol = library == nullptr ? nullptr : dlsym(library, "loci_piece_module");
  if (symbol == nullptr) {
    const char* reason = dlerror();
    fail(ExitCode::input, "tokenizer", LOCI_PIECE_MODULE " and libsentencepiece must be loadable",
         reason == nullptr ? "another file" : reason);
  }
  return reinterpret_cast<decltype(&loci_piece_module)>(symbol)();
}

}  // namespace

const PieceModule& piece_module() {
  static const PieceModule* const module = open_piece_module();
  return *module;
}

}  // namespace loci
