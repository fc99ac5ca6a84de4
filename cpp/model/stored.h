// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <deque>
#include <map>
#include <vector>

#include "base/file.h"
#include "model/checkpoint.h"
#include "neox/checkpoint.h"

namespace neox {

/// A tensor as it lies in a mapped file: any strides, in elements.
struct FileTensor {
  const MappedFile* file = nullptr;
  const char* data = nullptr;
  DType dtype = DType::f32;
  bool wide = false;  // float64 in the file, read as float32
  std::vector<int64_t> shape, strides;

  size_t element() const { return wide ? 8 : size_of(dtype); }  // bytes; of i4, which is always contiguous, 0
  int64_t count() const;
  bool contiguous() const;
};

std::string shape_text(const std::vector<int64_t>& shape);          // "[2, 3]"
std::vector<int64_t> row_major(const std::vector<int64_t>& shape);  // its strides

/// A tensor of the checkpoint: one or several of files, which have one type and together make `shape`.
struct Entry {
  enum class Join { along_axis, sum, mean };  // sum and mean: each part is as large as the whole
  std::vector<FileTensor> parts;
  std::vector<int64_t> shape;  // with one part, any that has as many elements as the part in its order
  Join join = Join::along_axis;
  size_t axis = 0;
  double scale = 1;  // of a sum or mean
};

/// A checkpoint whose tensors are views of mapped files, known by name, type and shape before any is read.
class StoredCheckpoint : public Checkpoint {
 public:
  explicit StoredCheckpoint(std::string where) : where_(std::move(where)) {}

  bool has(const std::string& name) const override { return entries_.contains(name); }
  Tensor get(const std::string& name, int64_t rows, int64_t cols) override;
  bool is_quantized(const std::string& name) const override;
  Tensor get_integers(const std::string& name, int64_t rows, int64_t cols) const override;
  DType dtype_of(const std::string& name) const override { return entry(name).parts[0].dtype; }
  const std::vector<int64_t>& shape_of(const std::string& name) const { return entry(name).shape; }
  StoredTensor read(const std::string& name) const;
  bool same(const std::string& a, const std::string& b) const override;
  std::vector<std::string> names() const override;
  void done_with(const std::string& name) override;  // lets its pages leave memory

 protected:
  const std::string& where() const { return where_; }  // the folder or file, for messages
  const MappedFile& map(const std::string& path) { return files_.emplace_back(path); }
  /// False if the name is taken.
  bool add(const std::string& name, Entry entry) { return entries_.emplace(name, std::move(entry)).second; }
  bool add(const std::string& name, FileTensor tensor);
  /// A tensor that no weight can be: a mask or a counter of old exports. `why` ("is of type ...") is told if it is asked for.
  void refuse(const std::string& name, const std::string& why) { refused_[name] = why; }

 private:
  const Entry& entry(const std::string& name) const;
  const Entry& integers_of(const std::string& name) const;

  std::string where_;
  std::deque<MappedFile> files_;
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> refused_;
  std::shared_ptr<const void> last_;  // keeps what get() gave last
};

}  // namespace neox
