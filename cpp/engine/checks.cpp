// SPDX-License-Identifier: Apache-2.0
#include "engine/checks.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "base/check.h"
#include "base/file.h"
#include "neox/checkpoint.h"

namespace neox {
namespace {

namespace fs = std::filesystem;

uint64_t digest(uint64_t h, const char* data, size_t bytes) {  // FNV-1a, eight bytes at a time
  for (; bytes >= 8; data += 8, bytes -= 8) {
    uint64_t word;
    std::memcpy(&word, data, 8);
    h = (h ^ word) * 0x100000001b3;
    h ^= h >> 29;
  }
  for (; bytes > 0; data++, bytes--) h = (h ^ static_cast<unsigned char>(*data)) * 0x100000001b3;
  return h;
}

/// Of a small file all, of a large one its beginning, which is a checkpoint's header, and 64 KiB at 16 places.
uint64_t digest_of(const std::string& path) {
  const MappedFile file(path);
  constexpr size_t kPiece = 65536, kPlaces = 16;
  uint64_t h = 0xcbf29ce484222325 ^ file.size();
  if (file.size() <= kPiece * kPlaces) return digest(h, file.data(), file.size());
  uint64_t header = 0;
  if (path.ends_with(".safetensors")) std::memcpy(&header, file.data(), sizeof header);
  h = digest(h, file.data(), std::min<size_t>(file.size(), std::max<size_t>(kPiece, 8 + std::min<uint64_t>(header, size_t(100) << 20))));
  for (size_t i = 0; i < kPlaces; i++) h = digest(h, file.data() + (file.size() - kPiece) * i / (kPlaces - 1), kPiece);
  return h;
}

bool is_read(const std::string& file, const EngineConfig& c) {
  if (file == "config.json" || file == "config.ini" || file == "generation_config.json") return true;
  return c.load_format != "dummy" && (file.ends_with(".safetensors") || file.ends_with(".bin") || file.ends_with("-model_states.pt"));
}

}  // namespace

std::string what_ranks_share(const EngineConfig& c) {
  std::ostringstream s;
  s << "version: " << version() << "\ntensor_parallel_size: " << c.tensor_parallel_size
    << "\npipeline_parallel_size: " << c.pipeline_parallel_size << "\ncomm_timeout: " << c.comm_timeout
    << "\nload_format: " << c.load_format << "\ndtype: " << c.dtype << "\ndevice: " << c.device << "\nquantization: " << c.quantization
    << ' ' << c.quantization_group_size << "\nkv_cache_dtype: " << c.kv_cache_dtype << "\nblock_size: " << c.block_size
    << "\nmax_model_len: " << c.max_model_len << "\nmax_num_seqs: " << c.max_num_seqs
    << "\nmax_num_batched_tokens: " << c.max_num_batched_tokens << "\nmax_logprobs: " << c.max_logprobs << "\nattention: " << c.attention
    << ' ' << c.unfused_scores << "\ndeterministic: " << c.deterministic << "\ncustom_all_reduce: " << c.custom_all_reduce
    << "\ngemm_config: " << c.gemm_config << '\n';
  s << "prompt_learning_start_id: " << c.prompt_learning.start_id << '\n';
  for (const PromptTask& t : c.prompt_learning.tasks)
    s << "prompt_learning task " << t.name << ": type " << int(t.type) << ", length " << t.length << ", " << t.folder << ' ' << t.file_dtype
      << ", digest " << std::hex << digest(0, reinterpret_cast<const char*>(t.values.data()), t.values.size() * sizeof(float)) << std::dec
      << '\n';
  if (!c.model_config.empty()) s << "model_config: " << c.model_config << '\n';
  std::vector<fs::path> folders{c.model};
  if (const std::string step = training_step(c.model); !step.empty() && step != c.model) folders.emplace_back(step);
  std::vector<fs::path> files;
  for (const fs::path& folder : folders)
    for (const auto& entry : fs::directory_iterator(folder))
      if (is_read(entry.path().filename().string(), c)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files)
    s << file.lexically_relative(c.model).string() << ": digest " << std::hex << digest_of(file.string()) << std::dec << '\n';
  return s.str();
}

}  // namespace neox
