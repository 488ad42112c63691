#include "loci/data/input_file.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/paths.h"

namespace loci {

InputFile::InputFile(std::filesystem::path path) : path_(std::move(path)) {
  const OpenedFile opened = open_regular_file(path_);
  descriptor_ = opened.descriptor;
  size_ = static_cast<uint64_t>(opened.bytes);
}

InputFile::~InputFile() {
  close(descriptor_);
}

std::string InputFile::read(uint64_t begin, uint64_t count) const {
  std::string bytes(count, '\0');
  for (size_t done = 0; done < count;) {
    const ssize_t read = pread(descriptor_, bytes.data() + done, count - done, static_cast<off_t>(begin + done));
    if (read < 0 && errno == EINTR) continue;
    if (read < 0) fail_path(path_, "the file must be readable", errno);
    if (read == 0)
      fail(ExitCode::input, path_.string(), "the file must stay as it is while it is read", "a shorter one");
    done += static_cast<size_t>(read);
  }
  return bytes;
}

}  // namespace loci
