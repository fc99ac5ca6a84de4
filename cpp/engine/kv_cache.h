// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "backend/buffer.h"

namespace neox {

/// The memory of the paged KV cache: for each layer one array of k pages and one of v pages.
class KvCache {
 public:
  KvCache(Backend& backend, const KvPages& shape, int32_t layers, int32_t blocks);
  const std::vector<KvPages>& layers() const { return layers_; }
  size_t bytes() const { return arena_.bytes(); }

  static size_t block_bytes(const Backend& backend, const KvPages& shape, int32_t layers) {
    return 2 * size_t(layers) * backend.page_bytes(shape);
  }

 private:
  Arena arena_;
  std::vector<KvPages> layers_;
};

}  // namespace neox
