// SPDX-License-Identifier: Apache-2.0
// Bytes: a start_ids.csv.
#include "base/token_csv.h"

#include "fuzz.h"

using namespace neox;
using namespace neox::fuzz;

NEOX_FUZZ_TARGET(token_csv) {
  std::vector<std::vector<int32_t>> rows;
  if (!accepted([&] { rows = parse_token_csv(bytes, "fuzz.csv"); })) return;
  expect(!rows.empty(), "there is a request");
  std::string written;
  for (const auto& row : rows) {
    expect(!row.empty(), "a request has an id");
    for (const int32_t id : row) {
      expect(id >= 0, "an id is not negative");
      written += std::to_string(id) + ",";
    }
    written.back() = '\n';
  }
  expect(parse_token_csv(written, "written.csv") == rows, "what was read and written again reads the same");
}
