// SPDX-License-Identifier: Apache-2.0
// Bytes: the number of stop strings (0 to 3), each one's length and bytes, then tokens, each as its length (0 to 7) and bytes.
#include "engine/text.h"

#include "fuzz.h"

using namespace neox;
using namespace neox::fuzz;

static void expect_whole_characters(const std::string& text) {
  std::string bytes = text;
  expect(take_characters(bytes, false) == text && bytes.empty(), "text is whole characters, and stays as it is");
}

static std::string cut(const std::vector<std::string>& tokens) {
  std::string held, text, whole;
  for (const std::string& token : tokens) {
    held += token, whole += token;
    text += take_characters(held, false);
    expect(held.size() < 4, "only the beginning of one character is held back");
  }
  text += take_characters(held, true);
  expect(held.empty(), "nothing is held back at the end");
  expect_whole_characters(text);
  expect(text == take_characters(whole, true), "pieces join to what one call gives");
  return text;
}

/// As the engine does it: text goes out unless it may become a stop string.
static void stop(const std::vector<std::string>& tokens, const std::vector<std::string>& strings) {
  std::string held, sent, whole;
  StopMatch match, in_whole;
  for (const std::string& token : tokens) {
    held += token, whole += token;
    const bool found = find_stop(held, strings, match);
    expect(found == find_stop(whole, strings, in_whole), "what is held back is enough to see a stop string complete");
    if (found) {
      expect(sent.size() + match.begin == in_whole.begin && match.which == in_whole.which, "it is the one that all of the text holds");
      expect(held.compare(match.begin, match.end - match.begin, strings[match.which]) == 0, "a match is the string");
      return;
    }
    const size_t keep = possible_stop(held, strings);
    expect(keep <= held.size(), "no more is held back than there is");
    sent += held.substr(0, held.size() - keep);
    held.erase(0, held.size() - keep);
  }
}

NEOX_FUZZ_TARGET(text) {
  Reader in{bytes};
  std::vector<std::string> strings(in.number() % 4), tokens;
  for (std::string& s : strings) s = in.take(1 + in.number() % 15);
  std::erase(strings, "");  // the engine refuses those
  while (!in.rest.empty()) tokens.push_back(in.take(in.number() % 8));
  cut(tokens);
  stop(tokens, strings);
}
