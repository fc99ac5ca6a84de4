// SPDX-License-Identifier: Apache-2.0
// The engine in a C++ program: embed FOLDER ID... continues the prompt twice, one of them until it is cancelled after four tokens.
#include <neox/engine.h>

#include <cstdio>
#include <cstdlib>
#include <map>

int main(int argc, char** argv) try {
  if (argc < 3) return std::fprintf(stderr, "usage: embed FOLDER ID...\n"), 2;
  std::vector<int32_t> prompt;
  for (int i = 2; i < argc; ++i) prompt.push_back(std::atoi(argv[i]));

  neox::Engine engine({.model = argv[1], .max_num_seqs = 2});
  std::printf("%d layers on %s\n", engine.info().layers, engine.info().device_detail.c_str());

  const neox::SamplingParams greedy{.max_tokens = 12, .temperature = 0, .ignore_eos = true};
  std::map<uint64_t, std::vector<int32_t>> answers;
  const uint64_t whole = engine.submit(prompt, greedy);
  const uint64_t cut = engine.submit(prompt, greedy);
  while (engine.has_work()) {
    for (const neox::Delta& delta : engine.step()) {
      auto& ids = answers[delta.request_id];
      ids.insert(ids.end(), delta.token_ids.begin(), delta.token_ids.end());
      if (delta.request_id == cut && ids.size() == 4) engine.cancel(cut);  // from the next step on
      if (delta.finish == neox::FinishReason::error) throw neox::Error(delta.error_kind, delta.error);
      if (delta.finish == neox::FinishReason::cancelled) std::printf("cancelled after %zu tokens\n", ids.size());
    }
  }
  for (int32_t id : answers[whole]) std::printf("%d ", id);

  try {
    engine.submit(prompt, {.max_tokens = -1});  // refused by itself: the engine goes on
  } catch (const neox::Error& e) { std::printf("\n%s: %s\n", e.kind == neox::ErrorKind::invalid ? "invalid" : "other", e.what()); }
  return 0;
} catch (const neox::Error& e) {  // a folder that is not there, a model that is refused, memory that does not suffice
  return std::fprintf(stderr, "embed: %s\n", e.what()), 1;
}
