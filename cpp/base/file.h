// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <string>

#include "neox/error.h"

namespace neox {

/// A whole file, mapped read-only. The mapping goes with the object.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);  // throws Error(not_found), Error(runtime)
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  const char* data() const { return data_; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }
  /// Lets the kernel drop these pages: what has been packed is not needed again.
  void forget(const void* from, size_t bytes) const;

 private:
  std::string path_;
  const char* data_ = nullptr;
  size_t size_ = 0;
};

/// Brings what lies in [from, from + bytes) of mapped files into memory. All of it is asked for at once, which keeps a disk busy, where
/// touching one page after another waits for each. Does no harm to memory that is no file's.
NEOX_API void fetch(const void* from, size_t bytes);
constexpr int kFetchThreads = 8;          // that read a large tensor side by side
constexpr int64_t kFetchBytes = 2 << 20;  // pieces of it

bool file_exists(const std::string& path);
bool is_folder(const std::string& path);
std::string read_text(const std::string& path);  // throws Error(not_found)

}  // namespace neox
