// SPDX-License-Identifier: Apache-2.0
// The fuzz targets without a fuzzer: every seed, and a few thousand random changes of it.
#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "base/file.h"
#include "fuzz/fuzz.h"

namespace neox::test {
namespace {

class FuzzTarget : public testing::TestWithParam<std::string> {
 protected:
  /// name -> bytes
  std::map<std::string, std::string> seeds() const {
    std::map<std::string, std::string> out;
    for (const auto& file : std::filesystem::directory_iterator(std::filesystem::path(NEOX_FUZZ_CORPUS) / GetParam()))
      out[file.path().filename()] = read_text(file.path());
    return out;
  }
  void run(const std::string& bytes) const { fuzz::targets().at(GetParam())(bytes); }
};

std::string changed(std::string bytes, std::mt19937& random) {
  const auto below = [&](size_t n) { return size_t(random() % n); };
  for (size_t changes = 1 + below(4); changes > 0 && !bytes.empty(); changes--) {
    const size_t at = below(bytes.size());
    switch (below(5)) {
      case 0: bytes[at] = char(random()); break;
      case 1: bytes[at] ^= char(1 << below(8)); break;
      case 2: bytes.erase(at, 1 + below(8)); break;
      case 3: bytes.insert(at, bytes.substr(below(bytes.size()), 1 + below(16))); break;
      default: bytes.resize(at);
    }
  }
  return bytes;
}

std::vector<std::string> target_names() {
  std::vector<std::string> out;
  for (const auto& [name, target] : fuzz::targets()) out.push_back(name);
  return out;
}

TEST_P(FuzzTarget, HoldsItsPropertiesForEverySeedAndForRandomChangesOfIt) {
  const auto all = seeds();
  EXPECT_GE(all.size(), 2u);
  for (const auto& [name, bytes] : all) {
    SCOPED_TRACE(name);
    ASSERT_NO_THROW(run(bytes));
    for (uint32_t seed = 0; seed < 500; seed++) {
      std::mt19937 random(seed);
      ASSERT_NO_THROW(run(changed(bytes, random))) << "change " << seed;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Of, FuzzTarget, testing::ValuesIn(target_names()), [](const auto& info) { return info.param; });

}  // namespace
}  // namespace neox::test
