#include "cli/predictions.h"

#include <fmt/format.h>

#include "loci/base/check.h"

namespace loci::cli {

std::vector<Prediction> likeliest(const at::Tensor& probabilities, const std::vector<std::string>& classes) {
  const auto [probability, label] = probabilities.max(1);
  std::vector<Prediction> found;
  for (int64_t i = 0; i < probabilities.size(0); ++i) {
    const std::string& name = classes[static_cast<size_t>(label[i].item<int64_t>())];
    const auto share = probability[i].item<double>();
    found.push_back(
        {{printable(name), fmt::format("{:5.1f} %", 100 * share)}, {{"class", name}, {"probability", share}}});
  }
  return found;
}

void require_shape(const ImageShape& got, const ImageShape& wanted, const std::filesystem::path& path) {
  if (got == wanted) return;
  fail(ExitCode::input, path.string(),
       fmt::format("images must be {} x {} as those of the run", wanted.height, wanted.width),
       fmt::format("{} x {}", got.height, got.width));
}

}  // namespace loci::cli
