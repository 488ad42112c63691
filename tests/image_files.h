// For tests that read images: files of every kind, written with the libraries themselves.
#pragma once

#include <gtest/gtest.h>
#include <stdio.h>  // before jpeglib.h

#include <jpeglib.h>
#include <png.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#undef TRUE
#undef FALSE

namespace loci {

// A TIFF block of one entry, the orientation.
inline std::string exif_block(int orientation, bool little = true) {
  const auto number = [little](unsigned value, int size) {
    std::string bytes;
    for (int i = 0; i < size; ++i) bytes += static_cast<char>(value >> 8 * (little ? i : size - 1 - i));
    return bytes;
  };
  return (little ? "II" : "MM") + number(42, 2) + number(8, 4) + number(1, 2) + number(0x0112, 2) + number(3, 2) +
         number(1, 4) + number(static_cast<unsigned>(orientation), 2) + number(0, 2) + number(0, 4);
}

struct PngForm {
  int width = 1;
  int height = 1;
  int color_type = PNG_COLOR_TYPE_RGB;
  int depth = 8;
  bool interlaced = false;
  std::vector<png_color> palette = {};
  std::vector<png_byte> palette_alpha = {};
  std::string exif = {};
};

// `rows`: the rows as PNG packs them, one after another.
inline std::string png_bytes(const PngForm& form, std::string rows) {
  std::string file;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  const auto append = [](png_structp p, png_bytep bytes, size_t count) {
    static_cast<std::string*>(png_get_io_ptr(p))->append(reinterpret_cast<char*>(bytes), count);
  };
  png_set_write_fn(png, &file, append, nullptr);
  png_set_IHDR(png, info, static_cast<png_uint_32>(form.width), static_cast<png_uint_32>(form.height), form.depth,
               form.color_type, form.interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  if (!form.palette.empty()) png_set_PLTE(png, info, form.palette.data(), static_cast<int>(form.palette.size()));
  if (!form.palette_alpha.empty()) {
    png_set_tRNS(png, info, form.palette_alpha.data(), static_cast<int>(form.palette_alpha.size()), nullptr);
  }
  std::string exif = form.exif;
  if (!exif.empty()) {
    png_set_eXIf_1(png, info, static_cast<png_uint_32>(exif.size()), reinterpret_cast<png_bytep>(exif.data()));
  }
  png_write_info(png, info);
  std::vector<png_bytep> at;
  for (int y = 0; y < form.height; ++y) {
    at.push_back(reinterpret_cast<png_bytep>(rows.data()) + static_cast<size_t>(y) * png_get_rowbytes(png, info));
  }
  png_write_image(png, at.data());
  png_write_end(png, info);
  png_destroy_write_struct(&png, &info);
  return file;
}

struct JpegForm {
  int width = 8;
  int height = 8;
  J_COLOR_SPACE color = JCS_RGB;
  int quality = 100;
  bool progressive = false;
  bool adobe = true;  // of CMYK
  bool ycck = false;  // CMYK coded as YCCK
  std::string exif = {};
};

inline std::string jpeg_bytes(const JpegForm& form, std::string pixels) {
  jpeg_compress_struct info = {};
  jpeg_error_mgr errors = {};
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* memory = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &memory, &size);
  info.image_width = static_cast<JDIMENSION>(form.width);
  info.image_height = static_cast<JDIMENSION>(form.height);
  info.input_components = form.color == JCS_GRAYSCALE ? 1 : form.color == JCS_RGB ? 3 : 4;
  info.in_color_space = form.color;
  jpeg_set_defaults(&info);
  if (form.ycck) jpeg_set_colorspace(&info, JCS_YCCK);
  if (form.color == JCS_CMYK) info.write_Adobe_marker = static_cast<boolean>(form.adobe);
  jpeg_set_quality(&info, form.quality, static_cast<boolean>(true));
  if (form.progressive) jpeg_simple_progression(&info);
  jpeg_start_compress(&info, static_cast<boolean>(true));
  if (!form.exif.empty()) {
    const std::string marker = std::string("Exif\0\0", 6) + form.exif;
    jpeg_write_marker(&info, JPEG_APP0 + 1, reinterpret_cast<const JOCTET*>(marker.data()),
                      static_cast<unsigned>(marker.size()));
  }
  while (info.next_scanline < info.image_height) {
    JSAMPROW row = reinterpret_cast<JSAMPROW>(pixels.data()) +
                   size_t{info.next_scanline} * info.image_width * static_cast<size_t>(info.input_components);
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  std::string file(reinterpret_cast<char*>(memory), size);
  std::free(memory);
  return file;
}

// `count` times the same pixel.
inline std::string repeated(std::string_view pixel, int count) {
  std::string pixels;
  for (int i = 0; i < count; ++i) pixels += pixel;
  return pixels;
}

inline std::filesystem::path put_file(const std::filesystem::path& path, std::string_view bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

}  // namespace loci
