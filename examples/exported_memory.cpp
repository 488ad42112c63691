// Runs a model with memories that Python exported (docs/python.md, "Without Python"): no Python, and of Loci the
// operators alone, which linking libloci_ops registers.
//   exported_memory MODEL.pt2 BATCH WIDTH      runs it on ones [BATCH, WIDTH] and prints the sum of what it gives
#include <ATen/ops/ones.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <vector>

#include "loci/ops/table_read/table_read.h"

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "usage: exported_memory MODEL.pt2 BATCH WIDTH\n"), 2;
  try {
    // The linker drops a library of which nothing is used; its operators are found by name only.
    [[maybe_unused]] volatile const auto operators = &loci::table_read;
    torch::inductor::AOTIModelPackageLoader model(argv[1]);
    const at::Tensor x = at::ones({std::atoll(argv[2]), std::atoll(argv[3])});
    const std::vector<at::Tensor> y = model.run({x});
    std::printf("%.9g\n", y[0].sum().item<double>());
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "exported_memory: %s\n", error.what()), 1;
  }
}
