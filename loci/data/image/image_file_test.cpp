#include "loci/data/image/image_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "loci/base/check.h"
#include "tests/image_files.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using Pixels = std::vector<uint8_t>;

Image decoded(const std::string& file, ImageColor color = ImageColor::rgb, int64_t maximum_pixels = 1 << 20) {
  return decode_image(std::as_bytes(std::span(file)), "x.img", {color, maximum_pixels});
}

void expect_refused_image(const std::string& file, const std::string& part, int64_t maximum_pixels = 1 << 20) {
  expect_error(ExitCode::input, part, [&] { decoded(file, ImageColor::rgb, maximum_pixels); });
}

// A PNG of pseudo-random RGB, so that it has many bytes of pixels.
Image noise_image(int64_t height, int64_t width, int64_t channels = 3) {
  Image image = {{height, width, channels}, Pixels(static_cast<size_t>(height * width * channels))};
  uint32_t state = 1;
  for (uint8_t& value : image.pixels) value = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24);
  return image;
}

TEST(ImageFileTest, APngOfEachKindGivesItsPixels) {
  const std::string rgb = "\x01\x02\x03\xFA\xFB\xFC";
  EXPECT_THAT(decoded(png_bytes({.width = 2}, rgb)).pixels, ElementsAre(1, 2, 3, 0xFA, 0xFB, 0xFC));
  EXPECT_THAT(decoded(png_bytes({.width = 2, .color_type = PNG_COLOR_TYPE_GRAY}, "\x07\xF0")).pixels,
              ElementsAre(7, 7, 7, 0xF0, 0xF0, 0xF0));
  const std::string bits("\xA0", 1);
  EXPECT_THAT(decoded(png_bytes({.width = 3, .color_type = PNG_COLOR_TYPE_GRAY, .depth = 1}, bits)).pixels,
              ElementsAre(255, 255, 255, 0, 0, 0, 255, 255, 255));
  const PngForm palette = {
      .width = 2, .color_type = PNG_COLOR_TYPE_PALETTE, .depth = 4, .palette = {{9, 8, 7}, {200, 100, 50}}};
  EXPECT_THAT(decoded(png_bytes(palette, "\x10")).pixels, ElementsAre(200, 100, 50, 9, 8, 7));
}

TEST(ImageFileTest, SixteenBitsAreRoundedToEight) {
  const PngForm grey = {.width = 4, .color_type = PNG_COLOR_TYPE_GRAY, .depth = 16};
  const std::string rows("\0\0\0\x7F\0\x81\xFF\xFF", 8);
  EXPECT_THAT(decoded(png_bytes(grey, rows), ImageColor::grey).pixels, ElementsAre(0, 0, 1, 255));
  const std::string rgb("\x80\x80\x40\x40\x20\x20", 6);
  EXPECT_THAT(decoded(png_bytes({.depth = 16}, rgb)).pixels, ElementsAre(0x80, 0x40, 0x20));
}

TEST(ImageFileTest, WhatIsTransparentIsLaidOnBlack) {
  const PngForm alpha = {.width = 3, .color_type = PNG_COLOR_TYPE_RGB_ALPHA};
  const std::string rows("\xFF\x80\x40\xFF\xFF\x80\x40\x80\xFF\x80\x40\0", 12);
  EXPECT_THAT(decoded(png_bytes(alpha, rows)).pixels, ElementsAre(255, 128, 64, 128, 64, 32, 0, 0, 0));
  const PngForm grey = {.width = 2, .color_type = PNG_COLOR_TYPE_GRAY_ALPHA};
  EXPECT_THAT(decoded(png_bytes(grey, std::string("\xFF\x80\xFF\0", 4)), ImageColor::grey).pixels, ElementsAre(128, 0));
  const PngForm palette = {.width = 2,
                           .color_type = PNG_COLOR_TYPE_PALETTE,
                           .palette = {{9, 8, 7}, {200, 100, 50}},
                           .palette_alpha = {255, 0}};
  EXPECT_THAT(decoded(png_bytes(palette, std::string("\0\x01", 2))).pixels, ElementsAre(9, 8, 7, 0, 0, 0));
}

TEST(ImageFileTest, InterlacedIsTheSame) {
  const Image image = noise_image(13, 11);
  const std::string rows(image.pixels.begin(), image.pixels.end());
  EXPECT_EQ(decoded(png_bytes({.width = 11, .height = 13, .interlaced = true}, rows)).pixels, image.pixels);
}

TEST(ImageFileTest, AJpegOfEachKindGivesItsColours) {
  struct Case {
    JpegForm form;
    std::string pixel;
    std::vector<int> rgb;
  };
  const std::vector<Case> cases = {
      {{}, "\xC8\x64\x32", {200, 100, 50}},
      {{.progressive = true}, "\xC8\x64\x32", {200, 100, 50}},
      {{.color = JCS_GRAYSCALE}, "\x96", {150, 150, 150}},
      // Half of the cyan and black inks: (255 - 128) * (255 - 128) / 255 = 63, 127, 127.
      {{.color = JCS_CMYK, .adobe = false}, std::string("\x80\0\0\x80", 4), {63, 127, 127}},
      {{.color = JCS_CMYK}, std::string("\x7F\xFF\xFF\x7F", 4), {63, 127, 127}},
      {{.color = JCS_CMYK, .ycck = true}, std::string("\x7F\xFF\xFF\x7F", 4), {63, 127, 127}},
  };
  for (const Case& one : cases) {
    const Image image = decoded(jpeg_bytes(one.form, repeated(one.pixel, 64)));
    EXPECT_EQ(image.shape, (ImageShape{8, 8, 3}));
    for (size_t i = 0; i < image.pixels.size(); ++i) EXPECT_NEAR(image.pixels[i], one.rgb[i % 3], 2) << i;
  }
}

TEST(ImageFileTest, GreyIsTheLuminance) {
  const int luminance = 124;  // 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
  const std::string pixel = "\xC8\x64\x32";
  EXPECT_THAT(decoded(png_bytes({}, pixel), ImageColor::grey).pixels, ElementsAre(luminance));
  const Image jpeg = decoded(jpeg_bytes({}, repeated(pixel, 64)), ImageColor::grey);
  EXPECT_EQ(jpeg.shape, (ImageShape{8, 8, 1}));
  EXPECT_THAT(jpeg.pixels, Each(testing::AllOf(testing::Ge(luminance - 1), testing::Le(luminance + 1))));
  const Image cmyk = decoded(jpeg_bytes({.color = JCS_CMYK}, repeated("\x7F\xFF\xFF\x7F", 64)), ImageColor::grey);
  EXPECT_NEAR(cmyk.pixels[0], 108, 2);
}

TEST(ImageFileTest, TheOrientationIsApplied) {
  const std::vector<Pixels> upright = {{1, 2, 3, 4, 5, 6}, {3, 2, 1, 6, 5, 4}, {6, 5, 4, 3, 2, 1}, {4, 5, 6, 1, 2, 3},
                                       {1, 4, 2, 5, 3, 6}, {4, 1, 5, 2, 6, 3}, {6, 3, 5, 2, 4, 1}, {3, 6, 2, 5, 1, 4}};
  for (int orientation = 1; orientation <= 8; ++orientation) {
    for (const bool little : {true, false}) {
      const PngForm form = {
          .width = 3, .height = 2, .color_type = PNG_COLOR_TYPE_GRAY, .exif = exif_block(orientation, little)};
      const std::string file = png_bytes(form, "\1\2\3\4\5\6");
      const Image image = decoded(file, ImageColor::grey);
      EXPECT_EQ(image.pixels, upright[orientation - 1]) << orientation;
      const ImageShape expected = orientation < 5 ? ImageShape{2, 3, 1} : ImageShape{3, 2, 1};
      EXPECT_EQ(image.shape, expected);
      EXPECT_EQ(image_shape(std::as_bytes(std::span(file)), "x", {ImageColor::grey}), expected);
    }
  }
  // Black left, white right; turned clockwise, black is on top.
  const std::string pixels = repeated(std::string(8, '\0') + std::string(8, '\xFF'), 8);
  const JpegForm form = {.width = 16, .color = JCS_GRAYSCALE, .exif = exif_block(6)};
  const Image image = decoded(jpeg_bytes(form, pixels), ImageColor::grey);
  EXPECT_EQ(image.shape, (ImageShape{16, 8, 1}));
  EXPECT_LT(image.pixels.front(), 10);
  EXPECT_GT(image.pixels.back(), 245);
}

TEST(ImageFileTest, AMalformedOrientationIsNone) {
  std::string far_directory = exif_block(6), many = exif_block(6), long_type = exif_block(6);
  far_directory.replace(4, 4, "\xFF\xFF\xFF\xFF");
  many.replace(8, 2, "\xFF\xFF");
  many.replace(10, 2, "\x13\x01");
  long_type[12] = 4;
  for (const std::string& block : {exif_block(0), exif_block(9), exif_block(6).substr(0, 15), far_directory, many,
                                   long_type, std::string("II*\0", 4), std::string("junk and more junk")}) {
    const JpegForm form = {.width = 16, .exif = block};
    EXPECT_EQ(decoded(jpeg_bytes(form, repeated("abc", 128))).shape, (ImageShape{8, 16, 3}));
  }
}

TEST(ImageFileTest, ATruncatedFileIsRefused) {
  const Image image = noise_image(9, 7);
  const std::string rows(image.pixels.begin(), image.pixels.end());
  for (const std::string& file :
       {jpeg_bytes({.width = 7, .height = 9}, rows), jpeg_bytes({.width = 7, .height = 9, .progressive = true}, rows),
        png_bytes({.width = 7, .height = 9}, rows), png_bytes({.width = 7, .height = 9, .interlaced = true}, rows)}) {
    EXPECT_EQ(decoded(file).shape, image.shape);
    for (size_t size = 0; size < file.size(); ++size) {
      expect_refused_image(file.substr(0, size), "x.img: the file must be a");
    }
  }
}

TEST(ImageFileTest, DamageIsRefusedInOneLine) {
  const Image image = noise_image(9, 7);
  const std::string rows(image.pixels.begin(), image.pixels.end());
  std::string png = png_bytes({.width = 7, .height = 9}, rows);
  png[png.size() / 2] ^= 0x10;
  expect_refused_image(png, "x.img: the file must be a whole PNG image, got ");
  std::string jpeg = jpeg_bytes({.width = 7, .height = 9}, rows);
  jpeg.replace(jpeg.size() / 2, 2, "\xFF\xD8");
  expect_refused_image(jpeg, "x.img: the file must be a whole JPEG image, got ");
  std::string cut = jpeg_bytes({.width = 7, .height = 9}, rows);
  cut.resize(cut.size() - 30);
  expect_refused_image(cut, "got Premature end of JPEG file");
}

TEST(ImageFileTest, WhatIsNoImageIsRefusedByItsFirstBytes) {
  expect_refused_image("", "the file must be a JPEG or PNG image, got an empty file");
  expect_refused_image("GIF89a", "the file must be a JPEG or PNG image, got other first bytes 47 49 46 38");
  expect_refused_image("\n", "got other first bytes 0A");
}

// The header's sizes are changed in the file; nothing is allocated for the pixels that it claims.
TEST(ImageFileTest, ABombIsRefusedByItsHeader) {
  std::string jpeg = jpeg_bytes({}, repeated("abc", 64));
  const size_t frame = jpeg.find("\xFF\xC0");
  jpeg.replace(frame + 5, 4, "\xFF\x00\xFF\x00", 4);
  expect_refused_image(jpeg, "the image must have 1 to 1048576 pixels (maximum_pixels), got 65280 x 65280");
  PngForm form = {.width = 5000, .height = 4000, .color_type = PNG_COLOR_TYPE_GRAY, .depth = 1};
  const std::string png = png_bytes(form, std::string(625 * 4000, '\0'));
  EXPECT_LT(png.size(), 10000u);
  expect_refused_image(png, "the image must have 1 to 1048576 pixels (maximum_pixels), got 4000 x 5000");
  EXPECT_EQ(decoded(png, ImageColor::grey, 20000000).shape, (ImageShape{4000, 5000, 1}));
}

TEST(ImageFileTest, AJpegThatRepeatsAScanIsRefused) {
  const std::string jpeg = jpeg_bytes({.progressive = true}, repeated("abc", 64));
  const size_t begin = jpeg.find("\xFF\xDA"), end = jpeg.find("\xFF\xC4", begin);
  const std::string scan = jpeg.substr(begin, end - begin);
  expect_refused_image(jpeg.substr(0, begin) + scan + jpeg.substr(begin),
                       "x.img: the file must be a whole JPEG image, got Inconsistent progression sequence");
}

TEST(ImageFileTest, APngIsWrittenAsItIs) {
  const TemporaryFolder folder;
  for (const int64_t channels : {1, 3}) {
    const Image image = noise_image(5, 17, channels);
    write_png(folder / "a.png", image);
    const Image again = read_image(folder / "a.png", {channels == 1 ? ImageColor::grey : ImageColor::rgb});
    EXPECT_EQ(again.shape, image.shape);
    EXPECT_EQ(again.pixels, image.pixels);
    const std::string file = read_image_file(folder / "a.png", {});
    EXPECT_TRUE(file.ends_with(std::string_view("\0\0\0\0IEND\xAE\x42\x60\x82", 12))) << "nothing follows the image";
  }
  expect_error(ExitCode::usage, "a.png", [&] { write_png(folder / "none" / "a.png", noise_image(1, 1)); });
  const std::string unwritten = folder / "unwritten.png";
  expect_error(ExitCode::bug, "the image must hold 6 bytes, at least one, got 5",
               [&] { write_png(unwritten, {{1, 2, 3}, Pixels(5)}); });
  expect_error(ExitCode::bug, "the image must hold 0 bytes, at least one, got 0", [&] { write_png(unwritten, {}); });
  for (const int64_t channels : {2, 4}) {
    expect_error(ExitCode::bug, "the image must have 1 or 3 channels",
                 [&] { write_png(unwritten, noise_image(2, 2, channels)); });
  }
  EXPECT_FALSE(std::filesystem::exists(unwritten));
}

TEST(ImageFileTest, ErrorsNameTheFile) {
  const TemporaryFolder folder;
  expect_error(ExitCode::input, "none.png: the file must be readable, got No such file",
               [&] { read_image(folder / "none.png", {}); });
  put_file(folder / "a.jpg", "no image");
  expect_error(ExitCode::input, (folder / "a.jpg").string() + ": the file must be a JPEG or PNG image",
               [&] { read_image(folder / "a.jpg", {}); });
  expect_error(ExitCode::input, "an image file must have at most 16777224 bytes", [&] {
    std::filesystem::resize_file(folder / "a.jpg", (1 << 24) + 9);
    read_image(folder / "a.jpg", {ImageColor::rgb, 1});
  });
}

TEST(ResizeTest, AnEvenImageStaysEven) {
  const Image image = {{7, 5, 3}, Pixels(7 * 5 * 3, 201)};
  for (const auto& [height, width] : {std::pair{3, 3}, {1, 1}, {20, 31}, {7, 9}}) {
    const Image small = resized(image, height, width);
    EXPECT_EQ(small.shape, (ImageShape{height, width, 3}));
    EXPECT_THAT(small.pixels, Each(201));
  }
}

TEST(ResizeTest, HalvingWeighsNeighboursByATriangle) {
  const Image image = {{1, 8, 1}, {0, 0, 0, 0, 80, 80, 80, 80}};
  // A pixel's centre lies between two inputs: weights 3, 3 and, one further, 1, 1 of 8.
  EXPECT_THAT(resized({{2, 8, 1}, {0, 0, 0, 0, 80, 80, 80, 80, 0, 0, 0, 0, 80, 80, 80, 80}}, 1, 4).pixels,
              ElementsAre(0, 10, 70, 80));
  EXPECT_EQ(resized(image, 1, 8).pixels, image.pixels);
}

TEST(ResizeTest, ALongSideIsCutAroundItsCentre) {
  const Image image = {{1, 5, 1}, {1, 2, 3, 4, 5}};
  EXPECT_THAT(resized(image, 1, 1).pixels, ElementsAre(3));
  EXPECT_THAT(resized(image, 1, 3).pixels, ElementsAre(2, 3, 4));
  EXPECT_THAT(resized({{4, 1, 1}, {10, 20, 30, 40}}, 2, 1).pixels, ElementsAre(20, 30));
  expect_error(ExitCode::usage, "height and width must be at least 1, got 0 x 1", [&] { resized(image, 0, 1); });
}

}  // namespace
}  // namespace loci
