// What folders of labelled things have in common: the parts train and test, with a folder for each class.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace loci {

inline constexpr std::string_view kTrainPart = "train", kTestPart = "test";

// Throws Error (input) unless both parts have the same classes. things: "images", for the message.
void check_same_classes(const std::filesystem::path& folder, const std::vector<std::string>& train,
                        const std::vector<std::string>& test, std::string_view things);

}  // namespace loci
