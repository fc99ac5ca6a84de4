// SPDX-License-Identifier: Apache-2.0
// Bytes: an ini of gptneox_example. Whatever is accepted is a job that the engine would not refuse for its numbers.
#include "example_job.h"

#include <cmath>

#include "base/json.h"
#include "fuzz.h"

using namespace neox;
using namespace neox::fuzz;

static void expect_ranges(const Job& job) {
  const SamplingParams& p = job.sampling;
  expect(p.max_tokens >= 1 && p.min_tokens >= 0 && p.min_tokens <= p.max_tokens, "lengths are in order");
  expect(p.beam_width >= 1 && p.beam_width <= 64 && p.n == p.beam_width, "the width is one that a search may have");
  expect(p.top_k >= 0 && p.top_p > 0 && p.top_p <= 1, "filters are in their ranges");
  expect(p.temperature == 0 || (p.temperature >= 0.001f && p.temperature <= 1000), "the temperature is in its range");
  expect(p.repetition_penalty > 0 && p.repetition_penalty <= 100 && std::fabs(p.presence_penalty) <= 2, "penalties are in their ranges");
  expect(std::fabs(p.length_penalty) <= 100 && std::isfinite(p.beam_search_diversity_rate), "beam search's numbers are in their ranges");
  expect(p.top_p_decay > 0 && p.top_p_decay <= 1 && p.top_p_min > 0 && p.top_p_min <= 1 && p.top_p_reset_id >= -1, "so are the decay's");
  expect(job.end_id >= 0 && job.batch_size >= 0 && !job.start_ids.empty(), "so is what the batch is made of");
  const EngineConfig& c = job.engine;
  expect(c.tensor_parallel_size >= 1 && c.pipeline_parallel_size >= 1 && c.max_num_seqs >= p.beam_width, "so are the engine's");
}

NEOX_FUZZ_TARGET(example_job) {
  for (const int world : {1, 6})
    accepted([&] {
      const Ini ini = Ini::parse(bytes, "fuzz.ini");
      const Job job = read_job(ini, world);
      expect_ranges(job);
      const EngineConfig& c = job.engine;
      expect(world == 1 || c.tensor_parallel_size * c.pipeline_parallel_size == world, "under mpirun the ranks are the world");
      if (c.load_format == "dummy") parse_json_object(config_json(ini, job, 2048), "config.json");
    });
}
