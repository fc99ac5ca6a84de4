// SPDX-License-Identifier: Apache-2.0
// The data plane between ranks: tensors, in order with the backend's ops.
#pragma once
#include <string>

#include "base/tensor.h"
#include "neox/error.h"

namespace neox {

class Backend;
struct AddNormArgs;

class NEOX_API Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::string describe() const = 0;                             // what the tensors pass through, "" for nothing
  virtual bool recordable() const = 0;                                  // whether what follows may be among recorded ops
  virtual void all_reduce(Tensor x) = 0;                                // sum over ranks, in place
  virtual void all_reduce_add_norm(Backend& be, const AddNormArgs& a);  // of a.add, which may be left as it was; then be.add_norm(a)
  virtual void all_gather_cols(Tensor out, Tensor part) = 0;            // out = the ranks' parts side by side
  virtual void send(Tensor x, int to) = 0;
  virtual void recv(Tensor x, int from) = 0;
};

}  // namespace neox
