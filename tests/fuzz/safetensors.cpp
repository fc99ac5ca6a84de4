// SPDX-License-Identifier: Apache-2.0
// Bytes: a model.safetensors as it is; or, where they begin with a brace, its header and behind a NUL its data, so that a change of the
// header does not need another length in front of it.
#include "model/safetensors.h"

#include <cstring>

#include "fuzz.h"
#include "temp_folder.h"

using namespace neox;
using namespace neox::fuzz;

static std::string file_of(std::string_view bytes) {
  if (!bytes.starts_with('{')) return std::string(bytes);
  Reader in{bytes};
  const std::string header = in.until('\0');
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + std::string(in.rest);
}

NEOX_FUZZ_TARGET(safetensors) {
  static const test::TempFolder folder;
  const std::string file = file_of(bytes);
  folder.write("model.safetensors", file);

  accepted([&] {
    SafetensorsCheckpoint checkpoint(folder.path());
    for (const std::string& name : checkpoint.names()) {
      expect(checkpoint.has(name), "a tensor that is listed is there");
      const DType dtype = checkpoint.dtype_of(name);
      for (int64_t rows = 0; rows <= 8; rows++)
        for (int64_t cols = 0; cols <= 8; cols++)
          accepted([&] {
            const Tensor t = checkpoint.get(name, rows, cols);
            expect(t.rows == rows && t.cols == cols && t.dtype == dtype, "a tensor is as it was asked for");
            const auto at = static_cast<const char*>(t.data);  // in another mapping than `file`: it has to hold the same somewhere
            const std::string values(at, size_t(rows * cols) * size_of(dtype));
            expect(file.find(values, 8) != std::string::npos, "a tensor holds bytes of the file");
          });
      checkpoint.done_with(name);
    }
  });
}
