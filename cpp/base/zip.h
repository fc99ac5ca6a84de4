// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <map>
#include <string>
#include <string_view>

#include "base/file.h"

namespace neox {

/// The files of a zip archive whose bytes are stored as they are, as views of the mapped archive; ZIP64 too.
/// Format: PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.3.
class ZipArchive {
 public:
  /// Throws Error(invalid) naming the entry if one is compressed, encrypted, outside the file, twice there or overlaps another.
  explicit ZipArchive(const MappedFile& file);

  static bool is_zip(const MappedFile& file);  // by its first bytes
  const std::map<std::string, std::string_view>& entries() const { return entries_; }

 private:
  std::map<std::string, std::string_view> entries_;
};

}  // namespace neox
