// SPDX-License-Identifier: Apache-2.0
// Bytes: a bad_words.csv.
#include "base/token_csv.h"

#include "fuzz.h"

using namespace neox;
using namespace neox::fuzz;

NEOX_FUZZ_TARGET(phrase_csv) {
  std::vector<std::vector<int32_t>> phrases;
  if (!accepted([&] { phrases = parse_phrase_csv(bytes, "fuzz.csv"); })) return;
  std::string ids, ends;
  size_t end = 0;
  for (const auto& phrase : phrases) {
    expect(!phrase.empty(), "a phrase has an id");
    for (size_t i = 0; i < phrase.size(); i++) {
      expect(phrase[i] >= 0, "an id is not negative");
      ids += std::to_string(phrase[i]) + ",";
    }
    end += phrase.size();
    ends += std::to_string(end) + ",";
  }
  for (size_t i = phrases.size(); i < end; i++) ends += "-1,";
  if (phrases.empty()) ids = "0,", ends = "-1,";
  ids.back() = ends.back() = '\n';
  expect(parse_phrase_csv(ids + ends, "written.csv") == phrases, "what was read and written again reads the same");
}
