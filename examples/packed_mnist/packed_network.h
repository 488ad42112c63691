// Runs a network that `loci convert --packed` wrote: one header of standard C++20, without torch, without Loci. The
// scores have the same bits as those of the trained network. The file's tensors are described in
// loci/models/packed_net.h.
//
//   packed::Network network("model.safetensors");
//   std::vector<float> scores = network.scores(pixels);  // bytes [height, width, channels]
//
// Legend: O outputs of a stage, w words of 64 signs each; bit 1 is the sign -1.
#pragma once

#include <bit>
#include <cctype>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace packed {

static_assert(std::endian::native == std::endian::little, "the file's numbers are little endian");

// A tensor of a safetensors file, as its bytes.
struct Tensor {
  std::string type;  // "I64", "I32", "F32"
  std::vector<int64_t> shape;
  std::vector<char> bytes;
};

class TensorFile {
 public:
  explicit TensorFile(const std::string& path) : path_(path) {
    std::ifstream file(path, std::ios::binary);
    const std::string all((std::istreambuf_iterator<char>(file)), {});
    uint64_t header = 0;
    if (all.size() < 8) refuse("a safetensors file");
    std::memcpy(&header, all.data(), 8);
    if (header > all.size() - 8) refuse("a safetensors file");
    text_ = all.substr(8, header);
    data_ = all.substr(8 + header);
    read_header();
  }

  // The numbers of a tensor, which must have this type and so many numbers; `count` -1 takes any.
  template <class Number>
  std::vector<Number> numbers(const std::string& name, const char* type, int64_t count = -1) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end() || found->second.type != type) refuse("the tensor " + name + " of type " + type);
    const std::vector<char>& bytes = found->second.bytes;
    std::vector<Number> result(bytes.size() / sizeof(Number));
    if (count >= 0 && static_cast<int64_t>(result.size()) != count) refuse(name + " of another size");
    std::memcpy(result.data(), bytes.data(), result.size() * sizeof(Number));
    return result;
  }

  [[noreturn]] void refuse(const std::string& expected) const {
    throw std::runtime_error(path_ + ": expected " + expected);
  }

 private:
  // {"name": {"dtype": "I64", "shape": [2, 3], "data_offsets": [0, 48]}, "__metadata__": {...}}
  void read_header() {
    expect('{');
    while (!next_is('}')) {
      const std::string name = word();
      expect(':');
      read_tensor(name);
      next_is(',');
    }
  }
  void read_tensor(const std::string& name) {
    Tensor tensor;
    std::vector<int64_t> range;
    expect('{');
    while (!next_is('}')) {
      const std::string key = word();
      expect(':');
      if (key == "shape") {
        tensor.shape = integers();
      } else if (key == "data_offsets") {
        range = integers();
      } else if (key == "dtype") {
        tensor.type = word();
      } else {
        word();  // of the metadata
      }
      next_is(',');
    }
    if (name == "__metadata__") return;
    const auto size = static_cast<int64_t>(data_.size());
    if (range.size() != 2 || range[0] < 0 || range[0] > range[1] || range[1] > size) refuse("offsets within the file");
    tensor.bytes.assign(data_.begin() + range[0], data_.begin() + range[1]);
    tensors_[name] = std::move(tensor);
  }
  char look() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool next_is(char wanted) {
    if (look() != wanted) return false;
    ++at_;
    return true;
  }
  void expect(char wanted) {
    if (!next_is(wanted)) refuse(std::string("a header with '") + wanted + "'");
  }
  std::string word() {
    expect('"');
    std::string result;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] == '\\') ++at_;
      if (at_ < text_.size()) result += text_[at_++];
    }
    expect('"');
    return result;
  }
  std::vector<int64_t> integers() {
    std::vector<int64_t> result;
    expect('[');
    while (!next_is(']')) {
      int64_t value = 0;
      if (!std::isdigit(static_cast<unsigned char>(look()))) refuse("a header with whole numbers");
      while (at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_])) && value < (int64_t{1} << 50)) {
        value = 10 * value + (text_[at_++] - '0');
      }
      result.push_back(value);
      next_is(',');
    }
    return result;
  }

  std::string path_, text_, data_;
  size_t at_ = 0;
  std::map<std::string, Tensor> tensors_;
};

class Network {
 public:
  int64_t height, width, channels, classes;

  explicit Network(const std::string& path) {
    const TensorFile file(path);
    const std::vector<int64_t> image = file.numbers<int64_t>("image", "I64", 3);
    const std::vector<int64_t> plan = file.numbers<int64_t>("plan", "I64");
    height = image[0], width = image[1], channels = image[2];
    int64_t rows = height, columns = width, features = channels, pixel_words = 0;  // of what comes into a stage
    for (const int64_t size : image) {
      if (size < 1 || size > kMost) file.refuse("an image of " + std::to_string(kMost) + " pixels a side at most");
    }
    for (size_t i = 0; 4 * i + 3 < plan.size(); ++i) {
      Stage stage{.convolution = plan[4 * i] != 0, .pooled = plan[4 * i + 3] != 0, .outputs = plan[4 * i + 2]};
      const int64_t inputs = plan[4 * i + 1];
      if (inputs != (stage.convolution ? 1 : rows * columns) * features || stage.outputs < 1 || stage.outputs > kMost) {
        file.refuse("a plan whose stages fit each other");
      }
      stage.signs = (stage.convolution ? 9 : 1) * inputs;
      if (stage.signs > kMostSigns) file.refuse("stages of fewer inputs");
      stage.words = i == 0              ? words_for(stage.signs)
                    : stage.convolution ? 9 * pixel_words
                                        : rows * columns * pixel_words;
      const int64_t O = stage.outputs;
      const std::string name = "stage" + std::to_string(i) + ".";
      stage.bits = file.numbers<uint64_t>(name + "bits", "I64", O * stage.words);
      if (4 * (i + 1) == plan.size()) {
        stage.mean = file.numbers<float>(name + "mean", "F32", O);
        stage.factor = file.numbers<float>(name + "factor", "F32", O);
        stage.bias = file.numbers<float>(name + "bias", "F32", O);
      } else {
        stage.threshold = file.numbers<int32_t>(name + "threshold", "I32", O);
        stage.turned = file.numbers<uint64_t>(name + "turned", "I64", words_for(O));
      }
      if (!stage.convolution) rows = columns = 1;
      if (stage.pooled) rows /= 2, columns /= 2;
      if (rows < 1 || columns < 1) file.refuse("a plan whose pools leave a pixel");
      features = O;
      pixel_words = words_for(O);
      stages_.push_back(std::move(stage));
    }
    if (stages_.empty()) file.refuse("a plan with stages");
    classes = stages_.back().outputs;
  }

  // pixels: bytes [height, width, channels]. A class has the larger score the likelier it is.
  std::vector<float> scores(const uint8_t* pixels) const {
    std::vector<uint64_t> bits;  // [rows, columns, words of a pixel]
    int64_t rows = height, columns = width;
    for (size_t i = 0; i < stages_.size(); ++i) {
      const Stage& stage = stages_[i];
      std::vector<int32_t> y;  // [rows, columns, O]
      if (i == 0) {
        y = stage.convolution ? over_windows<uint8_t>(pixels, rows, columns, channels, stage, first_products)
                              : first_products(pixels, stage);
      } else {
        const int64_t pixel_words = static_cast<int64_t>(bits.size()) / (rows * columns);
        y = stage.convolution ? over_windows<uint64_t>(bits.data(), rows, columns, pixel_words, stage, products)
                              : products(bits.data(), stage);
      }
      if (!stage.convolution) rows = columns = 1;
      if (stage.pooled) pool(y, rows, columns, stage.outputs);
      if (i + 1 == stages_.size()) return line(y, stage);
      bits = thresholds(y, stage);
    }
    return {};
  }

 private:
  struct Stage {
    bool convolution = false, pooled = false;
    int64_t outputs = 0, signs = 0, words = 0;  // signs and words of one output
    std::vector<uint64_t> bits = {}, turned = {};
    std::vector<int32_t> threshold = {};
    std::vector<float> mean = {}, factor = {}, bias = {};
  };

  static constexpr int64_t kMost = 1 << 20;  // pixels a side, and outputs
  static constexpr int64_t kMostSigns = 1 << 30;

  static int64_t words_for(int64_t signs) { return (signs + 63) / 64; }

  static int64_t different(const uint64_t* a, const uint64_t* b, int64_t words) {
    int64_t count = 0;
    for (int64_t i = 0; i < words; ++i) count += std::popcount(a[i] ^ b[i]);
    return count;
  }

  // Of signs, those that fill up words counted too: the thresholds contain them.
  static std::vector<int32_t> products(const uint64_t* bits, const Stage& stage) {
    std::vector<int32_t> y;
    for (int64_t o = 0; o < stage.outputs; ++o) {
      const int64_t count = different(bits, stage.bits.data() + o * stage.words, stage.words);
      y.push_back(static_cast<int32_t>(64 * stage.words - 2 * count));
    }
    return y;
  }

  // Of whole numbers 2 p - 255, by the eight bit planes of the pixels.
  static std::vector<int32_t> first_products(const uint8_t* pixels, const Stage& stage) {
    std::vector<int32_t> y(static_cast<size_t>(stage.outputs));
    for (int plane = 0; plane < 8; ++plane) {
      std::vector<uint64_t> bits(static_cast<size_t>(stage.words));
      for (int64_t k = 0; k < stage.signs; ++k) bits[k / 64] |= static_cast<uint64_t>(pixels[k] >> plane & 1) << k % 64;
      for (int64_t o = 0; o < stage.outputs; ++o) {
        const int64_t count = different(bits.data(), stage.bits.data() + o * stage.words, stage.words);
        y[o] -= static_cast<int32_t>((stage.signs - 2 * count) * (int64_t{1} << plane));
      }
    }
    return y;
  }

  // 3x3 windows of a map [rows, columns, n], with zeros around it.
  template <class Number, class Products>
  static std::vector<int32_t> over_windows(const Number* map, int64_t rows, int64_t columns, int64_t n,
                                           const Stage& stage, const Products& products_of) {
    std::vector<int32_t> y;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < columns; ++column) {
        std::vector<Number> window;
        for (int64_t r = row - 1; r <= row + 1; ++r) {
          for (int64_t c = column - 1; c <= column + 1; ++c) {
            const bool inside = r >= 0 && r < rows && c >= 0 && c < columns;
            const Number* const pixel = map + (inside ? (r * columns + c) * n : 0);
            for (int64_t k = 0; k < n; ++k) window.push_back(inside ? pixel[k] : Number{0});
          }
        }
        const std::vector<int32_t> of_window = products_of(window.data(), stage);
        y.insert(y.end(), of_window.begin(), of_window.end());
      }
    }
    return y;
  }

  static void pool(std::vector<int32_t>& y, int64_t& rows, int64_t& columns, int64_t O) {
    std::vector<int32_t> most;
    for (int64_t r = 0; r + 1 < rows; r += 2) {
      for (int64_t c = 0; c + 1 < columns; c += 2) {
        for (int64_t o = 0; o < O; ++o) {
          const int32_t* const at = y.data() + (r * columns + c) * O + o;
          const int32_t* const below = at + columns * O;
          const int32_t upper = at[0] > at[O] ? at[0] : at[O], lower = below[0] > below[O] ? below[0] : below[O];
          most.push_back(upper > lower ? upper : lower);
        }
      }
    }
    y = std::move(most);
    rows /= 2, columns /= 2;
  }

  static std::vector<uint64_t> thresholds(const std::vector<int32_t>& y, const Stage& stage) {
    const int64_t O = stage.outputs, words = words_for(O), pixels = static_cast<int64_t>(y.size()) / O;
    std::vector<uint64_t> bits(static_cast<size_t>(pixels * words));
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t o = 0; o < O; ++o) {
        const bool turned = (stage.turned[o / 64] >> o % 64 & 1) != 0;
        if ((y[p * O + o] < stage.threshold[o]) != turned) bits[p * words + o / 64] |= uint64_t{1} << o % 64;
      }
    }
    return bits;
  }

  std::vector<float> line(const std::vector<int32_t>& y, const Stage& stage) const {
    const int64_t unused = &stage == &stages_.front() ? 0 : 64 * stage.words - stage.signs;
    std::vector<float> result;
    for (int64_t o = 0; o < stage.outputs; ++o) {
      // volatile: rounded before the sum, whatever the compiler's flags.
      const volatile float product = (static_cast<float>(y[o] - unused) - stage.mean[o]) * stage.factor[o];
      result.push_back(product + stage.bias[o]);
    }
    return result;
  }

  std::vector<Stage> stages_;
};

}  // namespace packed
