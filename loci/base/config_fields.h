// What a struct of options says about its fields, once, for whoever reads, writes or lists them:
//
//   struct AdamOptions {
//     double learning_rate = 3e-3;
//     void fields(ConfigFields& f) {
//       f.field("learning_rate", learning_rate, "peak of the learning rate", {.minimum = 0});
//     }
//   };
//
// The third argument is one line of help; `loci train --keys` prints it. loci/base/config.h reads and writes documents.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace loci {

struct IntegerRange {
  int64_t minimum = std::numeric_limits<int64_t>::min();
  int64_t maximum = std::numeric_limits<int64_t>::max();
};
// Every real of a configuration is finite, whatever its range.
struct RealRange {
  double minimum = -std::numeric_limits<double>::infinity();
  double maximum = std::numeric_limits<double>::infinity();
};

// "an integer from 1 to 64", "a number of at least 0".
std::string describe(std::string_view noun, IntegerRange range);
std::string describe(std::string_view noun, RealRange range);

class ConfigFields {
 public:
  virtual ~ConfigFields() = default;
  virtual void field(std::string_view name, int64_t& value, std::string_view help, IntegerRange range = {}) = 0;
  virtual void field(std::string_view name, double& value, std::string_view help, RealRange range = {}) = 0;
  virtual void field(std::string_view name, bool& value, std::string_view help) = 0;
  virtual void field(std::string_view name, std::string& value, std::string_view help) = 0;
  virtual void field(std::string_view name, std::vector<int64_t>& value, std::string_view help,
                     IntegerRange range = {}) = 0;
  virtual void field(std::string_view name, std::vector<std::string>& value, std::string_view help) = 0;
  // One of the given words.
  virtual void choice(std::string_view name, std::string& value, std::string_view help,
                      const std::vector<std::string>& words) = 0;

  // An enumeration with its words:
  // f.choice("norm", norm, "norm of the queries", {{"none", Norm::none}, {"layer", Norm::layer}}).
  template <class E>
  void choice(std::string_view name, E& value, std::string_view help,
              const std::vector<std::pair<std::string, E>>& words) {
    std::vector<std::string> names;
    std::string word;
    for (const auto& [text, known] : words) {
      names.push_back(text);
      if (known == value) word = text;
    }
    choice(name, word, help, names);
    for (const auto& [text, known] : words) {
      if (text == word) value = known;
    }
  }

  // A sub-table: a struct with fields() of its own.
  template <class S>
  void section(std::string_view name, S& value) {
    if (begin_section(name)) {
      value.fields(*this);
      end_section();
    }
  }
  // A sub-table that may be absent, such as [model.memory]; `present` says whether it is there.
  template <class S>
  void optional_section(std::string_view name, bool& present, S& value) {
    if (begin_optional_section(name, present)) {
      value.fields(*this);
      end_section();
    }
  }

  // Fields that have an effect only under a condition on fields before them. Reading refuses them where the condition
  // does not hold, and writing leaves them out. `condition` completes "only where ...": "optimizer.kind is \"sgd\"".
  template <class Body>
  void when(bool holds, std::string_view condition, Body body) {
    begin_condition(holds, condition);
    body();
    end_condition();
  }

 protected:
  virtual bool begin_section(std::string_view name) = 0;
  virtual bool begin_optional_section(std::string_view name, bool& present) = 0;
  virtual void end_section() = 0;
  virtual void begin_condition(bool holds, std::string_view condition) = 0;
  virtual void end_condition() = 0;
};

}  // namespace loci
