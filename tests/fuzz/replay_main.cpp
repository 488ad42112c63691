// Runs a fuzz target without libFuzzer: every file of a folder as it is, then seeded random mutations of them.
//   x_fuzz_replay MUTATIONS SEED FOLDER
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Input = std::vector<uint8_t>;

std::vector<Input> corpus(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<Input> inputs;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return inputs;
}

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  Input mutate(const std::vector<Input>& inputs) {
    Input input = inputs[below(inputs.size())];
    for (size_t times = 1 + below(4); times > 0; --times) {
      const size_t at = below(input.size() + 1);
      const auto here = input.begin() + static_cast<std::ptrdiff_t>(at);
      const size_t length = std::min(input.size() - at, 1 + below(24));
      switch (below(7)) {
        case 0:
          if (at < input.size()) input[at] ^= static_cast<uint8_t>(1U << below(8));
          break;
        case 1:
          if (at < input.size()) input[at] = static_cast<uint8_t>(below(256));
          break;
        case 2:
          input.insert(here, std::string("{}[]\",:0123456789eE+-. nul")[below(26)]);
          break;
        case 3:
          input.erase(here, here + static_cast<std::ptrdiff_t>(length));
          break;
        case 4: {  // a piece again, here or elsewhere
          const Input piece(here, here + static_cast<std::ptrdiff_t>(length));
          input.insert(input.begin() + static_cast<std::ptrdiff_t>(below(input.size() + 1)), piece.begin(),
                       piece.end());
          break;
        }
        case 5:
          input.resize(at);
          break;
        default:
          if (!input.empty()) input[0] = static_cast<uint8_t>(input[0] + below(33) - 16);
          break;
      }
    }
    return input;
  }

 private:
  size_t below(size_t bound) { return bound == 0 ? 0 : random_() % bound; }

  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "MUTATIONS SEED FOLDER\n"), 2;
  const std::vector<Input> inputs = corpus(argv[3]);
  if (inputs.empty()) return std::fprintf(stderr, "%s: no files\n", argv[3]), 3;
  for (const Input& input : inputs) LLVMFuzzerTestOneInput(input.data(), input.size());
  Mutator mutator(std::strtoull(argv[2], nullptr, 10));
  const uint64_t mutations = std::strtoull(argv[1], nullptr, 10);
  for (uint64_t i = 0; i < mutations; ++i) {
    const Input input = mutator.mutate(inputs);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%zu files and %llu mutations\n", inputs.size(), static_cast<unsigned long long>(mutations));
}
