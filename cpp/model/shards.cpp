// SPDX-License-Identifier: Apache-2.0
#include "model/shards.h"

#include <set>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"

namespace neox {
namespace {

std::string index_of(const std::string& folder, const std::string& file) { return folder + "/" + file + ".index.json"; }

}  // namespace

bool has_weights(const std::string& folder, const std::string& file) {
  return file_exists(index_of(folder, file)) || file_exists(folder + "/" + file);
}

std::vector<std::string> weight_files(const std::string& folder, const std::string& file) {
  const std::string path = index_of(folder, file);
  if (!file_exists(path)) {
    if (!file_exists(folder + "/" + file))
      fail(ErrorKind::not_found, folder, " has no weights: expected ", file, ", or ", file, ".index.json and its shards");
    return {file};
  }
  const Json index = parse_json_object(read_text(path), path);
  require(index.contains("weight_map") && index["weight_map"].is_object(), path, " is not an index: it has no weight_map");
  std::set<std::string> shards;
  for (const auto& [name, value] : index["weight_map"].items()) {
    require(value.is_string(), path, ": the file of ", name, " is ", brief(value), ", expected a file name");
    const auto shard = value.get<std::string>();
    require(!shard.empty() && shard.find('/') == std::string::npos, path, ": the file of ", name, " is '", shard,
            "', expected a name in the same folder");
    shards.insert(shard);
  }
  return {shards.begin(), shards.end()};
}

}  // namespace neox
