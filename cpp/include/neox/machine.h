// SPDX-License-Identifier: Apache-2.0
// What the machine itself can do, for benchmarks to print beside their numbers.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "neox/error.h"

namespace neox {

/// How fast `threads` threads together read memory that is in no cache, in bytes/s: the best of a few passes with 1, 4 and 16 streams in
/// each thread, about a fifth of a second. 0 = the cores this process may use. Throws Error(invalid) for a negative count, Error(memory)
/// where there is no room for the buffer.
NEOX_API double read_bandwidth(int threads);
/// How fast they read two arrays of numbers and write a third, a = b + 3 c: bytes/s as STREAM counts them, 12 for each element, though a
/// processor may read a line before it writes it. Threads and errors as read_bandwidth.
NEOX_API double triad_bandwidth(int threads);
/// Products of bytes that are summed into 32 bits, out of registers alone, in operations/s: a product and a sum are two. Of the fastest
/// instruction that int8_instruction() names. Threads and errors as read_bandwidth.
NEOX_API double int8_peak(int threads);
NEOX_API std::string int8_instruction();

/// How many GPUs an engine may take: those that CUDA sees; 0 also where this build has no CUDA backend or the driver is too old for it.
NEOX_API int32_t gpu_count();
/// For people: each of them, which others its kernels reach, and the NCCL that would connect them. Empty where there are none.
NEOX_API std::vector<std::string> gpu_report();
/// How fast the current GPU reads its own memory, in bytes/s: a sum over 1 GiB, the best of a few passes. Throws Error(unsupported) where
/// this build has no CUDA backend, Error(memory) where the GPU has no room, Error(runtime) where it does not run.
NEOX_API double gpu_read_bandwidth();
/// FLOP/s of cuBLASLt's product of two random 8192 x 8192 matrices of "float32" (without TF32), "float16" or "bfloat16" on the current GPU:
/// the best of a few. Throws as gpu_read_bandwidth, and Error(invalid) for another type.
NEOX_API double gpu_matmul_peak(const std::string& dtype);

}  // namespace neox
