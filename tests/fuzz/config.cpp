// SPDX-License-Identifier: Apache-2.0
// Bytes: a config.json, and behind a NUL a generation_config.json.
#include "model/config.h"

#include "fuzz.h"
#include "temp_folder.h"

using namespace neox;
using namespace neox::fuzz;

NEOX_FUZZ_TARGET(config) {
  static const test::TempFolder folder;
  Reader in{bytes};
  const bool both = bytes.find('\0') != std::string_view::npos;
  folder.write("config.json", in.until('\0'));
  if (both) folder.write("generation_config.json", in.rest);
  else folder.remove("generation_config.json");

  accepted([&] {
    const ModelConfig c = read_model_config(folder.path());
    expect(c.num_hidden_layers > 0 && c.intermediate_size > 0 && c.vocab_size > 0 && c.max_position_embeddings > 0, "sizes are positive");
    expect(c.num_attention_heads > 0 && c.head_dim() * c.num_attention_heads == c.hidden_size, "heads share the hidden size");
    expect(c.head_dim() >= 8 && c.head_dim() <= 256 && c.head_dim() % 8 == 0, "the head size is one that kernels take");
    expect(c.rotary_dim >= 0 && 2 * c.rotary_half() <= c.head_dim(), "what is rotated is within a head");
    expect(c.rotary_base > 1 && c.layer_norm_eps > 0, "the rotary base and epsilon are of use");
    for (const int32_t id : c.eos_token_ids) expect(id >= 0 && id < c.vocab_size, "an EOS id is in the vocabulary");
  });
}
