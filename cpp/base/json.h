// SPDX-License-Identifier: Apache-2.0
// JSON from files that anyone may have written.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace neox {

using Json = nlohmann::json;

/// The JSON object that `text` is; `what` names it in messages ("m/config.json"). Throws Error(invalid) that says where it is not JSON, or
/// that it is something else, is nested deeper than any honest file, or names a key of its own twice, of which a parser would take one.
Json parse_json_object(std::string_view text, const std::string& what);

/// A value as it stands in the file, for a message: cut after 80 characters.
std::string brief(const Json& value);

}  // namespace neox
