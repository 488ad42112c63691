// Text files to a file of tokens, on all cores, in the order of the list.
#pragma once

#include <string_view>

#include "loci/base/progress.h"
#include "loci/data/text/cache_folder.h"
#include "loci/data/text/text_folder.h"
#include "loci/data/text/tokenizer.h"

namespace loci {

// Gives the bytes of a token file (token_file.h) of both parts to the sink: the same for any number of threads. Throws
// Interrupted after a signal.
void encode_texts(const TextSplit& split, const TextFolderOptions& options, const Tokenizer& tokenizer,
                  std::string_view key, const CacheFolder::Sink& sink, ProgressLine& progress);

}  // namespace loci
