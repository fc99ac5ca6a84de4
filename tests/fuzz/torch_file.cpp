// SPDX-License-Identifier: Apache-2.0
// Bytes: a file of torch.save as it is; or, behind a 'p', the pickle's length in two bytes (high, low), the pickle, and the bytes of
// storage 0, so that a change of the pickle does not need other offsets in the archive around it.
#include "model/torch_file.h"

#include <cstring>

#include "fuzz.h"
#include "model/torch_checkpoint.h"
#include "temp_folder.h"
#include "torch_archive.h"

using namespace neox;
using namespace neox::fuzz;

namespace {

std::string file_of(std::string_view bytes) {
  if (!bytes.starts_with('p')) return std::string(bytes);
  Reader in{bytes.substr(1)};
  const size_t high = in.number(), length = high << 8 | in.number();
  test::Archive archive;
  archive.add("a/data.pkl", in.take(length));
  archive.add("a/data/0", std::string(in.rest));
  return archive.file();
}

void expect_inside(const MappedFile& file, const FileTensor& t) {
  expect(t.shape.size() == t.strides.size(), "a tensor has as many strides as dimensions");
  expect(t.data >= file.data() && t.data <= file.data() + file.size(), "a tensor begins in the file");
  if (t.count() == 0) return;
  unsigned __int128 last = 0;
  for (size_t i = 0; i < t.shape.size(); i++) last += static_cast<unsigned __int128>(t.shape[i] - 1) * uint64_t(t.strides[i]);
  expect((last + 1) * t.element() <= size_t(file.data() + file.size() - t.data), "a tensor ends in the file");
  expect(uint64_t(t.count()) <= file.size(), "a tensor has no more elements than the file has bytes");
}

}  // namespace

NEOX_FUZZ_TARGET(torch_file) {
  static const test::TempFolder folder;
  const std::string file = file_of(bytes), path = folder.path() + "/file.pt";
  folder.write("file.pt", file);

  accepted([&] {
    const MappedFile mapped(path);
    for (const TorchTensor& t : read_torch_file(mapped)) {
      expect(!t.name.empty(), "a tensor has a name");
      if (t.refusal.empty()) expect_inside(mapped, t.tensor);
    }
    TorchCheckpoint checkpoint(path);
    for (const std::string& name : checkpoint.names()) {
      const StoredTensor t = checkpoint.read(name);
      expect(t.shape == checkpoint.shape_of(name) && t.bytes <= 2 * file.size(), "a tensor is as large as it was said");
      const std::string values(static_cast<const char*>(t.data), t.bytes);  // all of it can be read
      expect(t.owner || file.find(values) != std::string::npos, "a view holds bytes of the file");
      expect(checkpoint.same(name, name), "a tensor is the same as itself");
      checkpoint.done_with(name);
    }
  });
}
