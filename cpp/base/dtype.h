// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

namespace neox {

/// The types of numbers, then those of matrices of integers with scales. i8: [-127, 127], a scale for a row. i4: [-8, 7], a scale for each
/// group of columns. w8a8, w4a8: the same integers, multiplied by inputs that become 8-bit integers, too.
enum class DType : uint8_t { f32, f16, bf16, i8, w8a8, i4, w4a8 };

constexpr bool is_float(DType t) { return t <= DType::bf16; }
constexpr bool is_grouped(DType t) { return t >= DType::i4; }
constexpr bool has_narrow_inputs(DType t) { return t == DType::w8a8 || t == DType::w4a8; }
/// The type that holds the same integers in a file.
constexpr DType stored_as(DType t) { return is_float(t) ? t : is_grouped(t) ? DType::i4 : DType::i8; }

constexpr int64_t bits_of(DType t) { return t == DType::f32 ? 32 : is_float(t) ? 16 : is_grouped(t) ? 4 : 8; }
constexpr size_t size_of(DType t) { return size_t(bits_of(t)) / 8; }       // 0 where an element is less than a byte
const char* name_of(DType t);                                              // "float32", "float16", "bfloat16", "int8", "w8a8", ...
DType dtype_named(const std::string& name, const char* option = "dtype");  // floats; throws Error(invalid) naming the option

DType page_dtype_named(const std::string& name);  // of the KV cache: floats and int8

/// Calls f with an integral_constant of the type, one of numbers: the one place where dtype turns into a template argument.
template <class Fn> decltype(auto) dispatch(DType t, Fn&& f) {
  switch (t) {
    case DType::f16: return f(std::integral_constant<DType, DType::f16>{});
    case DType::bf16: return f(std::integral_constant<DType, DType::bf16>{});
    default: return f(std::integral_constant<DType, DType::f32>{});
  }
}

// Scalar conversions, round to nearest even; f16 overflows to infinity.
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);
inline float bf16_to_f32(uint16_t h) { return std::bit_cast<float>(uint32_t(h) << 16); }
inline uint16_t f32_to_bf16(float f) {
  const auto u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffff) > 0x7f800000) return uint16_t(u >> 16 | 0x40);  // NaN stays NaN
  return uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
// The i-th element of an array that need not be aligned, as in a mapped file.
template <DType T> inline float load_as_f32(const void* p, int64_t i) {
  if constexpr (T == DType::f32) {
    float f;
    std::memcpy(&f, static_cast<const char*>(p) + i * 4, 4);
    return f;
  } else {
    uint16_t h;
    std::memcpy(&h, static_cast<const char*>(p) + i * 2, 2);
    return T == DType::f16 ? f16_to_f32(h) : bf16_to_f32(h);
  }
}
template <DType T> inline void store_from_f32(void* p, int64_t i, float value) {
  if constexpr (T == DType::f32) static_cast<float*>(p)[i] = value;
  else static_cast<uint16_t*>(p)[i] = T == DType::f16 ? f32_to_f16(value) : f32_to_bf16(value);
}
inline float load_as_f32(const void* p, DType t, int64_t i) {
  return dispatch(t, [&](auto type) { return load_as_f32<type>(p, i); });
}
inline void store_from_f32(void* p, DType t, int64_t i, float value) {
  dispatch(t, [&](auto type) { store_from_f32<type>(p, i, value); });
}

}  // namespace neox
