// For tests of what a system refuses: a thread in which a system call fails (Linux on x86-64, by seccomp).
#pragma once

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <thread>

namespace loci {

// Calls of system call `number` whose argument `argument`, reduced to the bits of `mask`, equals `value`.
struct CallPattern {
  uint32_t number;
  uint32_t argument;
  uint32_t mask;
  uint32_t value;
};

// mmap of shared pages, which some file systems lack (FUSE with direct I/O). They answer ENODEV.
inline constexpr CallPattern kSharedMapping = {SYS_mmap, 3, MAP_SHARED | MAP_PRIVATE, MAP_SHARED};

// Runs `action` in a thread of its own in which such a call has the `outcome` SECCOMP_RET_ERRNO | error or
// SECCOMP_RET_TRAP (a SIGSYS). What it throws is thrown here. Returns false where the system allows no filters; then
// `action` did not run.
inline bool run_filtered(const CallPattern& call, uint32_t outcome, const std::function<void()>& action) {
  bool allowed = false;
  std::exception_ptr thrown;
  std::thread([&] {
    const auto argument = static_cast<uint32_t>(offsetof(seccomp_data, args) + call.argument * sizeof(uint64_t));
    sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 6),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call.number, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument),  // its lower half
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, call.mask),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call.value, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, outcome),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog filter = {sizeof(program) / sizeof(program[0]), program};
    allowed = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
    try {
      if (allowed) action();
    } catch (...) {
      thrown = std::current_exception();
    }
  }).join();
  if (thrown) std::rethrow_exception(thrown);
  return allowed;
}

}  // namespace loci
