// libpng reports errors by a long jump, as libjpeg does (jpeg_decoder.cpp).
#include <png.h>

#include <array>
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "loci/base/check.h"
#include "loci/base/durable_file.h"
#include "loci/data/image/image_codec.h"

namespace loci {
namespace {

class PngDecoder {
 public:
  explicit PngDecoder(std::span<const std::byte> file)
      : file_(file), png_(png_create_read_struct(PNG_LIBPNG_VER_STRING, this, leave, ignore_warning)) {
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_read_struct(&png_, nullptr, nullptr);
      fail(ExitCode::resources, "libpng", "it must be usable", "no decoder");
    }
  }
  ~PngDecoder() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;

  // Both are false after an error, which message() tells.
  bool read_header() {
    if (setjmp(leave_) != 0) return false;
    // Compressed texts and profiles may grow a thousandfold, and nobody reads them.
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER,
                                reinterpret_cast<const png_byte*>("iCCP\0zTXt\0iTXt\0sPLT"), 4);
    png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // the caller's limit is of pixels
    png_set_read_fn(png_, this, read);
    png_read_info(png_, info_);
    return true;
  }
  // After read_header() alone; what png_read_image() will write.
  bool prepare() {
    if (setjmp(leave_) != 0) return false;
    png_set_expand(png_);  // palettes, fewer than 8 bits, a transparent colour
    png_set_scale_16(png_);
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    return true;
  }
  bool read_pixels(png_bytep* rows) {
    if (setjmp(leave_) != 0) return false;
    png_read_image(png_, rows);
    png_read_end(png_, nullptr);
    return true;
  }

  CodedHeader header() const {
    CodedHeader header = {png_get_image_height(png_, info_), png_get_image_width(png_, info_)};
    png_bytep exif = nullptr;
    png_uint_32 size = 0;
    if (png_get_eXIf_1(png_, info_, &size, &exif) != 0) header.orientation = exif_orientation({exif, size});
    return header;
  }
  PixelKind kind() const {
    constexpr std::array kinds = {PixelKind::grey, PixelKind::grey_alpha, PixelKind::rgb, PixelKind::rgb_alpha};
    return kinds[png_get_channels(png_, info_) - 1];
  }
  const char* message() const { return message_; }

 private:
  [[noreturn]] static void leave(png_structp png, png_const_charp message) {
    auto& self = *static_cast<PngDecoder*>(png_get_error_ptr(png));
    std::snprintf(self.message_, sizeof self.message_, "%s", message);
    std::longjmp(self.leave_, 1);
  }
  static void ignore_warning(png_structp, png_const_charp) {}
  static void read(png_structp png, png_bytep bytes, size_t count) {
    auto& self = *static_cast<PngDecoder*>(png_get_io_ptr(png));
    if (count > self.file_.size() - self.read_) png_error(png, "the end of the file");
    std::memcpy(bytes, self.file_.data() + self.read_, count);
    self.read_ += count;
  }

  std::span<const std::byte> file_;
  size_t read_ = 0;
  std::jmp_buf leave_;
  char message_[200] = "";
  png_structp png_;
  png_infop info_ = nullptr;
};

[[noreturn]] void fail_png(std::string_view who, const PngDecoder& decoder) {
  fail(ExitCode::input, who, "the file must be a whole PNG image", decoder.message());
}

}  // namespace

CodedImage decode_png(std::span<const std::byte> file, std::string_view who, const AcceptHeader& accept) {
  PngDecoder decoder(file);
  if (!decoder.read_header()) fail_png(who, decoder);
  CodedImage image = {decoder.header(), PixelKind::rgb, {}};
  if (!accept(image.header)) return image;
  if (!decoder.prepare()) fail_png(who, decoder);
  image.kind = decoder.kind();
  const int64_t row_bytes = image.header.width * channels_of(image.kind);
  image.pixels.resize(static_cast<size_t>(image.header.height * row_bytes));
  std::vector<png_bytep> rows(static_cast<size_t>(image.header.height));
  for (size_t y = 0; y < rows.size(); ++y) rows[y] = image.pixels.data() + y * static_cast<size_t>(row_bytes);
  if (!decoder.read_pixels(rows.data())) fail_png(who, decoder);
  return image;
}

void write_png(const std::filesystem::path& path, const Image& image) {
  png_image header = {};
  header.version = PNG_IMAGE_VERSION;
  header.width = static_cast<png_uint_32>(image.shape.width);
  header.height = static_cast<png_uint_32>(image.shape.height);
  header.format = image.shape.channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  if (image.shape.channels != 1 && image.shape.channels != 3) {
    fail(ExitCode::bug, "write_png", "the image must have 1 or 3 channels", fmt::to_string(image.shape.channels));
  }
  if (std::ssize(image.pixels) != image.shape.bytes() || image.pixels.empty()) {
    fail(ExitCode::bug, "write_png", fmt::format("the image must hold {} bytes, at least one", image.shape.bytes()),
         fmt::to_string(image.pixels.size()));
  }
  std::string file(PNG_IMAGE_PNG_SIZE_MAX(header), '\0');
  png_alloc_size_t size = file.size();
  if (png_image_write_to_memory(&header, file.data(), &size, 0, image.pixels.data(), 0, nullptr) == 0) {
    fail(ExitCode::resources, path.string(), "the image must fit a PNG file", header.message);
  }
  write_file_durably(path, std::string_view(file).substr(0, size), ExitCode::usage);
}

}  // namespace loci
