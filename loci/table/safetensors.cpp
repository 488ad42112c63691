#include "loci/table/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "loci/base/check.h"
#include "loci/table/safetensors_format.h"

namespace loci {
namespace {

using safetensors::bytes_of;
using safetensors::escaped;
using safetensors::header_limit;

struct DTypeInfo {
  std::string_view name;
  int64_t bits;
};
constexpr std::array<DTypeInfo, dtype_count + 1> dtypes = {{
    {"BOOL", 8},
    {"F4", 4},
    {"F6_E2M3", 6},
    {"F6_E3M2", 6},
    {"U8", 8},
    {"I8", 8},
    {"F8_E4M3", 8},
    {"F8_E4M3FNUZ", 8},
    {"F8_E5M2", 8},
    {"F8_E5M2FNUZ", 8},
    {"F8_E8M0", 8},
    {"U16", 16},
    {"I16", 16},
    {"F16", 16},
    {"BF16", 16},
    {"U32", 32},
    {"I32", 32},
    {"F32", 32},
    {"U64", 64},
    {"I64", 64},
    {"F64", 64},
    {"C64", 64},
    {"an unknown dtype", 0},
}};

// Takes the header's JSON as events: only the shape {name: {dtype, shape, data_offsets}, "__metadata__": {text: text}}
// passes, every key once. No tree is built, so nesting and size cost nothing before they are refused.
class HeaderEvents : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderEvents(std::string_view who) : who_(who) {}
  SafetensorsHeader take() { return std::move(header_); }

  bool start_object(std::size_t /*size*/) override {
    if (place_ == Place::start) {
      place_ = Place::top;
    } else if (place_ == Place::top_value) {
      place_ = is_metadata_ ? Place::metadata : Place::entry;
      given_ = 0;
    } else {
      refuse("an object");
    }
    return true;
  }

  bool key(string_t& text) override {
    if (place_ == Place::top) {
      begin_entry(text);
    } else if (place_ == Place::metadata) {
      metadata_key_ = text;
      place_ = Place::metadata_value;
    } else {
      begin_field(text);
    }
    return true;
  }

  bool string(string_t& text) override {
    if (place_ == Place::metadata_value) {
      if (!header_.metadata.emplace(metadata_key_, text).second) {
        fail(ExitCode::input, who_, "a metadata key must stand once", fmt::format("{} twice", escaped(metadata_key_)));
      }
      place_ = Place::metadata;
    } else if (place_ == Place::dtype) {
      header_.tensors.back().dtype = dtype_of(text);
      header_.tensors.back().dtype_name = text;
      place_ = Place::entry;
    } else {
      refuse("a text");
    }
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<int64_t>::max())) {
      refuse(fmt::format("{}", value));
    }
    const auto number = static_cast<int64_t>(value);
    if (place_ == Place::shape_items) {
      header_.tensors.back().shape.push_back(number);
    } else if (place_ == Place::offset_items && offsets_ < 2) {
      (offsets_ == 0 ? header_.tensors.back().begin : header_.tensors.back().end) = number;
      ++offsets_;
    } else {
      refuse("a number");
    }
    return true;
  }

  bool start_array(std::size_t /*size*/) override {
    if (place_ == Place::shape) {
      place_ = Place::shape_items;
    } else if (place_ == Place::offsets) {
      place_ = Place::offset_items;
      offsets_ = 0;
    } else {
      refuse("an array");
    }
    return true;
  }

  bool end_array() override {
    if (place_ == Place::offset_items && offsets_ != 2) refuse(fmt::format("{} numbers", offsets_));
    place_ = Place::entry;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::entry && given_ != (has_dtype | has_shape | has_offsets)) {
      fail(ExitCode::input, who_, fmt::format("tensor {} must have dtype, shape and data_offsets", name()), "fewer");
    }
    place_ = Place::top;
    return true;
  }

  bool null() override { return refuse("null"), false; }
  bool boolean(bool value) override { return refuse(value ? "true" : "false"), false; }
  bool number_integer(number_integer_t value) override { return refuse(fmt::format("{}", value)), false; }
  bool number_float(number_float_t /*value*/, const string_t& text) override { return refuse(escaped(text)), false; }
  bool binary(binary_t& /*value*/) override { return refuse("binary data"), false; }
  bool parse_error(std::size_t position, const std::string& /*token*/, const nlohmann::json::exception&) override {
    fail(ExitCode::input, who_, "the header must be JSON", fmt::format("an error at its byte {}", position));
  }

 private:
  enum class Place {
    start,
    top,
    top_value,
    metadata,
    metadata_value,
    entry,
    dtype,
    shape,
    shape_items,
    offsets,
    offset_items
  };
  static constexpr unsigned has_dtype = 1, has_shape = 2, has_offsets = 4;

  std::string name() const { return escaped(header_.tensors.back().name); }

  void begin_entry(const std::string& text) {
    if (!names_.insert(text).second) {
      fail(ExitCode::input, who_, "a tensor's name must stand once", fmt::format("{} twice", escaped(text)));
    }
    is_metadata_ = text == "__metadata__";
    if (!is_metadata_) header_.tensors.push_back({text, DType::unknown, {}, {}, 0, 0});
    place_ = Place::top_value;
  }

  void begin_field(const std::string& text) {
    unsigned field = 0;
    if (text == "dtype") field = has_dtype, place_ = Place::dtype;
    if (text == "shape") field = has_shape, place_ = Place::shape;
    if (text == "data_offsets") field = has_offsets, place_ = Place::offsets;
    if (field == 0 || (given_ & field) != 0) {
      fail(ExitCode::input, who_, fmt::format("tensor {} must have dtype, shape and data_offsets, each once", name()),
           escaped(text));
    }
    given_ |= field;
  }

  [[noreturn]] void refuse(const std::string& got) const {
    std::string expected = "the header must be a JSON object";
    switch (place_) {
      case Place::start:
        break;
      case Place::top_value:
        expected = is_metadata_ ? "the metadata must be an object" : fmt::format("tensor {} must be an object", name());
        break;
      case Place::metadata:
      case Place::metadata_value:
        expected = fmt::format("metadata {} must be a text", escaped(metadata_key_));
        break;
      case Place::dtype:
        expected = fmt::format("the dtype of {} must be a text", name());
        break;
      case Place::shape:
      case Place::shape_items:
        expected = fmt::format("the shape of {} must be sizes below 2^63", name());
        break;
      default:
        expected = fmt::format("the data_offsets of {} must be two numbers below 2^63", name());
        break;
    }
    fail(ExitCode::input, who_, expected, got);
  }

  std::string_view who_;
  SafetensorsHeader header_;
  std::unordered_set<std::string> names_;
  Place place_ = Place::start;
  std::string metadata_key_;
  bool is_metadata_ = false;
  unsigned given_ = 0;
  int offsets_ = 0;
};

// Orders the tensors as they lie in the data and checks that they fill it exactly. Offsets become the file's.
void place_tensors(std::vector<SafetensorsEntry>& tensors, int64_t data_begin, int64_t data_size,
                   std::string_view who) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t next = 0;
  for (SafetensorsEntry& tensor : tensors) {
    const std::string range = fmt::format("[{}, {})", tensor.begin, tensor.end);
    if (tensor.begin > tensor.end || tensor.end > data_size) {
      fail(ExitCode::input, who,
           fmt::format("tensor {} must lie in the file's {} bytes of data", escaped(tensor.name), data_size), range);
    }
    if (tensor.begin != next) {
      fail(ExitCode::input, who,
           fmt::format("tensor {} must start at {}, where the one before it ends", escaped(tensor.name), next), range);
    }
    const std::optional<int64_t> bytes = bytes_of(tensor.shape, tensor.dtype);
    if (tensor.dtype != DType::unknown && bytes != tensor.end - tensor.begin) {
      fail(ExitCode::input, who,
           bytes ? fmt::format("tensor {} must have the {} bytes of its shape", escaped(tensor.name), *bytes)
                 : fmt::format("tensor {} must have a shape of whole bytes below 2^63", escaped(tensor.name)),
           fmt::format("{}", tensor.end - tensor.begin));
    }
    next = tensor.end;
    tensor.begin += data_begin;
    tensor.end += data_begin;
  }
  if (next != data_size) {
    fail(ExitCode::input, who, "the file must end after its last tensor",
         fmt::format("{} more bytes", data_size - next));
  }
}

}  // namespace

std::string safetensors::escaped(std::string_view text) {
  const std::string json = nlohmann::json(text).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  return json.size() <= 120 ? json : json.substr(0, 116) + "...\"";
}

std::optional<int64_t> safetensors::bytes_of(const std::vector<int64_t>& shape, DType dtype) {
  if (dtype == DType::unknown) return std::nullopt;
  int64_t elements = 1;
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(elements, std::max<int64_t>(size, 1), &elements)) return std::nullopt;
    empty = empty || size == 0;
  }
  // The remainder is counted apart: the bits may be more than 63 bits hold where the bytes are not.
  const int64_t bits = bits_of(dtype);
  int64_t bytes = 0;
  if (__builtin_mul_overflow(elements / 8, bits, &bytes)) return std::nullopt;
  const int64_t rest = elements % 8 * bits;
  if (empty) return 0;
  if (rest % 8 != 0 || __builtin_add_overflow(bytes, rest / 8, &bytes)) return std::nullopt;
  return bytes;
}

int64_t bits_of(DType dtype) {
  return dtypes.at(static_cast<size_t>(dtype)).bits;
}

int64_t size_of(DType dtype) {
  const int64_t bits = bits_of(dtype);
  if (bits == 0 || bits % 8 != 0) {
    fail(ExitCode::bug, "size_of", "an element must have whole bytes", name_of(dtype));
  }
  return bits / 8;
}

std::string_view name_of(DType dtype) {
  return dtypes.at(static_cast<size_t>(dtype)).name;
}

DType dtype_of(std::string_view name) {
  for (size_t i = 0; i < static_cast<size_t>(dtype_count); ++i) {
    if (dtypes[i].name == name) return static_cast<DType>(i);
  }
  return DType::unknown;
}

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, std::string_view who) {
  constexpr size_t prefix = sizeof(uint64_t);
  if (file.size() < prefix) {
    fail(ExitCode::input, who, "a safetensors file must start with eight bytes of header size",
         fmt::format("a file of {} bytes", file.size()));
  }
  uint64_t size = 0;
  for (size_t i = 0; i < prefix; ++i) size |= std::to_integer<uint64_t>(file[i]) << (8 * i);
  const uint64_t limit = std::min<uint64_t>(header_limit, file.size() - prefix);
  if (size > limit) {
    fail(ExitCode::input, who, fmt::format("the header's size must be at most {} (the file, and 100 MB)", limit),
         fmt::format("{}", size));
  }
  const auto* text = reinterpret_cast<const char*>(file.data() + prefix);
  if (size == 0 || *text != '{') {
    fail(ExitCode::input, who, "the header must be a JSON object", size == 0 ? "nothing" : "another start");
  }
  if (std::memchr(text, 0, size) != nullptr) {  // the parser would take it for the end
    fail(ExitCode::input, who, "the header must be JSON", "a zero byte");
  }
  HeaderEvents events(who);
  nlohmann::json::sax_parse(text, text + size, &events);
  SafetensorsHeader header = events.take();
  place_tensors(header.tensors, static_cast<int64_t>(prefix + size), static_cast<int64_t>(file.size() - prefix - size),
                who);
  return header;
}

SafetensorsReader::SafetensorsReader(const std::filesystem::path& path)
    : path_(path), file_(path), header_(parse_safetensors(file_.bytes(), path.string())) {
  for (size_t i = 0; i < header_.tensors.size(); ++i) by_name_.emplace(header_.tensors[i].name, i);
}

const SafetensorsEntry* SafetensorsReader::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &header_.tensors[found->second];
}

std::span<const std::byte> SafetensorsReader::bytes(const SafetensorsEntry& entry) const {
  return file_.bytes().subspan(static_cast<size_t>(entry.begin), static_cast<size_t>(entry.end - entry.begin));
}

std::span<const std::byte> SafetensorsReader::bytes(std::string_view name) const {
  const SafetensorsEntry* entry = find(name);
  if (entry == nullptr)
    fail(ExitCode::input, path_.string(), fmt::format("the file must hold {}", escaped(name)), "none");
  return bytes(*entry);
}

}  // namespace loci
