// SPDX-License-Identifier: Apache-2.0
// FasterTransformer's csv files of token ids: numbers separated by commas; white space around one is ignored. Errors name file, line and
// field.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace neox {

/// start_ids.csv: one request a line. Every line has at least one id; empty lines may only follow the last request.
std::vector<std::vector<int32_t>> read_token_csv(const std::string& file);
std::vector<std::vector<int32_t>> parse_token_csv(std::string_view text, const std::string& file);

/// bad_words.csv and stop_words.csv: two lines of equally many numbers. The first has the ids of all phrases, one behind the other, the
/// second where each phrase ends, filled up with -1: "287, 4346, 12" and "3, -1, -1" are one phrase of three ids. Ids past the last end
/// are filling.
std::vector<std::vector<int32_t>> read_phrase_csv(const std::string& file);
std::vector<std::vector<int32_t>> parse_phrase_csv(std::string_view text, const std::string& file);

}  // namespace neox
