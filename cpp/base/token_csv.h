// SPDX-License-Identifier: Apache-2.0
// FasterTransformer's start_ids.csv: one request a line, its token ids separated by commas; white space around an id is ignored.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace neox {

/// Every line has at least one id; empty lines may only follow the last request. Errors name file, line and field.
std::vector<std::vector<int32_t>> read_token_csv(const std::string& file);
std::vector<std::vector<int32_t>> parse_token_csv(std::string_view text, const std::string& file);

}  // namespace neox
