// libjpeg reports errors by a long jump. It must not pass objects with destructors: the functions that call setjmp()
// have plain locals only, and everything that is allocated belongs to an object outside of them.
#include <stdio.h>  // before jpeglib.h, which uses FILE and size_t

#include <jpeglib.h>

#include <csetjmp>
#include <cstring>

#include "loci/base/check.h"
#include "loci/data/image/image_codec.h"

namespace loci {
namespace {

constexpr std::string_view kExifStart("Exif\0\0", 6);

class JpegDecoder {
 public:
  JpegDecoder() {
    info_.err = jpeg_std_error(&errors_);
    info_.client_data = this;
    errors_.error_exit = leave;
    errors_.emit_message = refuse_warning;
  }
  ~JpegDecoder() { jpeg_destroy_decompress(&info_); }
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  // Both are false after an error, which message() tells.
  bool read_header(std::span<const std::byte> file, ImageColor color) {
    if (setjmp(leave_) != 0) return false;
    jpeg_create_decompress(&info_);
    jpeg_save_markers(&info_, JPEG_APP0 + 1, 0xFFFF);
    jpeg_mem_src(&info_, reinterpret_cast<const unsigned char*>(file.data()), file.size());
    jpeg_read_header(&info_, TRUE);
    choose_output(color);
    return true;
  }
  bool read_pixels(uint8_t* pixels) {
    if (setjmp(leave_) != 0) return false;
    jpeg_start_decompress(&info_);
    while (info_.output_scanline < info_.output_height) {
      JSAMPROW row = pixels + size_t{info_.output_scanline} * info_.output_width * info_.output_components;
      jpeg_read_scanlines(&info_, &row, 1);
    }
    jpeg_finish_decompress(&info_);
    return true;
  }

  CodedHeader header() const {
    return {static_cast<int64_t>(info_.image_height), static_cast<int64_t>(info_.image_width), orientation()};
  }
  PixelKind kind() const {
    if (info_.out_color_space == JCS_GRAYSCALE) return PixelKind::grey;
    if (info_.out_color_space == JCS_RGB) return PixelKind::rgb;
    return info_.saw_Adobe_marker ? PixelKind::cmyk_inverted : PixelKind::cmyk;
  }
  const char* message() const { return message_; }

 private:
  static JpegDecoder& self(j_common_ptr info) { return *static_cast<JpegDecoder*>(info->client_data); }

  [[noreturn]] static void leave(j_common_ptr info) {
    (*info->err->format_message)(info, self(info).message_);
    std::longjmp(self(info).leave_, 1);
  }
  // After a warning libjpeg makes up the pixels that are missing, or passes over the image once more, for every bogus
  // scan of a few bytes. Level -1 is a warning, higher ones are for tracing.
  static void refuse_warning(j_common_ptr info, int level) {
    if (level < 0) leave(info);
  }

  void choose_output(ImageColor color) {
    switch (info_.jpeg_color_space) {
      case JCS_GRAYSCALE:
        info_.out_color_space = JCS_GRAYSCALE;
        break;
      case JCS_YCbCr:
        info_.out_color_space = color == ImageColor::grey ? JCS_GRAYSCALE : JCS_RGB;
        break;
      case JCS_RGB:
        info_.out_color_space = JCS_RGB;
        break;
      case JCS_CMYK:
      case JCS_YCCK:
        info_.out_color_space = JCS_CMYK;
        break;
      default:
        std::snprintf(message_, sizeof message_, "%d channels of unknown colours", info_.num_components);
        std::longjmp(leave_, 1);
    }
  }

  int orientation() const {
    for (jpeg_saved_marker_ptr marker = info_.marker_list; marker != nullptr; marker = marker->next) {
      const std::span<const uint8_t> data(marker->data, marker->data_length);
      if (data.size() < kExifStart.size() || std::memcmp(data.data(), kExifStart.data(), kExifStart.size()) != 0) {
        continue;
      }
      return exif_orientation(data.subspan(kExifStart.size()));
    }
    return 1;
  }

  jpeg_decompress_struct info_ = {};
  jpeg_error_mgr errors_ = {};
  std::jmp_buf leave_;
  char message_[JMSG_LENGTH_MAX] = "";
};

[[noreturn]] void fail_jpeg(std::string_view who, const JpegDecoder& decoder) {
  fail(ExitCode::input, who, "the file must be a whole JPEG image", decoder.message());
}

}  // namespace

CodedImage decode_jpeg(std::span<const std::byte> file, std::string_view who, ImageColor color,
                       const AcceptHeader& accept) {
  JpegDecoder decoder;
  if (!decoder.read_header(file, color)) fail_jpeg(who, decoder);
  CodedImage image = {decoder.header(), decoder.kind(), {}};
  if (!accept(image.header)) return image;
  image.pixels.resize(static_cast<size_t>(image.header.height * image.header.width * channels_of(image.kind)));
  if (!decoder.read_pixels(image.pixels.data())) fail_jpeg(who, decoder);
  return image;
}

}  // namespace loci
