// SPDX-License-Identifier: Apache-2.0
// What every op computes, in plain double precision: the specification that backends are tested against. sample is in reference_sample.h.
// Written to be read: one loop per index, nothing shared with the backends. Values that a backend stores in a 16-bit type are rounded to
// that type here too, so that a comparison sees arithmetic only.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "backend/args.h"

namespace neox::test {

struct Matrix {  // row-major
  int64_t rows = 0, cols = 0;
  std::vector<double> v;

  Matrix() = default;
  Matrix(int64_t r, int64_t c) : rows(r), cols(c), v(size_t(r * c)) {}
  double& at(int64_t r, int64_t c) { return v[size_t(r * cols + c)]; }
  double at(int64_t r, int64_t c) const { return v[size_t(r * cols + c)]; }
  double* row(int64_t r) { return v.data() + r * cols; }
  const double* row(int64_t r) const { return v.data() + r * cols; }
  Matrix slice(int64_t first, int64_t count) const {  // rows
    Matrix m(count, cols);
    m.v.assign(v.begin() + first * cols, v.begin() + (first + count) * cols);
    return m;
  }
};

/// The nearest value of the type, ties to even; what is too large becomes infinite.
inline double rounded(double x, DType t) {
  if (x == 0 || !std::isfinite(x)) return x;
  const int digits = t == DType::f32 ? 24 : t == DType::f16 ? 11 : 8;
  const int least = t == DType::f16 ? -14 : -126, most = t == DType::f16 ? 15 : 127;  // exponents of normal numbers
  const double ulp = std::ldexp(1.0, std::max(std::ilogb(x), least) - (digits - 1));
  const double y = std::nearbyint(x / ulp) * ulp;
  return std::ilogb(y) > most ? std::copysign(std::numeric_limits<double>::infinity(), y) : y;
}
inline Matrix rounded(Matrix m, DType t) {
  for (double& x : m.v) x = rounded(x, t);
  return m;
}

namespace reference {

inline Matrix gather_rows(const Matrix& x, const std::vector<int32_t>& rows) {
  Matrix out(int64_t(rows.size()), x.cols);
  for (int64_t i = 0; i < out.rows; i++)
    for (int64_t c = 0; c < x.cols; c++) out.at(i, c) = x.at(rows[size_t(i)], c);
  return out;
}

/// out[t] = table[ids[t]]; a padding row has id 0 and gets row 0.
inline Matrix embed(const Matrix& table, const std::vector<int32_t>& ids) { return gather_rows(table, ids); }

/// x += add + bias. Either may be empty.
inline void add(Matrix& x, const Matrix& add, const Matrix& bias) {
  for (int64_t r = 0; r < x.rows; r++)
    for (int64_t c = 0; c < x.cols; c++) x.at(r, c) += (add.rows ? add.at(r, c) : 0) + (bias.rows ? bias.at(0, c) : 0);
}

/// LayerNorm over each row, with the variance of the row as a whole population.
inline Matrix norm(const Matrix& x, const Matrix& gamma, const Matrix& beta, double eps) {
  Matrix out(x.rows, x.cols);
  for (int64_t r = 0; r < x.rows; r++) {
    double mean = 0, variance = 0;
    for (int64_t c = 0; c < x.cols; c++) mean += x.at(r, c) / double(x.cols);
    for (int64_t c = 0; c < x.cols; c++) variance += (x.at(r, c) - mean) * (x.at(r, c) - mean) / double(x.cols);
    for (int64_t c = 0; c < x.cols; c++) out.at(r, c) = (x.at(r, c) - mean) / std::sqrt(variance + eps) * gamma.at(0, c) + beta.at(0, c);
  }
  return out;
}

inline double activate(Act act, double x) {
  switch (act) {
    case Act::gelu: return 0.5 * x * std::erfc(-x / std::sqrt(2.0));  // = x (1 + erf(x / sqrt 2)) / 2
    case Act::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Act::relu: return x > 0 ? x : 0;
    case Act::silu: return x / (1 + std::exp(-x));
    default: return x;
  }
}

/// act(x W^T + bias); bias may be empty. Parts of one call that name the same out add up: accumulate with add().
inline Matrix linear(const Matrix& x, const Matrix& weight, const Matrix& bias, Act act) {
  Matrix out(x.rows, weight.rows);
  for (int64_t r = 0; r < x.rows; r++)
    for (int64_t n = 0; n < weight.rows; n++) {
      double sum = 0;
      for (int64_t k = 0; k < x.cols; k++) sum += x.at(r, k) * weight.at(n, k);
      out.at(r, n) = activate(act, sum + (bias.rows ? bias.at(0, n) : 0));
    }
  return out;
}

/// Rows as a product with 8-bit inputs sees them: multiples of max |x| / 127, to nearest even, in f32.
inline Matrix narrow_rows(Matrix x) {
  for (int64_t r = 0; r < x.rows; r++) {
    float most = 0;
    for (int64_t c = 0; c < x.cols; c++) most = std::max(most, std::fabs(float(x.at(r, c))));
    const float scale = most / 127, inverse = 127 / most;
    for (int64_t c = 0; c < x.cols; c++) x.at(r, c) = most > 0 ? double(scale) * std::nearbyintf(float(x.at(r, c)) * inverse) : 0;
  }
  return x;
}

/// What a sequence has stored: a row for each position. How a backend lays this out in pages is its own affair.
struct History {
  std::vector<std::vector<double>> k, v;  // [positions][heads * head_dim]
};

struct Attention {
  int heads, head_dim;
  DType kv_dtype;  // keys and values are rounded to it when they are stored
  double scale;
  Matrix cos_sin;  // [max_positions, 2 * half]: half cosines, then half sines; half may be 0
};

/// Element i < half is turned with element i + half; elements from 2 * half on pass.
inline void rotate(double* x, const double* cos_sin, int64_t half) {
  for (int64_t i = 0; i < half; i++) {
    const double a = x[i], b = x[i + half], c = cos_sin[i], s = cos_sin[half + i];
    x[i] = a * c - b * s;
    x[i + half] = b * c + a * s;
  }
}

/// softmax(scale q k^T) v over all of the history, for one head.
inline void attend(const double* q, const History& history, int head, const Attention& a, double* out) {
  const size_t seen = history.k.size();
  std::vector<double> p(seen);
  double most = -std::numeric_limits<double>::infinity(), total = 0;
  for (size_t j = 0; j < seen; j++) {
    for (int d = 0; d < a.head_dim; d++) p[j] += a.scale * q[d] * history.k[j][size_t(head * a.head_dim + d)];
    most = std::max(most, p[j]);
  }
  for (double& e : p) total += e = std::exp(e - most);
  for (int d = 0; d < a.head_dim; d++) {
    out[d] = 0;
    for (size_t j = 0; j < seen; j++) out[d] += p[j] / total * history.v[j][size_t(head * a.head_dim + d)];
  }
}

/// The next rows of one sequence, in order: rotate q and k, store k and v, attend to all that is stored. qkv: each head's q, k, v side by
/// side.
inline Matrix attention(Matrix qkv, const Attention& a, History& history) {
  Matrix out(qkv.rows, a.heads * a.head_dim);
  for (int64_t r = 0; r < qkv.rows; r++) {
    const auto position = int64_t(history.k.size());
    std::vector<double> keys, values;
    for (int h = 0; h < a.heads; h++) {
      double* q = qkv.row(r) + int64_t(h) * 3 * a.head_dim;
      rotate(q, a.cos_sin.row(position), a.cos_sin.cols / 2);
      rotate(q + a.head_dim, a.cos_sin.row(position), a.cos_sin.cols / 2);
      for (int d = 0; d < a.head_dim; d++) {
        keys.push_back(a.kv_dtype == DType::i8 ? q[a.head_dim + d] : rounded(q[a.head_dim + d], a.kv_dtype));
        values.push_back(a.kv_dtype == DType::i8 ? q[2 * a.head_dim + d] : rounded(q[2 * a.head_dim + d], a.kv_dtype));
      }
      if (a.kv_dtype == DType::i8)  // 8-bit integers with a scale for each position and head
        for (std::vector<double>* x : {&keys, &values}) {
          Matrix row(1, a.head_dim);
          std::copy(x->end() - a.head_dim, x->end(), row.v.begin());
          row = narrow_rows(row);
          std::copy(row.v.begin(), row.v.end(), x->end() - a.head_dim);
        }
    }
    history.k.push_back(keys);
    history.v.push_back(values);
    for (int h = 0; h < a.heads; h++) attend(qkv.row(r) + int64_t(h) * 3 * a.head_dim, history, h, a, out.row(r) + int64_t(h) * a.head_dim);
  }
  return out;
}

/// The copy of a page holds what the page holds: a sequence whose table names copies has the same history.
inline History copy_blocks(const History& history) { return history; }

}  // namespace reference
}  // namespace neox::test
