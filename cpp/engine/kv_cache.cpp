// SPDX-License-Identifier: Apache-2.0
#include "engine/kv_cache.h"

namespace neox {

KvCache::KvCache(Backend& backend, const KvPages& shape, int32_t layers, int32_t blocks) : arena_(backend), layers_(size_t(layers), shape) {
  const size_t bytes = size_t(blocks) * backend.page_bytes(shape);
  for (KvPages& layer : layers_) layer.k = arena_.allocate(bytes), layer.v = arena_.allocate(bytes);
}

}  // namespace neox
