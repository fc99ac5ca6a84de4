// SPDX-License-Identifier: Apache-2.0
// Bytes: a model.safetensors.index.json, in a folder with the shards a and b, which hold tensors a and b, and c, which holds a too.
#include <cstring>

#include "fuzz.h"
#include "model/safetensors.h"
#include "temp_folder.h"

using namespace neox;
using namespace neox::fuzz;

static std::string shard(const std::string& tensor) {
  const std::string header = R"({")" + tensor + R"(": {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}})";
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + "eightbyt";
}

static const test::TempFolder& folder_with_shards() {
  static const test::TempFolder folder;
  for (const char* name : {"a", "b", "c"}) folder.write(name, shard(*name == 'c' ? "a" : name));
  return folder;
}

NEOX_FUZZ_TARGET(index) {
  static const test::TempFolder& folder = folder_with_shards();
  folder.write("model.safetensors.index.json", bytes);

  accepted([&] {
    SafetensorsCheckpoint checkpoint(folder.path());
    const auto names = checkpoint.names();
    expect(names.size() <= 2, "there are no tensors but those of the shards");
    for (const std::string& name : names)
      expect(std::memcmp(checkpoint.get(name, 2, 2).data, "eightbyt", 8) == 0, "a tensor has its shard's bytes");
  });
}
