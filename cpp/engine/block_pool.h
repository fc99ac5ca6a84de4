// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace neox {

/// Which pages of the KV cache are free. Pure host arithmetic; the memory is KvCache's.
class BlockPool {
 public:
  explicit BlockPool(int32_t blocks);

  int32_t size() const { return size_; }
  int32_t free_blocks() const { return int32_t(free_.size()); }
  /// Grows a page table to `blocks` pages; false, and no change, if there are too few free ones.
  bool grow(std::vector<int32_t>& table, int32_t blocks);
  /// Gives all pages of a table back and empties it.
  void release(std::vector<int32_t>& table);

 private:
  int32_t size_;
  std::vector<int32_t> free_;  // a stack: the page given back last is the one in the cache
};

}  // namespace neox
