// SPDX-License-Identifier: Apache-2.0
#include "model/safetensors.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/json.h"
#include "model/shards.h"

namespace neox {
namespace {

constexpr uint64_t kMaxHeader = 100 << 20;  // the format's own limit

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
  const MappedFile& file = map(path);
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
    FileTensor tensor{.file = &file, .data = base + begin};
    if (dtype == "F32") tensor.dtype = DType::f32;
    else if (dtype == "F16") tensor.dtype = DType::f16;
    else if (dtype == "BF16") tensor.dtype = DType::bf16;
    else if (dtype == "I8") tensor.dtype = DType::i8;
    else if (dtype == "I32" && name.ends_with("_packed")) tensor.dtype = DType::i4;  // eight in a word
    else {
      refuse(name, "is of type " + brief(dtype) + ", expected F32, F16 or BF16");
      continue;
    }
    unsigned __int128 bytes = tensor.dtype == DType::i4 ? 4 : size_of(tensor.dtype);
    for (const Json& n : shape) {
      tensor.shape.push_back(int64_t(n.get<uint64_t>()));
      bytes = std::min<unsigned __int128>(bytes * n.get<uint64_t>(), UINT64_MAX);
    }
    require(bytes == end - begin, where, " has shape ", shape_text(tensor.shape), " in ", name_of(tensor.dtype), ", ", uint64_t(bytes),
            " bytes, but its data_offsets span ", end - begin);
    if (tensor.dtype == DType::i4 && !tensor.shape.empty()) tensor.shape.back() *= 8;
    tensor.strides = row_major(tensor.shape);
    require(add(name, std::move(tensor)), where, " is also in another shard");
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); i++)
    require(ranges[i].first >= ranges[i - 1].second, path, ": two tensors overlap at byte ", ranges[i].first, " of the data");
}

SafetensorsCheckpoint::SafetensorsCheckpoint(const std::string& path) : StoredCheckpoint(path) {
  if (!is_folder(path)) open(path);
  else
    for (const std::string& file : weight_files(path, "model.safetensors")) open(path + "/" + file);
}

}  // namespace neox
