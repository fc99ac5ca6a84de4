// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <vector>

namespace neox {

/// The embeddings that the last requests brought. Equal ones are one: they share their memory, and a name in the prefix cache. Equal
/// digests are not trusted: the numbers are compared, bit by bit. What has been dropped gets another name when it comes again.
class SoftPrompts {
 public:
  using Rows = std::shared_ptr<const std::vector<float>>;
  struct Kept {
    int64_t before = 0;  // name of what stands before: of a task's prefix
    uint64_t digest = 0;
    Rows rows;
    int64_t name = 0;
  };
  /// `names`: smaller ones are taken by others. They all are negative.
  explicit SoftPrompts(int64_t names) : last_name_(names) {}
  Kept keep(std::span<const float> rows, int64_t before);
  size_t count() const { return kept_.size(); }

  static constexpr size_t kBytes = size_t(64) << 20;  // kept at most, but for the newest

 private:
  std::list<Kept> kept_;  // the newest first
  size_t bytes_ = 0;
  int64_t last_name_;
};

}  // namespace neox
