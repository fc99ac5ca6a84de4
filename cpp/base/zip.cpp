// SPDX-License-Identifier: Apache-2.0
#include "base/zip.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "base/text_file.h"

namespace neox {
namespace {

constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50, kLocator64 = 0x07064b50;
constexpr uint64_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22, kEnd64Bytes = 56, kLocator64Bytes = 20;

/// Little-endian numbers of the file, each read only where there are enough bytes.
struct Reader {
  const MappedFile& file;

  template <class T> T at(uint64_t offset) const {
    T value;
    require(file.size() >= sizeof value && offset <= file.size() - sizeof value, file.path(), " is a zip archive that ends at byte ",
            file.size(), ", but refers to byte ", offset, ": is it truncated?");
    std::memcpy(&value, file.data() + offset, sizeof value);
    return value;
  }
  std::string_view bytes(uint64_t offset, uint64_t count, std::string_view what) const {
    require(offset <= file.size() && count <= file.size() - offset, file.path(), ": ", printable(what), " is at bytes ", offset, " to ",
            offset + count, ", but the file holds ", file.size(), ": is it truncated?");
    return {file.data() + offset, size_t(count)};
  }
};

struct Directory {
  uint64_t offset, bytes, entries;
};

/// The record at the end of the file, before a comment of up to 64 KiB.
uint64_t find_end(const Reader& in) {
  const uint64_t size = in.file.size();
  for (uint64_t back = kEndBytes; back <= std::min<uint64_t>(size, kEndBytes + 65535); back++)
    if (in.at<uint32_t>(size - back) == kEnd && in.at<uint16_t>(size - back + 20) == back - kEndBytes) return size - back;
  fail(ErrorKind::invalid, in.file.path(), " begins as a zip archive, but has no directory at its end (", size,
       " bytes): is it truncated?");
}

Directory find_directory(const Reader& in) {
  const uint64_t end = find_end(in);
  if (end >= kLocator64Bytes && in.at<uint32_t>(end - kLocator64Bytes) == kLocator64) {
    const auto at = in.at<uint64_t>(end - kLocator64Bytes + 8);
    in.bytes(at, kEnd64Bytes, "the directory's end");
    require(in.at<uint32_t>(at) == kEnd64, in.file.path(), ": no zip64 directory's end at byte ", at, ", where its locator puts it");
    return {.offset = in.at<uint64_t>(at + 48), .bytes = in.at<uint64_t>(at + 40), .entries = in.at<uint64_t>(at + 32)};
  }
  return {.offset = in.at<uint32_t>(end + 16), .bytes = in.at<uint32_t>(end + 12), .entries = in.at<uint16_t>(end + 10)};
}

struct Member {
  std::string name;
  uint64_t stored, bytes, offset;  // of the local header
  uint16_t flags, method;
};

/// Sizes of 4 GiB and more stand in an extra field, in this order, each only where the 32-bit one is all ones.
void read_zip64(const Reader& in, uint64_t at, uint64_t end, Member& m) {
  while (end - at >= 4) {
    const auto id = in.at<uint16_t>(at), size = in.at<uint16_t>(at + 2);
    at += 4;
    require(size <= end - at, in.file.path(), ": ", neox::quoted(m.name), " has an extra field that is cut off");
    if (id == 1) {
      uint64_t from = at;
      for (uint64_t* value : {&m.bytes, &m.stored, &m.offset})
        if (*value == UINT32_MAX) {
          require(from + 8 <= at + size, in.file.path(), ": ", neox::quoted(m.name), " has a zip64 field of ", size,
                  " bytes, which is too short");
          *value = in.at<uint64_t>(from);
          from += 8;
        }
    }
    at += size;
  }
}

Member read_member(const Reader& in, uint64_t& at) {
  in.bytes(at, kCentralBytes, "an entry of the directory");
  require(in.at<uint32_t>(at) == kCentral, in.file.path(), ": no directory entry at byte ", at, ", where one is due");
  const uint64_t name = in.at<uint16_t>(at + 28), extra = in.at<uint16_t>(at + 30), comment = in.at<uint16_t>(at + 32);
  in.bytes(at, kCentralBytes + name + extra + comment, "an entry of the directory");
  Member m{.name = std::string(in.bytes(at + kCentralBytes, name, "a name")),
           .stored = in.at<uint32_t>(at + 20),
           .bytes = in.at<uint32_t>(at + 24),
           .offset = in.at<uint32_t>(at + 42),
           .flags = in.at<uint16_t>(at + 8),
           .method = in.at<uint16_t>(at + 10)};
  read_zip64(in, at + kCentralBytes + name, at + kCentralBytes + name + extra, m);
  at += kCentralBytes + name + extra + comment;
  return m;
}

std::string_view data_of(const Reader& in, const Member& m) {
  const std::string what = in.file.path() + ": " + neox::quoted(m.name);
  if (m.method != 0)
    fail(ErrorKind::unsupported, what, " is compressed (method ", m.method, "), expected stored bytes, as torch.save writes them");
  require((m.flags & 1) == 0, what, " is encrypted");
  require(m.stored == m.bytes, what, " takes ", m.stored, " bytes in the archive, expected its size, ", m.bytes);
  in.bytes(m.offset, kLocalBytes, m.name);
  require(in.at<uint32_t>(m.offset) == kLocal, what, " is not at byte ", m.offset, ", where the directory puts it");
  const uint64_t name = in.at<uint16_t>(m.offset + 26), extra = in.at<uint16_t>(m.offset + 28);
  require(in.bytes(m.offset + kLocalBytes, name, m.name) == m.name, what, " has another name where its bytes are");
  return in.bytes(m.offset + kLocalBytes + name + extra, m.bytes, m.name);
}

}  // namespace

bool ZipArchive::is_zip(const MappedFile& file) { return file.size() >= 4 && std::memcmp(file.data(), "PK\3\4", 4) == 0; }

ZipArchive::ZipArchive(const MappedFile& file) {
  const Reader in{file};
  const Directory directory = find_directory(in);
  in.bytes(directory.offset, directory.bytes, "the directory");
  require(directory.entries <= directory.bytes / kCentralBytes, file.path(), ": the directory of ", directory.bytes,
          " bytes is too short for its ", directory.entries, " entries");
  struct Range {
    uint64_t begin, end;
    const std::string* name;
  };
  std::vector<Range> ranges;
  uint64_t at = directory.offset;
  for (uint64_t i = 0; i < directory.entries; i++) {
    const Member m = read_member(in, at);
    const std::string_view data = data_of(in, m);
    const auto [entry, is_new] = entries_.emplace(m.name, data);
    require(is_new, file.path(), ": ", neox::quoted(m.name), " is there twice");
    ranges.push_back({m.offset, uint64_t(data.data() - file.data()) + data.size(), &entry->first});
  }
  ranges.push_back({directory.offset, directory.offset + directory.bytes, nullptr});
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  for (size_t i = 1; i < ranges.size(); i++)
    require(ranges[i].begin >= ranges[i - 1].end, file.path(), ": two entries overlap at byte ", ranges[i].begin, ": ",
            ranges[i - 1].name ? neox::quoted(*ranges[i - 1].name) : "the directory", " and ",
            ranges[i].name ? neox::quoted(*ranges[i].name) : "the directory");
}

}  // namespace neox
