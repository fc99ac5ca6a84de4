// SPDX-License-Identifier: Apache-2.0
// Ops that move rows: embed, gather_rows, copy_blocks.
#include <algorithm>
#include <cstring>

#include "cpu/cpu_backend_impl.h"

namespace neox {

void CpuBackend::embed(const EmbedArgs& a) {
  pool_.split(a.out.rows, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const int32_t id = a.ids[t] < 0 ? a.sampled[-1 - a.ids[t]].id : a.ids[t];
      if (id < a.table.rows) kernels_.widen(a.table.dtype, a.table.from(id).data, a.out.row(t), a.out.cols);
      else std::copy_n(a.pool.row(id - a.table.rows), a.out.cols, a.out.row(t));
    }
  });
}

void CpuBackend::gather_rows(const GatherArgs& a) {
  for (int64_t i = 0; i < a.out.rows; i++)
    std::memcpy(a.out.from(i).data, a.x.from(a.rows[i]).data, size_t(a.out.cols) * size_of(a.x.dtype));
}

void CpuBackend::copy_blocks(const CopyBlocksArgs& a) {
  const size_t bytes = page_bytes(a.kv);
  for (int32_t i = 0; i < a.count; i++)
    for (void* cache : {a.kv.k, a.kv.v}) {
      char* base = static_cast<char*>(cache);
      std::memcpy(base + a.pairs[2 * i + 1] * bytes, base + a.pairs[2 * i] * bytes, bytes);
    }
}

}  // namespace neox
