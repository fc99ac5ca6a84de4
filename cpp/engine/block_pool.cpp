// SPDX-License-Identifier: Apache-2.0
#include "engine/block_pool.h"

namespace neox {

BlockPool::BlockPool(int32_t blocks) : size_(blocks) {
  free_.reserve(size_t(blocks));
  for (int32_t b = blocks; b-- > 0;) free_.push_back(b);
}

bool BlockPool::grow(std::vector<int32_t>& table, int32_t blocks) {
  const int32_t more = blocks - int32_t(table.size());
  if (more > free_blocks()) return false;
  for (int32_t i = 0; i < more; i++) {
    table.push_back(free_.back());
    free_.pop_back();
  }
  return true;
}

void BlockPool::release(std::vector<int32_t>& table) {
  free_.insert(free_.end(), table.rbegin(), table.rend());
  table.clear();
}

}  // namespace neox
