// SPDX-License-Identifier: Apache-2.0
// Files as torch.save writes them, of float32 tensors.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace neox::test {

inline std::string little(uint64_t value, size_t bytes) { return {reinterpret_cast<const char*>(&value), bytes}; }

/// A zip archive of stored entries, without checksums, which nobody reads.
class Archive {
 public:
  void add(const std::string& name, const std::string& bytes) {
    const std::string sizes = std::string(4, 0) + little(bytes.size(), 4) + little(bytes.size(), 4) + little(name.size(), 2);
    directory_ += "PK\1\2" + std::string(12, 0) + sizes + std::string(12, 0) + little(file_.size(), 4) + name;
    file_ += "PK\3\4" + std::string(10, 0) + sizes + std::string(2, 0) + name + bytes;
    entries_++;
  }
  std::string file() const {
    return file_ + directory_ + "PK\5\6" + std::string(6, 0) + little(entries_, 2) + little(directory_.size(), 4) +
           little(file_.size(), 4) + std::string(2, 0);
  }

 private:
  std::string file_, directory_;
  uint64_t entries_ = 0;
};

/// A state_dict: tensors that are whole storages.
class StateDict {
 public:
  void add(const std::string& name, const std::vector<int64_t>& shape, const std::vector<float>& values) {
    const std::string key = std::to_string(storages_++), rebuild = "ctorch._utils\n_rebuild_tensor_v2\n";
    std::string sizes, strides;
    int64_t step = int64_t(values.size());
    for (const int64_t n : shape) sizes += integer(n), strides += integer(step /= n);
    const std::string storage =
        "(" + text("storage") + "ctorch\nFloatStorage\n" + text(key) + text("cpu") + integer(int64_t(values.size()));
    items_ += text(name) + rebuild + "(" + storage + "tQ" + integer(0) + "(" + sizes + "t(" + strides + "t\x89" +
              "ccollections\nOrderedDict\n)RtRs";
    archive_.add("archive/data/" + key, {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  }
  std::string file() const {
    Archive out = archive_;
    out.add("archive/data.pkl", "\x80\x02}" + items_ + ".");
    return out.file();
  }

 private:
  static std::string text(const std::string& s) { return "X" + little(s.size(), 4) + s; }
  static std::string integer(int64_t n) { return "\x8a\x08" + little(uint64_t(n), 8); }

  Archive archive_;
  std::string items_;
  int storages_ = 0;
};

}  // namespace neox::test
