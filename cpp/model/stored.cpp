// SPDX-License-Identifier: Apache-2.0
#include "model/stored.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"

namespace neox {
namespace {

constexpr float kMostDrift = 0.0625f;

/// What a run of elements becomes in memory; `step` elements lie between two of them in the file.
void copy_run(char* to, const char* from, int64_t n, int64_t step, const FileTensor& t) {
  const size_t size = size_of(t.dtype);
  if (step == 1 && !t.wide) {
    std::memcpy(to, from, size_t(n) * size);
    return;
  }
  for (int64_t i = 0; i < n; i++, to += size, from += step * int64_t(t.element())) {
    if (!t.wide) {
      std::memcpy(to, from, size);
      continue;
    }
    double value;
    std::memcpy(&value, from, sizeof value);
    store_from_f32(to, t.dtype, 0, float(value));
  }
}

/// to[r][c] = from[c][r], in tiles that stay in the cache on both sides; `to_row` and `from_row` elements from one row to the next.
template <class T> void copy_turned(T* to, int64_t to_row, const T* from, int64_t from_row, int64_t rows, int64_t cols) {
  constexpr int64_t kTile = 32;
  for (int64_t c0 = 0; c0 < cols; c0 += kTile)
    for (int64_t r0 = 0; r0 < rows; r0 += kTile)
      for (int64_t r = r0; r < std::min(r0 + kTile, rows); r++)
        for (int64_t c = c0; c < std::min(c0 + kTile, cols); c++) std::memcpy(to + r * to_row + c, from + c * from_row + r, sizeof(T));
}

/// Copies a matrix, the last two axes of `t` from `from` on, into rows that are `to_row` elements apart.
void copy_matrix(char* to, int64_t to_row, const char* from, const FileTensor& t) {
  const size_t last = t.shape.size() - 1;
  const int64_t rows = t.shape[last - 1], cols = t.shape[last], row_step = t.strides[last - 1], step = t.strides[last];
  if (row_step == 1 && step != 1 && !t.wide) {
    if (size_of(t.dtype) == 4) copy_turned(reinterpret_cast<float*>(to), to_row, reinterpret_cast<const float*>(from), step, rows, cols);
    else copy_turned(reinterpret_cast<uint16_t*>(to), to_row, reinterpret_cast<const uint16_t*>(from), step, rows, cols);
    return;
  }
  for (int64_t r = 0; r < rows; r++)
    copy_run(to + r * to_row * int64_t(size_of(t.dtype)), from + r * row_step * int64_t(t.element()), cols, step, t);
}

/// Copies `t` from its axis `axis` on, and moves `to` past it.
void copy_axis(char*& to, const char* from, const FileTensor& t, size_t axis) {
  const size_t left = t.shape.size() - axis, size = size_of(t.dtype);
  if (left == 1) {
    copy_run(to, from, t.shape[axis], t.strides[axis], t);
    to += size_t(t.shape[axis]) * size;
  } else if (left == 2) {
    copy_matrix(to, t.shape[axis + 1], from, t);
    to += size_t(t.shape[axis] * t.shape[axis + 1]) * size;
  } else {
    for (int64_t i = 0; i < t.shape[axis]; i++) copy_axis(to, from + i * t.strides[axis] * int64_t(t.element()), t, axis + 1);
  }
}

void copy_whole(char* to, const FileTensor& t) {
  if (t.count() == 0) return;
  if (t.shape.empty()) copy_run(to, t.data, 1, 1, t);
  else copy_axis(to, t.data, t, 0);
}

/// The bytes of the file that a tensor is among.
size_t span_bytes(const FileTensor& t) {
  if (t.count() == 0) return 0;
  size_t last = 0;
  for (size_t i = 0; i < t.shape.size(); i++) last += size_t((t.shape[i] - 1) * t.strides[i]);
  return (last + 1) * (t.wide ? 64 : size_t(bits_of(t.dtype))) / 8;
}

void forget(const FileTensor& t) { t.file->forget(t.data, span_bytes(t)); }

/// A matrix of `outer` rows, of which each part fills some columns: what joining along an axis is.
void join_along(char* out, const Entry& e) {
  int64_t outer = 1, inner = 1;
  for (size_t i = 0; i < e.shape.size(); i++) (i < e.axis ? outer : inner) *= e.shape[i];
  const size_t size = size_of(e.parts[0].dtype);
  size_t at = 0;
  for (const FileTensor& part : e.parts) {
    fetch(part.data, span_bytes(part));
    const size_t width = size_t(part.count() / std::max<int64_t>(outer, 1)) * size;
    if (outer == 1) copy_whole(out + at, part);
    else copy_matrix(out + at, inner, part.data, part);  // axis 1 of a matrix, the only other there is
    at += width;
    forget(part);
  }
}

std::vector<float> as_floats(const FileTensor& t) {
  const auto n = size_t(t.count());
  std::vector<char> values(n * size_of(t.dtype));
  fetch(t.data, span_bytes(t));
  copy_whole(values.data(), t);
  std::vector<float> out(n);
  for (size_t i = 0; i < n; i++) out[i] = load_as_f32(values.data(), t.dtype, int64_t(i));
  return out;
}

/// Copies of one tensor may have drifted apart in training. Those of two models or steps lie further from each other than that.
void require_alike(const std::vector<float>& a, const std::vector<float>& b, const std::string& name, const Entry& e, size_t part) {
  float most = 0, difference = 0;
  for (size_t i = 0; i < a.size(); i++) {
    most = std::max(most, std::fabs(a[i]));
    difference = std::max(difference, std::fabs(a[i] - b[i]));
  }
  require(difference <= kMostDrift * most, name, " differs by up to ", difference, " between ", e.parts[0].file->path(), " and ",
          e.parts[part].file->path(), ", expected at most ", kMostDrift * most, ", ", kMostDrift,
          " of its largest value: are the files of one step?");
}

/// Summed in double, rounded once.
void add_up(char* out, const Entry& e, const std::string& name) {
  const bool mean = e.join == Entry::Join::mean;
  const std::vector<float> first = as_floats(e.parts[0]);
  std::vector<double> sum(first.begin(), first.end());
  for (size_t p = 1; p < e.parts.size(); p++) {
    const std::vector<float> values = as_floats(e.parts[p]);
    if (mean) require_alike(first, values, name, e, p);
    for (size_t i = 0; i < sum.size(); i++) sum[i] += double(values[i]);
  }
  const double scale = mean ? double(e.parts.size()) : 1.0;
  for (size_t i = 0; i < sum.size(); i++) store_from_f32(out, e.parts[0].dtype, int64_t(i), float(sum[i] * e.scale / scale));
}

}  // namespace

int64_t FileTensor::count() const {
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;  // whatever the others multiply to
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  return n;
}

bool FileTensor::contiguous() const {
  const std::vector<int64_t> rows = row_major(shape);
  for (size_t i = 0; i < shape.size(); i++)
    if (shape[i] != 1 && strides[i] != rows[i]) return count() == 0;
  return true;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); i++) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + "]";
}

std::vector<int64_t> row_major(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = int64_t(uint64_t(strides[i]) * uint64_t(shape[i]));  // of no elements: any
  return strides;
}

bool StoredCheckpoint::add(const std::string& name, FileTensor tensor) {
  Entry e;
  e.shape = tensor.shape;
  e.parts.push_back(std::move(tensor));
  return add(name, std::move(e));
}

const Entry& StoredCheckpoint::entry(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found != entries_.end()) return found->second;
  if (const auto other = refused_.find(name); other != refused_.end()) fail(ErrorKind::invalid, where_, ": ", name, " ", other->second);
  fail(ErrorKind::invalid, where_, ": tensor ", name, " is missing");
}

StoredTensor StoredCheckpoint::read(const std::string& name) const {
  const Entry& e = entry(name);
  const FileTensor& first = e.parts[0];
  StoredTensor out{.dtype = name_of(first.dtype), .shape = e.shape, .bytes = size_t(bits_of(first.dtype))};
  for (const int64_t n : e.shape) out.bytes *= size_t(n);
  out.bytes /= 8;
  if (e.parts.size() == 1 && e.join == Entry::Join::along_axis && !first.wide && first.contiguous()) {
    out.data = first.data;
    return out;
  }
  std::shared_ptr<char[]> copy(new char[out.bytes]);
  if (e.join == Entry::Join::along_axis) join_along(copy.get(), e);
  else add_up(copy.get(), e, name);
  out.data = copy.get(), out.owner = std::move(copy);
  return out;
}

bool StoredCheckpoint::is_quantized(const std::string& name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? entries_.contains(name + "_packed") : !is_float(found->second.parts[0].dtype);
}

const Entry& StoredCheckpoint::integers_of(const std::string& name) const {
  return entry(entries_.contains(name + "_packed") ? name + "_packed" : name);
}

/// As compressed-tensors stores them: int8 with a scale for a row, or int4 + 8, eight in a word from its low bits on, with one for a group.
Tensor StoredCheckpoint::get_integers(const std::string& name, int64_t rows, int64_t cols) const {
  const Entry &e = integers_of(name), &s = entry(name + "_scale");
  const DType dtype = e.parts[0].dtype, scale_dtype = s.parts[0].dtype;
  for (const char* other : {"_zero_point", "_g_idx"})
    if (entries_.contains(name + other) || refused_.contains(name + other))
      fail(ErrorKind::unsupported, where_, ": ", name, " has a tensor ", name, other, ", expected symmetric weights in their own order");
  require(e.shape == std::vector<int64_t>{rows, cols}, where_, ": ", name, " is ", shape_text(e.shape), ", expected ",
          shape_text({rows, cols}));
  const bool grouped = dtype == DType::i4;
  const int64_t groups = grouped && s.shape.size() == 2 ? s.shape[1] : 1;
  require(is_float(scale_dtype) && (s.shape == std::vector<int64_t>{rows, groups} || s.shape == std::vector<int64_t>{rows}) && groups > 0 &&
              cols % groups == 0,
          where_, ": ", name, "_scale is ", shape_text(s.shape), " in ", name_of(scale_dtype), ", expected a number for each of ", rows,
          " rows", grouped ? " and their groups" : "");
  const int64_t group = cols / groups;
  if (grouped && group != 32 && group != 64 && group != 128)
    fail(ErrorKind::unsupported, where_, ": ", name, " has groups of ", group, " columns, expected 32, 64 or 128");
  return {.data = const_cast<char*>(e.parts[0].data),
          .rows = rows,
          .cols = cols,
          .ld = cols,
          .dtype = dtype,
          .group = grouped ? int32_t(group) : 0,
          .scale = s.parts[0].data,
          .scale_dtype = scale_dtype};
}

Tensor StoredCheckpoint::get(const std::string& name, int64_t rows, int64_t cols) {
  require(is_float(dtype_of(name)), where_, ": ", name, " is of type ", name_of(dtype_of(name)), ", expected float32, float16 or bfloat16");
  const std::vector<int64_t>& shape = shape_of(name);
  const std::vector<int64_t> wanted = rows == 1 ? std::vector<int64_t>{cols} : std::vector<int64_t>{rows, cols};
  const bool fits = shape == wanted || shape == std::vector<int64_t>{rows, cols};
  require(fits, where_, ": ", name, " is ", shape_text(shape), ", expected ", shape_text(wanted));
  last_.reset();  // before the next is made: one copy at a time
  StoredTensor t = read(name);
  last_ = std::move(t.owner);
  return {.data = const_cast<void*>(t.data), .rows = rows, .cols = cols, .ld = cols, .dtype = dtype_of(name)};
}

bool StoredCheckpoint::same(const std::string& a, const std::string& b) const {
  if (dtype_of(a) != dtype_of(b) || shape_of(a) != shape_of(b)) return false;
  const StoredTensor x = read(a), y = read(b);
  return x.data == y.data || std::memcmp(x.data, y.data, x.bytes) == 0;
}

std::vector<std::string> StoredCheckpoint::names() const {
  std::vector<std::string> out;
  for (const auto& [name, e] : entries_) out.push_back(name);
  return out;
}

void StoredCheckpoint::done_with(const std::string& name) {
  for (const FileTensor& part : integers_of(name).parts) forget(part);
  last_.reset();
}

}  // namespace neox
