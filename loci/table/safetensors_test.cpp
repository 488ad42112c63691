#include "loci/table/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <string>
#include <vector>

#include "loci/base/check.h"
#include "loci/base/durable_file.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// A file of a header and data as they are given, right or wrong.
std::string file_of(std::string_view header, std::string_view data = "") {
  std::string file;
  for (size_t i = 0; i < 8; ++i) file += static_cast<char>(header.size() >> (8 * i));
  return file.append(header).append(data);
}

SafetensorsHeader parse(std::string_view file) {
  return parse_safetensors(bytes_of(file), "f");
}

std::string small_file() {
  return file_of(R"({"__metadata__":{"made by":"a test"},"b":{"dtype":"F32","shape":[2],"data_offsets":[3,11]},)"
                 R"("a":{"dtype":"U8","shape":[1,3],"data_offsets":[0,3]}}  )",
                 "abcDEFGHIJK");
}

TEST(Safetensors, NamesAndSizesOfDTypes) {
  const std::vector<std::pair<std::string, int64_t>> expected = {
      {"BOOL", 8},        {"U8", 8},   {"I8", 8},      {"F8_E4M3", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2", 8},
      {"F8_E5M2FNUZ", 8}, {"U16", 16}, {"I16", 16},    {"F16", 16},    {"BF16", 16},       {"U32", 32},
      {"I32", 32},        {"F32", 32}, {"U64", 64},    {"I64", 64},    {"F64", 64},        {"C64", 64},
      {"F8_E8M0", 8},     {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6}};
  ASSERT_EQ(expected.size(), static_cast<size_t>(dtype_count));
  for (const auto& [name, bits] : expected) {
    ASSERT_NE(dtype_of(name), DType::unknown) << name;
    EXPECT_EQ(name_of(dtype_of(name)), name);
    EXPECT_EQ(bits_of(dtype_of(name)), bits) << name;
    if (bits % 8 != 0) continue;
    EXPECT_EQ(size_of(dtype_of(name)), bits / 8) << name;
  }
  EXPECT_EQ(name_of(DType::BOOL), "BOOL");
  EXPECT_EQ(name_of(DType::C64), "C64");
  EXPECT_EQ(dtype_of("F31"), DType::unknown);
  EXPECT_EQ(dtype_of("an unknown dtype"), DType::unknown);
  for (const DType dtype : {DType::F4, DType::F6_E2M3, DType::unknown}) {
    expect_error(ExitCode::bug, "an element must have whole bytes", [dtype] { size_of(dtype); });
  }
}

TEST(Safetensors, DTypesOfPartsOfAByteAndUnknownOnesAreListed) {
  const SafetensorsHeader header = parse(file_of(R"({"four":{"dtype":"F4","shape":[2,3],"data_offsets":[0,3]},)"
                                                 R"("six":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[3,6]},)"
                                                 R"("later":{"dtype":"F128","shape":[1],"data_offsets":[6,9]}})",
                                                 "abcdefghi"));
  ASSERT_EQ(header.tensors.size(), 3U);
  EXPECT_EQ(header.tensors[0].dtype, DType::F4);
  EXPECT_EQ(header.tensors[1].dtype_name, "F6_E2M3");
  EXPECT_EQ(header.tensors[2].dtype, DType::unknown);
  EXPECT_EQ(header.tensors[2].dtype_name, "F128");
}

TEST(Safetensors, EveryDTypeSurvivesARoundTripAndTheSecondFileHasTheSameBytes) {
  const TemporaryFolder folder;
  std::vector<std::string> data;
  std::vector<SafetensorsTensor> tensors;
  data.reserve(dtype_count);
  for (int64_t i = 0; i < dtype_count; ++i) {
    const auto dtype = static_cast<DType>(i);
    data.emplace_back(static_cast<size_t>(bits_of(dtype)), static_cast<char>('A' + i));
    tensors.push_back({fmt::format("t/{}", name_of(dtype)), dtype, {4, 2}, bytes_of(data.back())});
  }
  tensors.push_back({"scalar \"\n\xc3\xa9", DType::I64, {}, bytes_of("12345678")});
  tensors.push_back({"empty", DType::F32, {4, 0}, {}});
  tensors.push_back({"", DType::F32, {0}, {}});
  const SafetensorsMetadata metadata = {{"b", "2"}, {"a", "\xe2\x82\xac \\ \"1\""}};
  write_safetensors(folder / "one", tensors, metadata);

  const SafetensorsReader reader(folder / "one");
  EXPECT_EQ(reader.metadata(), metadata);
  ASSERT_EQ(reader.tensors().size(), tensors.size());
  std::vector<SafetensorsTensor> again;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const SafetensorsEntry& entry = reader.tensors()[i];
    EXPECT_EQ(entry.name, tensors[i].name);
    EXPECT_EQ(entry.dtype, tensors[i].dtype);
    EXPECT_EQ(entry.shape, tensors[i].shape);
    EXPECT_EQ(text_of(reader.bytes(entry)), text_of(tensors[i].bytes));
    again.push_back({entry.name, entry.dtype, entry.shape, reader.bytes(entry)});
  }
  write_safetensors(folder / "two", again, reader.metadata());
  EXPECT_EQ(read_text_file(folder / "one"), read_text_file(folder / "two"));
}

TEST(Safetensors, TheFirstTensorStartsOnAPage) {
  const TemporaryFolder folder;
  for (const size_t length : {size_t{0}, size_t{1}, size_t{3900}, size_t{4096}, size_t{9000}}) {
    const std::string name(length, 'n');
    write_safetensors(folder / "f", {{name, DType::U8, {2}, bytes_of("xy")}});
    const SafetensorsReader reader(folder / "f");
    EXPECT_EQ(reader.tensors()[0].begin % 4096, 0);
    EXPECT_LE(reader.tensors()[0].begin, static_cast<int64_t>(length) + 3 * 4096);
    EXPECT_EQ(text_of(reader.bytes(name)), "xy");
  }
}

TEST(Safetensors, TensorsAreOrderedByOffsetAndMayBeMisaligned) {
  const SafetensorsHeader header = parse(small_file());
  ASSERT_EQ(header.tensors.size(), 2U);
  EXPECT_EQ(header.tensors[0].name, "a");
  EXPECT_THAT(header.tensors[0].shape, ElementsAre(1, 3));
  EXPECT_EQ(header.tensors[1].name, "b");
  EXPECT_EQ(small_file().substr(header.tensors[1].begin, 8), "DEFGHIJK");
  EXPECT_EQ(header.tensors[1].end, static_cast<int64_t>(small_file().size()));
  EXPECT_EQ(header.metadata.at("made by"), "a test");
}

TEST(Safetensors, FindsByName) {
  const TemporaryFolder folder;
  write_file_durably(folder / "f", small_file());
  const SafetensorsReader reader(folder / "f");
  EXPECT_EQ(text_of(reader.bytes("a")), "abc");
  ASSERT_NE(reader.find("b"), nullptr);
  EXPECT_EQ(reader.find("c"), nullptr);
  expect_error(ExitCode::input, "f: the file must hold \"c\", got none", [&] { reader.bytes("c"); });
}

TEST(Safetensors, AFileWithoutTensorsIsAFile) {
  EXPECT_TRUE(parse(file_of("{}")).tensors.empty());
  const TemporaryFolder folder;
  write_safetensors(folder / "f", {});
  EXPECT_TRUE(SafetensorsReader(folder / "f").tensors().empty());
}

TEST(Safetensors, WhatIsNoFileIsRefused) {
  const TemporaryFolder folder;
  write_file_durably(folder / "empty", "");
  expect_error(ExitCode::input, "eight bytes of header size, got a file of 0 bytes",
               [&] { SafetensorsReader(folder / "empty"); });
  expect_error(ExitCode::input, "No such file", [&] { SafetensorsReader(folder / "none"); });
  expect_error(ExitCode::input, "must be a regular file, got a folder", [&] { SafetensorsReader{folder.path()}; });
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_error(ExitCode::input, "must be a regular file", [&] { SafetensorsReader(folder / "pipe"); });
}

struct Hostile {
  std::string what;
  std::string file;
  std::string message;
};

std::string entry(const std::string& fields) {
  return "{\"a\":{" + fields + "}}";
}

std::string shaped(const std::string& shape, const std::string& offsets = "[0,4]") {
  return entry(R"("dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + offsets);
}

std::vector<Hostile> hostile_files() {
  const std::string size_above_limit = "\x01\xe1\xf5\x05" + std::string(4, '\0') + "{}";
  const std::string e = R"("dtype":"U8","shape":[2],"data_offsets":)";
  return {
      {"only a size", file_of(""), "must be a JSON object, got nothing"},
      {"seven bytes", "1234567", "got a file of 7 bytes"},
      {"size beyond the file", file_of("{}").substr(0, 9), "at most 1 "},
      {"size of all ones", std::string(8, '\xff') + "{}", "got 18446744073709551615"},
      {"size above the limit", size_above_limit, "got 100000001"},
      {"leading space", file_of(" {}"), "got another start"},
      {"an array", file_of("[]"), "got another start"},
      {"no JSON", file_of("{abc}"), "the header must be JSON, got an error at its byte 2"},
      {"no end", file_of("{"), "the header must be JSON"},
      {"two objects", file_of("{}{}"), "the header must be JSON"},
      {"zero padding", file_of(std::string("{}\0\0", 4)), "the header must be JSON, got a zero byte"},
      {"no UTF-8", file_of("{\"\xff\":{}}"), "the header must be JSON"},
      {"pickle", std::string("\x80\x02}q\x01X\x04\x00\x00\x00step", 14), "the header's size"},
      {"entry is a number", file_of(R"({"a":1})"), "tensor \"a\" must be an object, got a number"},
      {"entry is an array", file_of(R"({"a":[]})"), "tensor \"a\" must be an object, got an array"},
      {"entry is null", file_of(R"({"a":null})"), "tensor \"a\" must be an object, got null"},
      {"entry is deep", file_of(R"({"a":{"dtype":{}}})"), "the dtype of \"a\" must be a text, got an object"},
      {"deep nesting", file_of("{\"a\":" + std::string(100000, '[')), "must be an object, got an array"},
      {"no field", file_of(R"({"a":{}})"), "must have dtype, shape and data_offsets"},
      {"no offsets", file_of(entry(R"("dtype":"F32","shape":[])")), "must have dtype, shape and data_offsets"},
      {"unknown field", file_of(entry(R"("type":"F32")")), "each once, got \"type\""},
      {"field twice", file_of(entry(R"("dtype":"F32","dtype":"F32")")), "each once, got \"dtype\""},
      {"half a byte", file_of(entry(R"("dtype":"F4","shape":[3],"data_offsets":[0,1])"), "a"),
       "a shape of whole bytes below 2^63"},
      {"six bits", file_of(entry(R"("dtype":"F6_E3M2","shape":[4],"data_offsets":[0,4])"), "abcd"), "the 3 bytes"},
      {"unknown beyond the end", file_of(entry(R"("dtype":"F128","shape":[1],"data_offsets":[0,9])"), "a"),
       "must lie in"},
      {"dtype is a number", file_of(entry(R"("dtype":4)")), "the dtype of \"a\" must be a text, got a number"},
      {"shape is a text", file_of(shaped("\"1\""), "abcd"), "the shape of \"a\" must be sizes"},
      {"negative size", file_of(shaped("[-1]"), "abcd"), "sizes below 2^63, got -1"},
      {"size is real", file_of(shaped("[1.0]"), "abcd"), "got \"1.0\""},
      {"size is true", file_of(shaped("[true]"), "abcd"), "got true"},
      {"size above int64", file_of(shaped("[9223372036854775808]"), "abcd"), "got 9223372036854775808"},
      {"size above uint64", file_of(shaped("[18446744073709551617]"), "abcd"), "got \"18446744073709551617\""},
      {"shape nested", file_of(shaped("[[1]]"), "abcd"), "sizes below 2^63, got an array"},
      {"product overflows", file_of(shaped("[4294967296,4294967296,1]"), "abcd"), "a shape of whole bytes below 2^63"},
      {"bytes overflow", file_of(shaped("[4611686018427387905]"), "abcd"), "a shape of whole bytes below 2^63"},
      {"strides overflow", file_of(shaped("[0,4294967296,4294967296]", "[0,0]")), "a shape of whole bytes below 2^63"},
      {"shape too small", file_of(shaped("[2]"), "abcd"), "must have the 8 bytes of its shape, got 4"},
      {"shape too large", file_of(shaped("[]", "[0,8]"), "abcdefgh"), "must have the 4 bytes of its shape, got 8"},
      {"one offset", file_of(shaped("[1]", "[0]"), "abcd"), "must be two numbers below 2^63, got 1 numbers"},
      {"three offsets", file_of(shaped("[1]", "[0,4,4]"), "abcd"), "must be two numbers"},
      {"negative offset", file_of(shaped("[1]", "[-4,0]"), "abcd"), "got -4"},
      {"range backwards", file_of(shaped("[0]", "[4,0]"), "abcd"),
       "must lie in the file's 4 bytes of data, got [4, 0)"},
      {"range beyond the end", file_of(shaped("[2]", "[0,8]"), "abcd"), "4 bytes of data, got [0, 8)"},
      {"range far beyond", file_of(shaped("[1]", "[9223372036854775803,9223372036854775807]"), "abcd"), "must lie in"},
      {"hole at the start", file_of(entry(e + "[1,3]"), "abc"), "must start at 0"},
      {"hole", file_of("{\"a\":{" + e + "[0,2]},\"b\":{" + e + "[3,5]}}", "abcde"), "\"b\" must start at 2"},
      {"overlap", file_of("{\"a\":{" + e + "[0,2]},\"b\":{" + e + "[1,3]}}", "abc"), "\"b\" must start at 2"},
      {"the same range", file_of("{\"a\":{" + e + "[0,2]},\"b\":{" + e + "[0,2]}}", "ab"), "\"b\" must start at 2"},
      {"bytes after the last", file_of(entry(e + "[0,2]"), "abc"), "must end after its last tensor, got 1 more bytes"},
      {"bytes after nothing", file_of("{}", "a"), "got 1 more bytes"},
      {"name twice", file_of("{\"a\":{" + e + "[0,2]},\"a\":{" + e + "[2,4]}}", "abcd"), "got \"a\" twice"},
      {"name twice, escaped", file_of("{\"a\":{" + e + "[0,2]},\"\\u0061\":{" + e + "[2,4]}}", "abcd"), "\"a\" twice"},
      {"line break in a name", file_of(R"({"a\nb":1})"), R"(tensor "a\nb" must)"},
      {"metadata is a text", file_of(R"({"__metadata__":"a"})"), "the metadata must be an object, got a text"},
      {"metadata number", file_of(R"({"__metadata__":{"a":1}})"), "metadata \"a\" must be a text, got a number"},
      {"metadata object", file_of(R"({"__metadata__":{"a":{}}})"), "metadata \"a\" must be a text, got an object"},
      {"metadata twice", file_of(R"({"__metadata__":{},"__metadata__":{}})"), "got \"__metadata__\" twice"},
      {"metadata key twice", file_of(R"({"__metadata__":{"a":"1","a":"2"}})"), "got \"a\" twice"},
  };
}

TEST(Safetensors, HostileFilesGiveOneLineThatSaysWhat) {
  for (const Hostile& hostile : hostile_files()) {
    SCOPED_TRACE(hostile.what);
    expect_error(ExitCode::input, hostile.message, [&] { parse(hostile.file); });
    expect_error(ExitCode::input, "f: ", [&] { parse(hostile.file); });
  }
}

TEST(Safetensors, ALongNameIsCutInTheMessage) {
  try {
    parse(file_of("{\"" + std::string(100000, 'x') + "\":1}"));
    FAIL();
  } catch (const Error& error) {
    EXPECT_LT(std::strlen(error.what()), 300U);
  }
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const std::string file = small_file();
  ASSERT_EQ(parse(file).tensors.size(), 2U);
  for (size_t size = 0; size < file.size(); ++size) {
    const std::vector<char> exact(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size));  // no byte beyond
    EXPECT_THROW(parse({exact.data(), exact.size()}), Error) << size;
  }
}

TEST(Safetensors, EveryFlippedBitIsRefusedOrGivesAConsistentFile) {
  const std::string good = small_file();
  for (size_t at = 0; at < good.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string file = good;
      file[at] = static_cast<char>(file[at] ^ (1 << bit));
      try {
        int64_t bytes = 0;
        for (const SafetensorsEntry& tensor : parse(file).tensors) bytes += tensor.end - tensor.begin;
        EXPECT_EQ(bytes, 11);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::input);
      }
    }
  }
}

TEST(Safetensors, TheWriterRefusesWhatIsInconsistentAndLeavesNothing) {
  const TemporaryFolder folder;
  const auto four = bytes_of("abcd");
  expect_error(ExitCode::bug, "must be distinct and not __metadata__, got \"a\"",
               [&] { write_safetensors(folder / "f", {{"a", DType::F32, {}, four}, {"a", DType::F32, {}, four}}); });
  expect_error(ExitCode::bug, "not __metadata__, got \"__metadata__\"",
               [&] { write_safetensors(folder / "f", {{"__metadata__", DType::F32, {}, four}}); });
  expect_error(ExitCode::bug, "must have the bytes of its shape, got 0 for an unknown dtype of []",
               [&] { write_safetensors(folder / "f", {{"a", DType::unknown, {}, {}}}); });
  expect_error(ExitCode::bug, "must have the bytes of its shape, got 4 for F32 of [2]",
               [&] { write_safetensors(folder / "f", {{"a", DType::F32, {2}, four}}); });
  expect_error(ExitCode::bug, "must have the bytes of its shape",
               [&] { write_safetensors(folder / "f", {{"a", DType::F32, {-1, -1}, four}}); });
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace loci
