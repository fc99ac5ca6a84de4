// SPDX-License-Identifier: Apache-2.0
#include "model/safetensors.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "base/check.h"
#include "base/json.h"

namespace neox {
namespace {

constexpr uint64_t kMaxHeader = 100 << 20;  // the format's own limit

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); i++) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + "]";
}

Json read_header(const MappedFile& file, uint64_t& length) {
  require(file.size() >= 8, file.path(), " holds ", file.size(), " bytes, expected at least the 8 of a safetensors header length");
  std::memcpy(&length, file.data(), 8);
  require(length <= kMaxHeader && length <= file.size() - 8, file.path(), ": the header length is ", length, ", expected at most ",
          std::min<uint64_t>(kMaxHeader, file.size() - 8), " (the file holds ", file.size(), " bytes)");
  return parse_json_object({file.data() + 8, size_t(length)}, file.path() + ": the header");
}

bool is_unsigned(const Json& v) { return v.is_number_unsigned() && v.get<uint64_t>() <= INT64_MAX; }

}  // namespace

void SafetensorsCheckpoint::open(const std::string& path) {
  files_.emplace_back(path);
  const MappedFile& file = files_.back();
  uint64_t length;
  const Json header = read_header(file, length);
  const char* base = file.data() + 8 + length;
  const uint64_t space = file.size() - 8 - length;
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [name, t] : header.items()) {
    if (name == "__metadata__") continue;
    const std::string where = path + ": " + name;
    require(t.is_object() && t.contains("dtype") && t.contains("shape") && t.contains("data_offsets"), where,
            " lacks dtype, shape or data_offsets");
    const Json &dtype = t["dtype"], &shape = t["shape"], &offsets = t["data_offsets"];
    require(shape.is_array() && std::all_of(shape.begin(), shape.end(), is_unsigned), where, ": shape is ", brief(shape),
            ", expected a list of sizes");
    require(offsets.is_array() && offsets.size() == 2 && is_unsigned(offsets[0]) && is_unsigned(offsets[1]), where, ": data_offsets are ",
            brief(offsets), ", expected [begin, end]");
    const auto begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
    require(begin <= end && end <= space, where, ": data_offsets are ", brief(offsets), ", but the file holds ", space,
            " bytes of data: is it truncated?");
    ranges.emplace_back(begin, end);
    Entry e{.file = files_.size() - 1, .dtype = DType::f32, .shape = {}, .data = base + begin, .bytes = end - begin};
    if (dtype == "F32") e.dtype = DType::f32;
    else if (dtype == "F16") e.dtype = DType::f16;
    else if (dtype == "BF16") e.dtype = DType::bf16;
    else {
      other_types_[name] = brief(dtype);  // masks and counters of old exports; a weight is refused when it is asked for
      continue;
    }
    unsigned __int128 bytes = size_of(e.dtype);
    for (const Json& n : shape) {
      e.shape.push_back(int64_t(n.get<uint64_t>()));
      bytes = std::min<unsigned __int128>(bytes * n.get<uint64_t>(), UINT64_MAX);
    }
    require(bytes == e.bytes, where, " has shape ", shape_text(e.shape), " in ", name_of(e.dtype), ", ", uint64_t(bytes),
            " bytes, but its data_offsets span ", e.bytes);
    require(tensors_.emplace(name, std::move(e)).second, where, " is also in another shard");
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); i++)
    require(ranges[i].first >= ranges[i - 1].second, path, ": two tensors overlap at byte ", ranges[i].first, " of the data");
}

void SafetensorsCheckpoint::read_index(const std::string& folder) {
  const std::string path = folder + "/model.safetensors.index.json";
  const Json index = parse_json_object(read_text(path), path);
  require(index.contains("weight_map") && index["weight_map"].is_object(), path, " is not an index: it has no weight_map");
  std::set<std::string> shards;
  for (const auto& [name, file] : index["weight_map"].items()) {
    require(file.is_string(), path, ": the file of ", name, " is ", brief(file), ", expected a file name");
    const auto shard = file.get<std::string>();
    require(!shard.empty() && shard.find('/') == std::string::npos, path, ": the file of ", name, " is '", shard,
            "', expected a name in the same folder");
    shards.insert(shard);
  }
  files_.reserve(shards.size());
  for (const std::string& shard : shards) open(folder + "/" + shard);
}

SafetensorsCheckpoint::SafetensorsCheckpoint(const std::string& folder) : folder_(folder) {
  if (file_exists(folder + "/model.safetensors.index.json")) read_index(folder);
  else if (file_exists(folder + "/model.safetensors")) open(folder + "/model.safetensors");
  else fail(ErrorKind::not_found, folder, " has no weights: expected model.safetensors, or model.safetensors.index.json and its shards");
}

const SafetensorsCheckpoint::Entry& SafetensorsCheckpoint::entry(const std::string& name) const {
  if (const auto other = other_types_.find(name); other != other_types_.end())
    fail(ErrorKind::invalid, folder_, ": ", name, " is of type ", other->second, ", expected F32, F16 or BF16");
  const auto found = tensors_.find(name);
  require(found != tensors_.end(), folder_, ": tensor ", name, " is missing");
  return found->second;
}

DType SafetensorsCheckpoint::dtype_of(const std::string& name) const { return entry(name).dtype; }

Tensor SafetensorsCheckpoint::get(const std::string& name, int64_t rows, int64_t cols) {
  const Entry& e = entry(name);
  const std::vector<int64_t> wanted = rows == 1 ? std::vector<int64_t>{cols} : std::vector<int64_t>{rows, cols};
  const bool same = e.shape == wanted || e.shape == std::vector<int64_t>{rows, cols};
  require(same, folder_, ": ", name, " is ", shape_text(e.shape), ", expected ", shape_text(wanted));
  return {.data = const_cast<char*>(e.data), .rows = rows, .cols = cols, .ld = cols, .dtype = e.dtype};
}

bool SafetensorsCheckpoint::same(const std::string& a, const std::string& b) const {
  const Entry &x = entry(a), &y = entry(b);
  return x.dtype == y.dtype && x.shape == y.shape && std::memcmp(x.data, y.data, x.bytes) == 0;
}

std::vector<std::string> SafetensorsCheckpoint::names() const {
  std::vector<std::string> out;
  for (const auto& [name, e] : tensors_) out.push_back(name);
  return out;
}

void SafetensorsCheckpoint::done_with(const std::string& name) {
  const Entry& e = entry(name);
  files_[e.file].forget(e.data, e.bytes);
}

}  // namespace neox
