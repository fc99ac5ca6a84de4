// SPDX-License-Identifier: Apache-2.0
#include "engine/soft_prompts.h"

#include <algorithm>
#include <cstring>
#include <string_view>

namespace neox {

SoftPrompts::Kept SoftPrompts::keep(std::span<const float> rows, int64_t before) {
  const uint64_t digest = std::hash<std::string_view>()({reinterpret_cast<const char*>(rows.data()), rows.size_bytes()});
  const auto same = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& k) {
    return k.digest == digest && k.before == before && k.rows->size() == rows.size() &&
           std::memcmp(k.rows->data(), rows.data(), rows.size_bytes()) == 0;
  });
  if (same != kept_.end()) {
    kept_.splice(kept_.begin(), kept_, same);
    return kept_.front();
  }
  kept_.push_front({.before = before,
                    .digest = digest,
                    .rows = std::make_shared<const std::vector<float>>(rows.begin(), rows.end()),
                    .name = --last_name_});
  for (bytes_ += rows.size_bytes(); bytes_ > kBytes && kept_.size() > 1; kept_.pop_back())
    bytes_ -= kept_.back().rows->size() * sizeof(float);
  return kept_.front();
}

}  // namespace neox
