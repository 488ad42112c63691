#include "loci/models/few_shot_net_options.h"

#include <algorithm>

#include "loci/base/check.h"

namespace loci {
namespace {

constexpr int64_t kMostChannels = 1 << 12;
constexpr int64_t kMostImageSide = 4096;  // with the channels, so that counts stay far from overflow

}  // namespace

int64_t ConvolutionBlocks::parameters() const {
  return 9 * channels * (inputs + (kBlocks - 1) * channels) + 2 * kBlocks * channels;
}

int64_t ConvolutionBlocks::multiply_adds() const {
  int64_t count = 0;
  for (int64_t block = 0; block < kBlocks; ++block) {
    count += (height >> block) * (width >> block) * 9 * channels * (block == 0 ? inputs : channels);
  }
  return count;
}

double ConvolutionBlocks::kept_numbers() const {
  double numbers = 0;
  for (int64_t block = 0; block < kBlocks; ++block) {
    const auto positions = static_cast<double>((height >> block) * (width >> block));
    // The input; outputs of convolution, norm and relu; the places of the maxima, eight bytes each.
    numbers += positions * static_cast<double>((block == 0 ? inputs : channels) + 3 * channels) +
               positions / 2 * static_cast<double>(channels);
  }
  return numbers;
}

void FewShotNetOptions::fields(ConfigFields& f) {
  f.choice("head", head,
           "prototypical: distances to class means; mahalanobis: with covariances, the set adapts features",
           {{"prototypical", FewShotHead::prototypical}, {"mahalanobis", FewShotHead::mahalanobis}});
  f.field("channels", channels, "channels of the four convolutions, and width of the features",
          {.minimum = 1, .maximum = kMostChannels});
  f.field("groups", groups, "groups of channels of each norm", {.minimum = 1, .maximum = kMostChannels});
  f.when(adapts(), "model.head is \"mahalanobis\"", [&] {
    f.field("encoder_channels", encoder_channels, "channels of the network that encodes the support set",
            {.minimum = 1, .maximum = kMostChannels});
  });
}

void FewShotNetOptions::check() const {
  const auto need = [](bool holds, const std::string& expected, const std::string& got) {
    if (!holds) fail(ExitCode::usage, "config", expected, got);
  };
  need(channels % groups == 0, fmt::format("model.groups must divide model.channels = {}", channels),
       fmt::to_string(groups));
  need(!adapts() || encoder_channels % groups == 0,
       fmt::format("model.groups must divide model.encoder_channels = {}", encoder_channels), fmt::to_string(groups));
  constexpr int64_t least = 1 << ConvolutionBlocks::kBlocks;
  need(std::min(height, width) >= least && std::max(height, width) <= kMostImageSide,
       fmt::format("images must have sides of {} to {} pixels", least, kMostImageSide),
       fmt::format("{} x {}", height, width));
}

int64_t FewShotNetOptions::parameters() const {
  const int64_t of_features = features().parameters();
  return adapts() ? of_features + encoder().parameters() + film_numbers() * (encoder_channels + 1) : of_features;
}

int64_t FewShotNetOptions::multiply_adds(int64_t support, int64_t queries) const {
  const int64_t of_features =
      checked_product("config", "images of a task", support + queries, features().multiply_adds());
  if (!adapts()) return of_features;
  return checked_sum("config", "multiply-adds", of_features,
                     checked_product("config", "images of a task", support, encoder().multiply_adds()));
}

double FewShotNetOptions::kept_numbers(int64_t kept, int64_t queries) const {
  const auto rows = static_cast<double>(kept), all = static_cast<double>(kept + queries);
  return all * features().kept_numbers() + (adapts() ? rows * encoder().kept_numbers() : 0);
}

}  // namespace loci
