// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <string>

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

bool file_exists(const std::string& path);
bool is_folder(const std::string& path);
std::string read_text(const std::string& path);  // throws Error(not_found)

}  // namespace neox
