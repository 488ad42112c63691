// Times functions against each other: Google Benchmark decides how often each runs, repeats come in random order.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace loci::bench {

enum class Autograd { off, on };

class Timing {
 public:
  explicit Timing(int repeats) : repeats_(repeats) {}
  void add(const std::string& name, std::function<void()> run, Autograd autograd = Autograd::off);
  // Runs everything added: once to warm up, then all repeats in random order, so that a busy moment of the machine
  // meets all alike.
  void run();
  bool has(const std::string& name) const { return seconds_.count(name) > 0; }
  std::vector<double> seconds(const std::string& name) const;  // of one call, ascending: one entry a repeat
  double median(const std::string& name) const;

 private:
  int repeats_;
  std::vector<std::function<void()>> warm_up_;
  std::map<std::string, std::vector<double>> seconds_;
};

// The machine's own speed, measured among the cases: copies between large tensors, reads of random rows of a table of
// that size (1 GB at most: small ones live in caches) on huge pages where the system grants them, products in float32.
struct Machine {
  double copy, gather, product;  // bytes/s, bytes/s, operations/s
};
void add_machine(Timing& timing, int64_t row_bytes, int64_t table_bytes);
Machine machine_of(const Timing& timing);
// With the level and the threads, as reports have it.
nlohmann::json machine_json(const Machine& machine);

// Throws Error (resources) when `what` needs more bytes than are free; `size` says of what size it was to be.
void require_free(const std::string& what, double bytes, const std::string& size);

// A number of a report in a table; "-" for null.
std::string number_or_dash(const nlohmann::json& value, const char* format);

// What bounds a case, and so which of the machine's speeds its estimate is made from.
enum class Bound { stream, gather, products };

}  // namespace loci::bench
