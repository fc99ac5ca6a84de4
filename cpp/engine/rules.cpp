// SPDX-License-Identifier: Apache-2.0
#include "engine/rules.h"

#include <algorithm>

namespace neox {
namespace {

constexpr int32_t kEditWords = sizeof(Edit) / sizeof(int32_t);

Rules::Word make_word(const std::string& text, const Vocabulary& vocabulary) {
  Rules::Word word{.text = text, .completed_by = std::vector<std::vector<int32_t>>(text.size())};
  for (size_t id = 0; id < vocabulary.bytes.size(); id++) {
    const std::string& bytes = vocabulary.bytes[id];
    if (bytes.find(text) != std::string::npos) word.completed_by[0].push_back(int32_t(id));
    for (size_t k = text.size() - std::min(bytes.size(), text.size() - 1); k < text.size(); k++)
      if (bytes.compare(0, text.size() - k, text, k) == 0) word.completed_by[k].push_back(int32_t(id));
  }
  return word;
}

}  // namespace

Rules::Rules(const SamplingParams& p, const std::vector<int32_t>& eos, const Vocabulary& v)
    : repetition(p.repetition_penalty), presence(p.presence_penalty), frequency(p.frequency_penalty), ngram(p.no_repeat_ngram_size),
      min_tokens(p.min_tokens), allowed(p.allowed_token_ids), vocabulary(v) {
  for (const auto& [id, value] : p.logit_bias) bias.push_back({.id = id, .bias = value});
  std::sort(bias.begin(), bias.end(), [](const Edit& a, const Edit& b) { return a.id < b.id; });
  if (!p.ignore_eos) ends = eos;
  ends.insert(ends.end(), p.stop_token_ids.begin(), p.stop_token_ids.end());
  for (const auto& phrase : p.bad_words_ids) {
    if (phrase.size() == 1) banned.push_back(phrase[0]);
    else phrases.push_back(phrase);
  }
  for (const std::string& text : p.bad_words) words.push_back(make_word(text, v));
}

int64_t Rules::most_words(int32_t length, int32_t vocab) const {
  int64_t bans = int64_t(ends.size() + banned.size() + phrases.size()) + (ngram > 0 ? length : 0);
  for (const Word& word : words)
    for (const auto& ids : word.completed_by) bans += int64_t(ids.size());
  const int64_t edits = int64_t(bias.size()) + (penalise() ? std::min(length, vocab) : 0);
  return kEditWords * (edits + 1) + int64_t(allowed.size()) + bans;
}

Processors::Processors(std::shared_ptr<const Rules> rules, std::span<const int32_t> prompt) : rules_(std::move(rules)) {
  if (!rules_->penalise()) return;
  std::vector<int32_t> ids(prompt.begin(), prompt.end());
  std::erase_if(ids, is_virtual);
  const std::vector<int32_t> real = ids;
  for (const Edit& edit : rules_->bias) ids.push_back(edit.id);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  for (int32_t id : ids) seen_.push_back({.id = id});
  counts_.resize(seen_.size());
  for (const Edit& edit : rules_->bias) entry(edit.id).bias = edit.bias;
  for (int32_t id : real) entry(id).factor = rules_->repetition;
}

Edit& Processors::entry(int32_t id) {
  const auto at = std::lower_bound(seen_.begin(), seen_.end(), id, [](const Edit& edit, int32_t x) { return edit.id < x; });
  if (at != seen_.end() && at->id == id) return *at;
  counts_.insert(counts_.begin() + (at - seen_.begin()), 0);
  return *seen_.insert(at, {.id = id});
}

void Processors::see(int32_t id) {
  if (!rules_ || !rules_->penalise()) return;
  Edit& edit = entry(id);
  const int32_t count = ++counts_[size_t(&edit - seen_.data())];
  edit.factor = rules_->repetition;
  edit.offset = -(rules_->presence + rules_->frequency * float(count));
}

/// Ids that would make the last tokens a run that was there before.
void Processors::ban_ngrams(std::span<const int32_t> tokens) {
  const auto n = size_t(rules_->ngram);
  if (n == 0 || tokens.size() < n) return;
  const auto last = tokens.last(n - 1);
  if (std::any_of(last.begin(), last.end(), is_virtual)) return;
  for (auto at = tokens.begin(); size_t(tokens.end() - at) >= n; ++at)
    if (std::equal(last.begin(), last.end(), at) && !is_virtual(at[ptrdiff_t(n) - 1])) bans_.push_back(at[ptrdiff_t(n) - 1]);
}

std::string tail_of(std::span<const int32_t> tokens, size_t bytes, const Vocabulary& vocabulary) {
  std::string tail;  // from back to front
  for (auto t = tokens.rbegin(); t != tokens.rend() && tail.size() < bytes; ++t)
    if (size_t(*t) < vocabulary.bytes.size()) tail.append(vocabulary.bytes[size_t(*t)].rbegin(), vocabulary.bytes[size_t(*t)].rend());
  std::reverse(tail.begin(), tail.end());
  return tail;
}

void Processors::ban_words(std::span<const int32_t> tokens) {
  size_t longest = 0;
  for (const auto& word : rules_->words) longest = std::max(longest, word.text.size() - 1);
  const std::string tail = tail_of(tokens, longest, rules_->vocabulary);
  for (const auto& word : rules_->words)
    for (size_t k = 0; k < word.text.size() && k <= tail.size(); k++)
      if (tail.compare(tail.size() - k, k, word.text, 0, k) == 0)
        bans_.insert(bans_.end(), word.completed_by[k].begin(), word.completed_by[k].end());
}

int32_t Processors::prepare(std::span<const int32_t> tokens, int32_t generated) {
  if (!rules_) return 0;
  bans_ = rules_->banned;
  if (generated < rules_->min_tokens) bans_.insert(bans_.end(), rules_->ends.begin(), rules_->ends.end());
  if (rules_->need_tokens()) {
    ban_ngrams(tokens);
    for (const auto& phrase : rules_->phrases)
      if (tokens.size() >= phrase.size() - 1 && std::equal(phrase.begin(), phrase.end() - 1, tokens.end() - (ptrdiff_t(phrase.size()) - 1)))
        bans_.push_back(phrase.back());
    if (!rules_->words.empty()) ban_words(tokens);
  }
  const size_t ids = bans_.size() + allowed().size();
  if (ids + edits().size() == 0) return 0;
  return kEditWords * int32_t(edits().size() + 1) + int32_t(ids);  // one more for where edits begin
}

}  // namespace neox
