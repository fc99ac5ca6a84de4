// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

#include "base/check.h"

namespace neox {
namespace {

constexpr size_t kAtOnce = 128 << 10;  // the most that Linux reads ahead for one request, unless it is told otherwise
constexpr int kPopulateRead = 22;      // MADV_POPULATE_READ, since Linux 5.14: elsewhere pages come as they are touched

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(ErrorKind::not_found, path, ": ", std::strerror(errno));
  struct stat st;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    close(fd);
    fail(ErrorKind::invalid, path, " is not a regular file");
  }
  size_ = size_t(st.st_size);
  void* p = size_ ? mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0) : nullptr;
  close(fd);
  if (p == MAP_FAILED) fail(ErrorKind::runtime, path, ": cannot map ", size_, " bytes: ", std::strerror(errno));
  data_ = static_cast<const char*>(p);
}

MappedFile::~MappedFile() {
  if (data_) munmap(const_cast<char*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

void MappedFile::forget(const void* from, size_t bytes) const {
  const auto page = uintptr_t(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (uintptr_t(from) + page - 1) / page * page, end = (uintptr_t(from) + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

void fetch(const void* from, size_t bytes) {
  if (bytes == 0) return;
  const auto page = uintptr_t(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = uintptr_t(from) / page * page, end = (uintptr_t(from) + bytes + page - 1) / page * page;
  for (uintptr_t at = begin; at < end; at += kAtOnce)
    madvise(reinterpret_cast<void*>(at), std::min(kAtOnce, size_t(end - at)), MADV_WILLNEED);
  madvise(reinterpret_cast<void*>(begin), end - begin, kPopulateRead);
}

bool file_exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

bool is_folder(const std::string& path) {
  struct stat st;
  return stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail(ErrorKind::not_found, path, ": ", std::strerror(errno));
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace neox
