// Values of a configuration as TOML text; for this room alone.
#pragma once

#include <string>

#include <toml++/toml.h>

namespace loci {

std::string toml_string(const std::string& text);
std::string toml_real(double value);
std::string dotted_key(const std::string& prefix, std::string_view name);
// A value as the user wrote it, short enough for a message.
std::string toml_shown(const toml::node& node);

}  // namespace loci
