// SPDX-License-Identifier: Apache-2.0
// What linear.cpp and linear_narrow.cpp share: how a thread walks its share of W's panels, and what is done to a panel's sums in the end.
#pragma once
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/math.h"

namespace neox::NEOX_ISA {

/// The activation, over all rows of panel p's outputs. A problem has task, y, M and outputs(p).
template <class Problem> void finish(const Problem& a, int64_t p) {
  const Act act = a.task.args.act;
  if (act == Act::none) return;
  const int n = a.outputs(p);
  for (int64_t m = 0; m < a.M; m++) {
    float* out = a.y.row(m) + p * kLanes;
    if (n == kLanes) store(out, activate(act, load(out)));
    else store_first(out, activate(act, load_first(out, n)), n);
  }
}

/// Up to 16 rows, bound by memory: P panels side by side, as far apart as this thread's share [p0, p1) allows, so that each is a stream
/// that runs on into its next panel. run(p, stride, n): the sums of panels p, p + stride, ..., n of them, which is P, or 1 of those left
/// over.
template <class Problem, class Run> void by_streams(const Problem& a, int64_t p0, int64_t p1, int64_t P, const Run& run) {
  const int64_t stride = (p1 - p0) / P;
  const auto over = [&](int64_t p, int64_t n) {
    run(p, stride, n);
    for (int64_t i = 0; i < n; i++) finish(a, p + i * stride);
  };
  for (int64_t p = p0; p < p0 + stride; p++) over(p, P);
  for (int64_t p = p0 + stride * P; p < p1; p++) over(p, 1);
}

}  // namespace neox::NEOX_ISA
