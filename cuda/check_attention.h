// SPDX-License-Identifier: Apache-2.0
// What the attention check needs: its cases, and attention in double precision for single rows.
#pragma once
#include <cuda_fp16.h>

#include <cmath>
#include <random>
#include <vector>

#include "attention.h"
#include "base/dtype.h"
#include "check_memory.h"

namespace neox::cuda::trial {

struct Case {
  DType act = DType::f16, kv = DType::f16;
  int heads = 2, head_dim = 64, half = 8, block = 16;
  std::vector<int> lengths;
};

/// One sequence on the host: its rows of qkv, and the k and v that its positions are stored as.
struct Sequence {
  std::vector<float> qkv;   // [length, heads * 3 * head_dim], values of the activations' type
  std::vector<double> q;    // [length, heads * head_dim] rotated
  std::vector<float> k, v;  // [length, heads * head_dim] rotated, of the pages' type

  static float rounded(float x, DType t) {
    uint32_t raw = 0;
    store_from_f32(&raw, t, 0, x);
    return load_as_f32(&raw, t, 0);
  }
  Sequence(const Case& c, int length, const std::vector<float>& cos_sin, std::mt19937& random) {
    std::normal_distribution<float> normal;
    const int D = c.head_dim, hidden = c.heads * D;
    for (int i = 0; i < length * hidden * 3; i++) qkv.push_back(rounded(normal(random) * 1.5f, c.act));
    q.resize(size_t(length) * hidden), k.resize(q.size()), v.resize(q.size());
    std::vector<double> x(static_cast<size_t>(D));
    for (int t = 0; t < length; t++)
      for (int h = 0; h < c.heads; h++)
        for (int part = 0; part < 3; part++) {
          const float* from = &qkv[(size_t(t) * c.heads + h) * 3 * D + part * D];
          const float* cs = &cos_sin[size_t(t) * 2 * c.half];
          for (int d = 0; d < D; d++) x[d] = from[d];
          for (int i = 0; i < c.half && part < 2; i++) {
            x[i] = double(from[i]) * cs[i] - double(from[i + c.half]) * cs[c.half + i];
            x[i + c.half] = double(from[i + c.half]) * cs[i] + double(from[i]) * cs[c.half + i];
          }
          const size_t to = size_t(t) * hidden + h * D;
          for (int d = 0; d < D; d++) {
            if (part == 0) q[to + d] = x[d];
            else (part == 1 ? k : v)[to + d] = rounded(float(x[d]), c.kv);
          }
        }
  }
  /// Row t of head h, attending to positions 0 to t.
  std::vector<double> attend(const Case& c, int t, int h, double scale) const {
    const int D = c.head_dim, hidden = c.heads * D;
    std::vector<double> p(size_t(t) + 1), out(static_cast<size_t>(D));
    double most = -INFINITY, total = 0;
    for (int j = 0; j <= t; j++) {
      for (int d = 0; d < D; d++) p[j] += scale * q[size_t(t) * hidden + h * D + d] * k[size_t(j) * hidden + h * D + d];
      most = std::max(most, p[j]);
    }
    for (double& e : p) total += e = std::exp(e - most);
    for (int j = 0; j <= t; j++)
      for (int d = 0; d < D; d++) out[d] += p[j] / total * v[size_t(j) * hidden + h * D + d];
    return out;
  }
};

}  // namespace neox::cuda::trial
