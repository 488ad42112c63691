// Digits by a packed network, without torch and without Loci:
//
//   g++ -std=c++20 -O2 -march=native packed_mnist.cpp -o packed_mnist
//   ./packed_mnist model.safetensors t10k-images-idx3-ubyte t10k-labels-idx1-ubyte
#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "packed_network.h"

// The values of one of MNIST's files, unpacked, behind its header of `header` bytes.
static std::vector<uint8_t> values_of(const std::string& path, size_t header) {
  std::ifstream file(path, std::ios::binary);
  std::vector<uint8_t> bytes((std::istreambuf_iterator<char>(file)), {});
  if (bytes.size() < header) throw std::runtime_error(path + ": expected a file of MNIST's form, unpacked");
  bytes.erase(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(header));
  return bytes;
}

int main(int count, char** arguments) {
  if (count != 4) {
    std::fprintf(stderr, "usage: packed_mnist MODEL IMAGES LABELS\n");
    return 2;
  }
  try {
    const packed::Network network(arguments[1]);
    const std::vector<uint8_t> images = values_of(arguments[2], 16), labels = values_of(arguments[3], 8);
    const size_t size = static_cast<size_t>(network.height * network.width * network.channels);
    if (labels.empty() || images.size() != labels.size() * size) {
      throw std::runtime_error(std::string(arguments[2]) + ": expected images of the network's size, one a label");
    }
    size_t right = 0;
    for (size_t i = 0; i < labels.size(); ++i) {
      const std::vector<float> scores = network.scores(images.data() + i * size);
      right += std::max_element(scores.begin(), scores.end()) - scores.begin() == labels[i];
    }
    const double share = 100 * static_cast<double>(right) / static_cast<double>(labels.size());
    std::printf("%zu of %zu test images are right: %.2f %%\n", right, labels.size(), share);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "packed_mnist: %s\n", error.what());
    return 3;
  }
  return 0;
}
