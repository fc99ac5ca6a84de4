// SPDX-License-Identifier: Apache-2.0
#include "model/torch_checkpoint.h"

#include "base/check.h"
#include "model/shards.h"
#include "model/torch_file.h"

namespace neox {

void TorchCheckpoint::open(const std::string& path) {
  for (TorchTensor& t : read_torch_file(map(path))) {
    if (!t.refusal.empty()) refuse(t.name, t.refusal);
    else require(add(t.name, std::move(t.tensor)), path, ": ", t.name, " is also in another shard");
  }
}

TorchCheckpoint::TorchCheckpoint(const std::string& path) : StoredCheckpoint(path) {
  if (!is_folder(path)) open(path);
  else
    for (const std::string& file : weight_files(path, "pytorch_model.bin")) open(path + "/" + file);
}

}  // namespace neox
