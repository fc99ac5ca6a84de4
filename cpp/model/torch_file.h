// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "model/stored.h"

namespace neox {

/// A tensor of a file of torch.save. Its name is the keys on the way to it, joined by dots; "tensor" where the file is nothing else.
struct TorchTensor {
  std::string name;
  FileTensor tensor;
  std::string refusal;  // why it can be no weight ("is of type LongStorage, ..."); empty otherwise
};

bool is_torch_file(const MappedFile& file);  // by its first bytes

/// The tensors of a file of torch.save in the zip format or the one before it, as views. Nothing of the file's pickle is executed: it may
/// name tensors, parameters and OrderedDict, and all else is refused by name. Throws Error(invalid, unsupported) naming file and tensor.
std::vector<TorchTensor> read_torch_file(const MappedFile& file);

}  // namespace neox
