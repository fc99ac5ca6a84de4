// SPDX-License-Identifier: Apache-2.0
#include "base/dtype.h"

#include <cmath>

#include "base/check.h"

namespace neox {

const char* name_of(DType t) {
  switch (t) {
    case DType::f16: return "float16";
    case DType::bf16: return "bfloat16";
    case DType::i8: return "int8";
    case DType::w8a8: return "w8a8";
    case DType::i4: return "int4";
    case DType::w4a8: return "w4a8";
    default: return "float32";
  }
}

DType dtype_named(const std::string& name, const char* option) {
  for (DType t : {DType::f32, DType::f16, DType::bf16})
    if (name == name_of(t)) return t;
  fail(ErrorKind::invalid, option, " is '", name, "', expected auto, float32, float16 or bfloat16");
}

DType page_dtype_named(const std::string& name) {
  for (DType t : {DType::f32, DType::f16, DType::bf16, DType::i8})
    if (name == name_of(t)) return t;
  fail(ErrorKind::invalid, "kv_cache_dtype is '", name, "', expected auto, float32, float16, bfloat16 or int8");
}

float f16_to_f32(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | fraction << 13);
  if (exponent == 0) return std::bit_cast<float>(std::bit_cast<uint32_t>(float(fraction) * 0x1p-24f) | sign);
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t f32_to_f16(float f) {
  const auto u = std::bit_cast<uint32_t>(f);
  const uint16_t sign = uint16_t(u >> 16 & 0x8000);
  const uint32_t magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);  // rounds to 65536 or more
  if (magnitude < 0x38800000)                                   // below 2^-14: a multiple of 2^-24, rounded by the adder
    return uint16_t(sign | uint16_t(std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000));
  return uint16_t(sign | uint16_t((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}

}  // namespace neox
