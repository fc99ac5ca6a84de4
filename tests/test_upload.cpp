// SPDX-License-Identifier: Apache-2.0
// Bytes on their way to a backend: uploads of any size, from memory and from mapped files, and the pieces that threads share.
#include <algorithm>
#include <atomic>

#include "base/file.h"
#include "base/pieces.h"
#include "harness.h"
#include "temp_folder.h"

namespace neox::test {
namespace {

constexpr size_t kMiB = size_t(1) << 20;

std::string some_bytes(size_t n, uint32_t seed) {
  std::string bytes(n, '\0');
  uint32_t state = seed;
  for (char& c : bytes) state = state * 1664525 + 1013904223, c = char(state >> 24);
  return bytes;
}

std::string downloaded(Backend& backend, const void* from, size_t n) {
  std::string bytes(n, '\0');
  backend.download(bytes.data(), from, n);
  backend.synchronize();
  return bytes;
}

}  // namespace

NEOX_OP_TEST(Upload);

TEST_P(Upload, OfAnySizeIsWholeAndItsSourceMayChangeAtOnce) {
  for (size_t n : {size_t(1), kMiB + 3, 8 * kMiB - 1, 8 * kMiB, 8 * kMiB + 1, 40 * kMiB + 13}) {
    SCOPED_TRACE(n);
    const std::string values = some_bytes(n, uint32_t(n));
    const Buffer memory(*backend_, n);
    std::string source = values;
    backend_->upload(memory.data(), source.data(), n);
    std::fill(source.begin(), source.end(), 'x');
    EXPECT_TRUE(downloaded(*backend_, memory.data(), n) == values);
  }
}

TEST_P(Upload, LargeAndSmallOnesAreInOrder) {
  const size_t n = 24 * kMiB;
  const std::string first = some_bytes(n, 1), second = some_bytes(n, 2), small = some_bytes(1000, 3);
  const Buffer memory(*backend_, n);
  backend_->upload(memory.data(), first.data(), n);
  backend_->upload(memory.data(), second.data(), n);
  backend_->upload(memory.data<char>() + 5 * kMiB, small.data(), small.size());
  std::string want = second;
  want.replace(5 * kMiB, small.size(), small);
  EXPECT_TRUE(downloaded(*backend_, memory.data(), n) == want);
}

TEST_P(Upload, OfAMappedFileThatIsNotInMemoryIsWhole) {
  const TempFolder folder;
  const std::string values = some_bytes(17 * kMiB + 5, 4);
  folder.write("values", values);
  const MappedFile file(folder.path() + "/values");
  const size_t skipped = 777, n = values.size() - skipped;
  const Buffer memory(*backend_, n);
  for (int i = 0; i < 2; i++) {
    file.forget(file.data(), file.size());
    backend_->upload(memory.data(), file.data() + skipped, n);
    EXPECT_TRUE(downloaded(*backend_, memory.data(), n) == values.substr(skipped));
  }
}

TEST(Fetch, BringsAFileAndLeavesOtherMemoryAlone) {
  const TempFolder folder;
  const std::string values = some_bytes(300'001, 5);
  folder.write("values", values);
  const MappedFile file(folder.path() + "/values");
  fetch(file.data() + 1, file.size() - 1);
  EXPECT_TRUE(std::string(file.data(), file.size()) == values);
  const std::string copy = values;
  fetch(copy.data(), copy.size());
  EXPECT_TRUE(copy == values);
  fetch(copy.data(), 0);
}

TEST(Pieces, CoverTheWholeOnceWhateverTheNumberOfThreads) {
  for (int threads : {1, 2, 9})
    for (int64_t count : {0, 1, 7, 100, 101}) {
      std::vector<std::atomic<int>> times(static_cast<size_t>(count));
      std::atomic<bool> fits{true};
      in_pieces(count, 10, threads, [&](int thread, int64_t begin, int64_t end) {
        if (thread < 0 || thread >= threads || begin % 10 != 0 || end - begin > 10) fits = false;
        for (int64_t i = begin; i < end; i++) times[size_t(i)]++;
      });
      EXPECT_TRUE(fits);
      for (const auto& n : times) EXPECT_EQ(n, 1);
    }
}

TEST(Pieces, ThrowWhatOneOfThemThrewOnceAllHaveEnded) {
  std::atomic<int> inside{0};
  EXPECT_THROW(in_pieces(1000, 1, 4,
                         [&](int, int64_t begin, int64_t) {
                           inside++;
                           const bool bad = begin == 13;
                           inside--;
                           if (bad) throw std::out_of_range("13");
                         }),
               std::out_of_range);
  EXPECT_EQ(inside, 0);
}

}  // namespace neox::test
