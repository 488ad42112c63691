#include "loci/data/text/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "loci/base/check.h"

namespace loci {
namespace {

[[noreturn]] void refuse_input_file(const std::filesystem::path& path, int error) {
  fail(ExitCode::input, path.string(), "the file must be readable", std::generic_category().message(error));
}

}  // namespace

InputFile::InputFile(std::filesystem::path path) : path_(std::move(path)) {
  descriptor_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must not block us
  if (descriptor_ < 0) refuse_input_file(path_, errno);
  struct stat status = {};
  const int error = fstat(descriptor_, &status) == 0 ? 0 : errno;
  if (error == 0 && S_ISREG(status.st_mode)) {
    size_ = static_cast<uint64_t>(status.st_size);
    return;
  }
  close(descriptor_);
  if (error != 0) refuse_input_file(path_, error);
  fail(ExitCode::input, path_.string(), "the path must be a regular file",
       S_ISDIR(status.st_mode) ? "a folder" : "a device, pipe or socket");
}

InputFile::~InputFile() {
  close(descriptor_);
}

std::string InputFile::read(uint64_t begin, uint64_t count) const {
  std::string bytes(count, '\0');
  for (size_t done = 0; done < count;) {
    const ssize_t read = pread(descriptor_, bytes.data() + done, count - done, static_cast<off_t>(begin + done));
    if (read < 0 && errno == EINTR) continue;
    if (read < 0) refuse_input_file(path_, errno);
    if (read == 0)
      fail(ExitCode::input, path_.string(), "the file must stay as it is while it is read", "a shorter one");
    done += static_cast<size_t>(read);
  }
  return bytes;
}

}  // namespace loci
