#include "bench/mapped.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <fstream>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "loci/base/check.h"
#include "loci/base/paths.h"
#include "loci/optim/row_optimizer.h"
#include "loci/table/mapped_table.h"

// Legend: T tokens, of one read each, N rows, D width.

namespace loci::bench {
namespace {

namespace fs = std::filesystem;
using torch::Tensor;

constexpr int64_t kTokens = 4096, kPageBytes = 4096;
constexpr int64_t kValueBytes = int64_t{512} << 20;  // of a table, where the rows are not given

enum class Pass { read, train };
enum class Memory { cold, half, warm };

class WorkFolder {
 public:
  WorkFolder() {
    std::string name = (temporary_folder() / "loci_bench_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) fail_path(temporary_folder(), "it must be writable", errno, ExitCode::usage);
    path_ = name;
  }
  ~WorkFolder() { (void)remove_working_folder(path_); }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// A file with one tensor [N, ...] at its end.
struct TensorFile {
  fs::path path;
  Tensor tensor;

  int64_t bytes() const { return static_cast<int64_t>(tensor.nbytes()); }
  void drop() const {
    const int descriptor = open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (descriptor < 0) fail_path(path, "the file must be readable", errno);
    const int64_t begin = file_bytes(path) - bytes();
    drop_pages(descriptor, static_cast<std::byte*>(tensor.data_ptr()) - begin, begin, bytes());
    close(descriptor);
  }
  int64_t pages_of(const Tensor& index) const {
    const int64_t row = bytes() / tensor.size(0);
    std::set<int64_t> pages;
    for (int64_t i = 0; i < index.numel(); ++i) {
      const int64_t begin = index.const_data_ptr<int64_t>()[i] * row;
      for (int64_t page = begin / kPageBytes; page * kPageBytes < begin + row; ++page) pages.insert(page);
    }
    return std::ssize(pages);
  }
};

struct Workload {
  WorkFolder folder;
  std::shared_ptr<MappedTable> table;
  std::unique_ptr<RowOptimizer> optimizer;
  std::vector<TensorFile> files;  // values, then state
  int64_t use = 0;
  Tensor weight = torch::ones({kTokens, 1}), grad;  // grad [T, D]

  Workload(int64_t rows, int64_t width) {
    table = std::make_shared<MappedTable>("bench", rows, width, torch::kBFloat16, folder.path());
    optimizer = std::make_unique<RowOptimizer>(table->store(), RowOptimizerOptions{}, 0);
    use = table->register_use();
    grad = torch::full({kTokens, width}, 1e-3);
    files.push_back({folder.path() / "table.bench.safetensors", table->store().values().detach()});
    for (const auto& [name, state] : optimizer->row_state()) {
      files.push_back({folder.path() / fmt::format("table.bench.{}.safetensors", name), state});
    }
    // Written once: what was never written is not on the disk, and nothing would be read.
    for (const TensorFile& file : files) file.tensor.fill_(1);
  }

  void run(Pass pass, const Tensor& index) {
    const torch::NoGradGuard no_gradient;
    table->read(index, weight, use);
    if (pass == Pass::read) return;
    table->store().references().add({index, weight, grad, 0, use});
    optimizer->step();
  }
  void prefetch(Pass pass, const Tensor& index) {
    const torch::AutoGradMode gradient(pass == Pass::train);
    table->prefetch(index);
  }
  void prepare(Pass pass, Memory memory, const Tensor& index) {
    for (const TensorFile& file : files) file.drop();
    if (memory == Memory::half) prefetch(pass, index.narrow(0, 0, kTokens / 2));
    if (memory == Memory::warm) run(pass, index);
  }
  int64_t pages(Pass pass, Memory memory, const Tensor& index) const {
    if (memory == Memory::warm) return 0;
    int64_t pages = 0;
    for (size_t i = 0; i < (pass == Pass::train ? files.size() : 1); ++i) pages += files[i].pages_of(index);
    return memory == Memory::half ? pages / 2 : pages;
  }
};

// Seconds of a read of a random page without the page cache, one after the other and 32 at once.
struct Disk {
  double alone = 0, together = 0;
};

double read_seconds(int descriptor, int64_t file_pages, int threads, int64_t reads) {
  std::atomic<int64_t> next = 0;
  std::atomic<bool> failed = false;
  std::vector<std::thread> readers;
  const auto begin = std::chrono::steady_clock::now();
  for (int t = 0; t < threads; ++t) {
    readers.emplace_back([&, t] {
      std::mt19937_64 random(static_cast<uint64_t>(t));
      const std::unique_ptr<void, decltype(&free)> page(aligned_alloc(kPageBytes, kPageBytes), &free);
      while (next++ < reads) {
        const auto where = static_cast<off_t>(random() % static_cast<uint64_t>(file_pages)) * kPageBytes;
        if (pread(descriptor, page.get(), kPageBytes, where) != kPageBytes) failed = true;
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  return failed ? 0 : seconds.count() / static_cast<double>(reads);
}

// Zeros where the file system cannot read without the page cache.
Disk measure_disk(const fs::path& file) {
  const int descriptor = open(file.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (descriptor < 0) return {};
  const int64_t pages = file_bytes(file) / kPageBytes;
  const Disk disk = {read_seconds(descriptor, pages, 1, 512), read_seconds(descriptor, pages, 32, 4096)};
  close(descriptor);
  return disk;
}

int64_t bytes_from_disk() {
  std::ifstream counters("/proc/self/io");
  std::string name;
  for (int64_t value = 0; counters >> name >> value;) {
    if (name == "read_bytes:") return value;
  }
  return 0;
}

struct Sample {
  double fetch = 0, rest = 0;  // seconds
  int64_t disk_bytes = 0;
  double total() const { return fetch + rest; }
};

Sample sample(Workload& work, Pass pass, Memory memory, const Tensor& index, bool with_prefetch) {
  using Clock = std::chrono::steady_clock;
  work.prepare(pass, memory, index);
  const int64_t before = bytes_from_disk();
  const auto begin = Clock::now();
  if (with_prefetch) work.prefetch(pass, index);
  const auto fetched = Clock::now();
  work.run(pass, index);
  const auto end = Clock::now();
  const std::chrono::duration<double> fetch = fetched - begin, rest = end - fetched;
  return {with_prefetch ? fetch.count() : 0, rest.count(), bytes_from_disk() - before};
}

double median_of(std::vector<Sample> samples, double (*value)(const Sample&)) {
  const auto middle = samples.begin() + std::ssize(samples) / 2;
  std::nth_element(samples.begin(), middle, samples.end(),
                   [&](const Sample& a, const Sample& b) { return value(a) < value(b); });
  return value(*middle);
}

nlohmann::json measure(Workload& work, Pass pass, Memory memory, const Disk& disk, int repeats) {
  const int64_t rows = work.table->rows();
  const FetchCounts before = work.table->store().fetched();
  std::vector<Sample> faults, prefetch;
  double pages = 0;
  for (int i = 0; i < 2 * repeats; ++i) {
    const Tensor index = torch::randint(rows, {kTokens, 1}, torch::kLong);
    const bool with_prefetch = i % 2 == 1;
    (with_prefetch ? prefetch : faults).push_back(sample(work, pass, memory, index, with_prefetch));
    pages += static_cast<double>(work.pages(pass, memory, index)) / (2 * repeats);
  }
  const auto total = [](const Sample& s) { return s.total() * 1e3; };
  const auto fetch = [](const Sample& s) { return s.fetch * 1e3; };
  const auto rest = [](const Sample& s) { return s.rest * 1e3; };
  const auto bytes = [](const Sample& s) { return static_cast<double>(s.disk_bytes); };
  const double slow = median_of(faults, total), fast = median_of(prefetch, total), after = median_of(prefetch, rest);
  const FetchCounts counts = work.table->store().fetched();
  constexpr std::array names = {"cold", "half", "warm"};
  return {{"pass", pass == Pass::read ? "read" : "train"},
          {"memory", names[static_cast<size_t>(memory)]},
          {"rows", rows},
          {"row_bytes", work.files[0].bytes() / rows},
          {"rows_read", kTokens},
          {"faults_ms", slow},
          {"prefetch_ms", fast},
          {"fetch_ms", median_of(prefetch, fetch)},
          {"after_fetch_ms", after},
          {"ratio", slow / fast},
          {"ratio_ahead", slow / after},
          {"faults_disk_bytes", median_of(faults, bytes)},
          {"prefetch_disk_bytes", median_of(prefetch, bytes)},
          {"pages", pages},
          {"disk_alone_us", disk.alone * 1e6},
          {"disk_together_us", disk.together * 1e6},
          {"estimate_faults_ms", pages * disk.alone * 1e3},
          {"estimate_prefetch_ms", pages * disk.together * 1e3},
          {"failed_advices", counts.failed_advices - before.failed_advices}};
}

}  // namespace

nlohmann::json run_mapped(const BenchOptions& options) {
  nlohmann::json report = {{"repeats", options.repeats}, {"results", nlohmann::json::array()}};
  const std::vector<int64_t> widths = options.widths.empty() ? std::vector<int64_t>{2048, 64} : options.widths;
  for (const int64_t width : widths) {
    const std::vector<int64_t> rows =
        options.rows.empty() ? std::vector<int64_t>{kValueBytes / (2 * width)} : options.rows;
    for (const int64_t N : rows) {
      torch::manual_seed(0);
      Workload work(N, width);
      for (const TensorFile& file : work.files) file.drop();
      const Disk disk = measure_disk(work.files[0].path);
      report["folder"] = temporary_folder().string();
      for (const Pass pass : {Pass::read, Pass::train}) {
        for (const Memory memory : {Memory::cold, Memory::half, Memory::warm}) {
          report["results"].push_back(measure(work, pass, memory, disk, options.repeats));
        }
      }
    }
  }
  return report;
}

std::string mapped_text(const nlohmann::json& report) {
  std::string text = fmt::format(
      "{} scattered rows of a bfloat16 table in files in {}; train: read, then Adam on values and state. Medians of "
      "{}.\n"
      "Memory before each step: cold, none of the rows; half, half of them, as with memory for half of the table (a\n"
      "stand-in: pages are dropped, no limit is set); warm, all. faults: without prefetch. ahead: what remains when\n"
      "another thread has fetched before. estimate: pages from the disk, one after the other or 32 at once.\n\n",
      kTokens, report["folder"].get<std::string>(), report["repeats"].get<int>());
  text += fmt::format("{:<5} {:>9} {:>9} {:<6} {:>10} {:>9} {:>11} {:>6} {:>9} {:>7} {:>8} {:>17} {:>6}\n", "pass",
                      "rows", "row bytes", "memory", "faults ms", "estimate", "prefetch ms", "ratio", "estimate",
                      "ahead", "ratio", "MiB read", "failed");
  for (const auto& r : report["results"]) {
    const auto number = [&](const char* key) { return r[key].get<double>(); };
    text += fmt::format(
        "{:<5} {:>9} {:>9} {:<6} {:>10.2f} {:>9.1f} {:>11.2f} {:>5.1f}x {:>9.1f} {:>7.2f} {:>7.1f}x {:>17} {:>6}\n",
        r["pass"].get<std::string>(), r["rows"].get<int64_t>(), r["row_bytes"].get<int64_t>(),
        r["memory"].get<std::string>(), number("faults_ms"), number("estimate_faults_ms"), number("prefetch_ms"),
        number("ratio"), number("estimate_prefetch_ms"), number("after_fetch_ms"), number("ratio_ahead"),
        fmt::format("{:.1f} .. {:.1f}", number("faults_disk_bytes") / (1 << 20),
                    number("prefetch_disk_bytes") / (1 << 20)),
        r["failed_advices"].get<int64_t>());
    if (r["pass"] == "train" && r["memory"] == "warm") {
      text += fmt::format("      a page from the disk, without the page cache: {:.0f} us alone, {:.1f} us among 32\n",
                          number("disk_alone_us"), number("disk_together_us"));
    }
    if (r["memory"] == "cold" && number("faults_disk_bytes") == 0) {
      text += "      nothing came from the disk: TMPDIR must be a folder on a disk\n";
    }
  }
  return text + "\n";
}

}  // namespace loci::bench
