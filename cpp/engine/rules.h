// SPDX-License-Identifier: Apache-2.0
// What a request makes of its logits before an id is drawn: penalties, biases, bans.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/args.h"
#include "neox/engine.h"

namespace neox {

/// Tokens of a sequence from here on are virtual: no rule and no text sees them. This one itself has its embedding, or its keys and values,
/// from elsewhere; kVirtual + 1 + k is row k of the tables of tuning tasks.
constexpr int32_t kVirtual = 1 << 30;
constexpr bool is_virtual(int32_t token) { return token >= kVirtual; }

/// The part that stays the same for all samples of a request and all their tokens.
struct Rules {
  Rules(const SamplingParams& params, const std::vector<int32_t>& eos, const Vocabulary& vocabulary);

  /// A text that is never completed.
  struct Word {
    std::string text;
    std::vector<std::vector<int32_t>> completed_by;  // [how many of its bytes stand already] -> ids; of 0: those that hold all of it
  };
  float repetition, presence, frequency;
  int32_t ngram, min_tokens;
  std::vector<Edit> bias;                     // by rising id
  std::vector<int32_t> allowed;               // empty = all
  std::vector<int32_t> ends;                  // EOS and stop ids
  std::vector<int32_t> banned;                // for good
  std::vector<std::vector<int32_t>> phrases;  // of two and more ids, that are never completed
  std::vector<Word> words;
  const Vocabulary& vocabulary;

  bool penalise() const { return repetition != 1 || presence != 0 || frequency != 0; }
  /// Whether the next draw depends on the tokens so far, not on their number alone.
  bool need_tokens() const { return penalise() || ngram > 0 || !phrases.empty() || !words.empty(); }
  /// Words of the step's block of edits that a draw may take at most, for a sequence of so many tokens.
  int64_t most_words(int32_t length, int32_t vocab) const;
};

/// What the last tokens say: at least so many bytes of it, or all.
std::string tail_of(std::span<const int32_t> tokens, size_t bytes, const Vocabulary& vocabulary);

/// The part that grows with one sample. Copied where samples branch off.
class Processors {
 public:
  Processors() = default;                                                           // of a sequence that draws nothing
  Processors(std::shared_ptr<const Rules> rules, std::span<const int32_t> prompt);  // virtual tokens among them are skipped

  bool need_tokens() const { return rules_ && rules_->need_tokens(); }
  /// A token was generated.
  void see(int32_t id);
  /// Makes ready for the draw that follows `tokens`, the last `generated` of which are new. Returns how many words of the step's block its
  /// edits take; 0 = it draws from the logits as they are.
  int32_t prepare(std::span<const int32_t> tokens, int32_t generated);

  const std::vector<Edit>& edits() const { return rules_->penalise() ? seen_ : rules_->bias; }
  const std::vector<int32_t>& allowed() const { return rules_->allowed; }
  const std::vector<int32_t>& bans() const { return bans_; }  // as of prepare

 private:
  Edit& entry(int32_t id);
  void ban_ngrams(std::span<const int32_t> tokens);
  void ban_words(std::span<const int32_t> tokens);

  std::shared_ptr<const Rules> rules_;
  std::vector<Edit> seen_;       // with penalties: of every id that has a bias or was seen, by rising id
  std::vector<int32_t> counts_;  // [seen_] how often it was generated
  std::vector<int32_t> bans_;
};

}  // namespace neox
