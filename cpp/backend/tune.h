// SPDX-License-Identifier: Apache-2.0
// Which algorithm is the fastest for each product of a model, measured on the first GPU.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "backend/args.h"
#include "base/gemm_config.h"

namespace neox {

struct TunePart {
  std::string name;
  int32_t n, k;
  DType out;
  bool bias = false;  // of the request's type
  Act act = Act::none;
};
/// A call of Backend::linear as the model makes it.
struct TuneCall {
  std::vector<TunePart> parts;  // one or two
  bool sum = false;             // the second part is added to the first one's out
};

struct TunedPart {
  double library_us = 0, tuned_us = 0;  // cuBLASLt's own choice, and the best of its algorithms
  GemmChoice choice;
};
struct TunedCall {
  std::vector<TunedPart> parts;  // as TuneCall's
  double tuned_us = 0;           // by cuBLASLt, all parts as they are chosen
  double own_us = 0;             // by the kernel for few rows, 0 where it does not take the call
};

class Tuner {
 public:
  virtual ~Tuner() = default;
  virtual GemmPlace place() const = 0;
  /// Measures a call with weights that are in no cache. Throws Error(memory), Error(runtime), Error(unsupported).
  virtual TunedCall tune(const TuneCall& call, int32_t rows) = 0;
};

/// For calls of this type of x and w that are no larger than these in any way. Throws as make_backend does where there is no GPU.
std::unique_ptr<Tuner> make_tuner(DType type, const std::vector<TuneCall>& calls, int32_t most_rows);

}  // namespace neox
