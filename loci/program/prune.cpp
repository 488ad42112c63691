#include "loci/program/prune.h"

#include <algorithm>

#include "loci/base/check.h"

namespace loci {
namespace {

using Role = RamModule::Role;

class Pruner {
 public:
  Pruner(const RamProgram& program, bool unseen_is_free)
      : shape_(program.shape()),
        circuits_(program.circuits()),
        table_(program.table()),
        live_(static_cast<size_t>(shape_.registers), false),
        unseen_is_free_(unseen_is_free) {}

  RamProgram pruned() {
    for (Circuit& circuit : circuits_) resolve_writes(circuit);
    find_live_registers();
    for (Circuit& circuit : circuits_) drop_dead(circuit);
    merge_equal();
    return RamProgram(shape_, std::move(circuits_), std::move(table_));
  }

 private:
  // The output of WRITE is the value that it wrote: its users can take that value directly.
  void resolve_writes(Circuit& circuit) const {
    const auto resolve = [&](uint16_t& source) {
      while (source >= shape_.registers) {
        const int i = source - shape_.registers;
        if (shape_.module(i).role != Role::write) return;
        source = circuit.modules[static_cast<size_t>(i)].b;
      }
    };
    for (Circuit::Module& wires : circuit.modules) {
      resolve(wires.a);
      resolve(wires.b);
    }
    for (uint16_t& source : circuit.sources) resolve(source);
  }

  // For each module, whether it is a WRITE that may change the tape.
  std::vector<bool> effective_writes(const Circuit& circuit) const {
    std::vector<bool> effective(circuit.modules.size(), false);
    int last_effective = -1;
    for (int i = 0; i < shape_.size(); ++i) {
      const Circuit::Module& write = circuit.modules[static_cast<size_t>(i)];
      if (!write.kept || shape_.module(i).role != Role::write) continue;
      const int read = write.b - shape_.registers;
      const bool stores_back = read > last_effective && read >= 0 && shape_.module(read).role == Role::read &&
                               circuit.modules[static_cast<size_t>(read)].a == write.a;
      if (stores_back) continue;
      effective[static_cast<size_t>(i)] = true;
      last_effective = i;
    }
    return effective;
  }

  // For each source, whether it reaches an effective WRITE or, unless the machine halts, a live register.
  std::vector<bool> live_sources(const Circuit& circuit) const {
    const auto R = static_cast<size_t>(shape_.registers);
    std::vector<bool> live(R + circuit.modules.size(), false);
    if (!circuit.stop) {
      for (size_t r = 0; r < R; ++r) {
        if (live_[r]) live[circuit.sources[r]] = true;
      }
    }
    const std::vector<bool> effective = effective_writes(circuit);
    for (size_t i = circuit.modules.size(); i-- > 0;) {
      if (effective[i]) live[R + i] = true;
      if (!live[R + i]) continue;
      const int operands = shape_.module(static_cast<int>(i)).operands;
      if (operands >= 1) live[circuit.modules[i].a] = true;
      if (operands >= 2) live[circuit.modules[i].b] = true;
    }
    return live;
  }

  // Adds live registers until no circuit adds another.
  void close_over_circuits() {
    std::vector<bool> used(circuits_.size(), false);
    for (const int32_t row : table_) {
      if (row != RamProgram::kUnseen) used[static_cast<size_t>(row)] = true;
    }
    for (bool grew = true; grew;) {
      grew = false;
      for (size_t c = 0; c < circuits_.size(); ++c) {
        if (!used[c]) continue;
        const std::vector<bool> live = live_sources(circuits_[c]);
        for (size_t r = 0; r < live_.size(); ++r) {
          if (live[r] && !live_[r]) grew = live_[r] = true;
        }
      }
    }
  }

  // Makes the table independent of a register's zero bit, unless that bit distinguishes two circuits.
  bool ignore_bit(size_t r) {
    const size_t bit = size_t{1} << r;
    const auto same = [&](int32_t x, int32_t y) {
      return x == y || (unseen_is_free_ && (x == RamProgram::kUnseen || y == RamProgram::kUnseen));
    };
    for (size_t p = 0; p < table_.size(); ++p) {
      if (!same(table_[p], table_[p ^ bit])) return false;
    }
    for (size_t p = 0; p < table_.size(); ++p) table_[p] = std::max(table_[p], table_[p ^ bit]);
    return true;
  }

  void find_live_registers() {
    close_over_circuits();
    for (size_t r = live_.size(); r-- > 0;) {
      if (live_[r] || ignore_bit(r)) continue;
      live_[r] = true;
      close_over_circuits();
    }
  }

  void drop_dead(Circuit& circuit) const {
    const std::vector<bool> live = live_sources(circuit);
    for (size_t i = 0; i < circuit.modules.size(); ++i) {
      if (!live[static_cast<size_t>(shape_.registers) + i]) circuit.modules[i] = {.kept = false, .a = 0, .b = 0};
    }
    for (size_t r = 0; r < live_.size(); ++r) {
      if (!live_[r] || circuit.stop) circuit.sources[r] = static_cast<uint16_t>(r);
    }
  }

  void merge_equal() {
    std::map<std::vector<uint16_t>, int32_t> known;
    std::vector<int32_t> merged(circuits_.size(), RamProgram::kUnseen);
    std::vector<bool> used(circuits_.size(), false);
    for (const int32_t row : table_) {
      if (row != RamProgram::kUnseen) used[static_cast<size_t>(row)] = true;
    }
    std::vector<Circuit> distinct;
    for (size_t c = 0; c < circuits_.size(); ++c) {
      if (!used[c]) continue;
      std::vector<uint16_t> key = circuits_[c].sources;
      for (const Circuit::Module& wires : circuits_[c].modules) key.insert(key.end(), {wires.kept, wires.a, wires.b});
      key.push_back(circuits_[c].stop);
      const auto [entry, is_new] = known.try_emplace(std::move(key), static_cast<int32_t>(distinct.size()));
      if (is_new) distinct.push_back(circuits_[c]);
      merged[c] = entry->second;
    }
    for (int32_t& row : table_) {
      if (row != RamProgram::kUnseen) row = merged[static_cast<size_t>(row)];
    }
    circuits_ = std::move(distinct);
  }

  CircuitShape shape_;
  std::vector<Circuit> circuits_;
  std::vector<int32_t> table_;
  std::vector<bool> live_;  // by register
  bool unseen_is_free_;
};

RamProgram until_unchanged(RamProgram program, bool unseen_is_free) {
  for (;;) {
    RamProgram next = Pruner(program, unseen_is_free).pruned();
    if (next.circuits() == program.circuits() && next.table() == program.table()) return next;
    program = std::move(next);
  }
}

}  // namespace

PatternCounts count_patterns(const RamProgram& program, const RamTask& task, const InstanceOptions& options) {
  PatternCounts counts;
  counts.seen.resize(program.table().size(), 0);
  counts.last.resize(program.table().size(), 0);
  for_each_instance(task, options, [&](int64_t length, RamInstance& instance) {
    std::vector<uint32_t> patterns;
    const auto next = [&](uint32_t pattern) -> const Circuit* {
      const int32_t row = program.table()[pattern];
      if (row == RamProgram::kUnseen) return nullptr;
      patterns.push_back(pattern);
      return &program.circuits()[static_cast<size_t>(row)];
    };
    run_machine(program.shape(), next, instance.tape, static_cast<uint32_t>(task.training_steps(length)));
    ++counts.runs;
    for (size_t i = 0; i < patterns.size(); ++i) {
      ++counts.seen[patterns[i]];
      if (i > 0) ++counts.followed[{patterns[i - 1], patterns[i]}];
    }
    if (!patterns.empty()) ++counts.last[patterns.back()];
  });
  return counts;
}

RamProgram simplify(const RamProgram& program) {
  return until_unchanged(program, false);
}

RamProgram prune(const RamProgram& program, const PatternCounts& counts) {
  if (counts.seen.size() != program.table().size()) {
    fail(ExitCode::bug, "prune", fmt::format("counts must be of {} patterns", program.table().size()),
         fmt::to_string(counts.seen.size()));
  }
  std::vector<int32_t> table = program.table();
  for (size_t pattern = 0; pattern < table.size(); ++pattern) {
    if (counts.seen[pattern] == 0) table[pattern] = RamProgram::kUnseen;
  }
  return until_unchanged(RamProgram(program.shape(), program.circuits(), std::move(table)), true);
}

}  // namespace loci
