// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

namespace neox {

/// A sequence's pages, in order of position, and how far they are findable.
struct BlockTable {
  std::vector<int32_t> blocks;
  int32_t published = 0;  // the first pages, that are in the prefix cache (as themselves, or as an equal page of another owner), or pinned
  int64_t prefix = 0;     // names the tokens of the published pages
  int32_t pinned = 0;     // the first pages, that hold a task's prefix and no tokens
  int64_t root = 0;  // names these, and all that the tokens do not tell; `prefix` where nothing else is published. 0 = nothing, else < 0

  int32_t size() const { return int32_t(blocks.size()); }
};

/// Who owns which page of the KV cache, and which pages hold a known prefix. Pure host arithmetic; the memory is KvCache's.
///
/// A page is free, or owned by one or more tables. A whole page whose content is known to be good may be published: it is then found by its
/// tokens and all that stand before them, and stays findable when its owners are gone, until the page is needed. Equal hashes are not
/// trusted: a hit compares the tokens.
class BlockPool {
 public:
  BlockPool(int32_t blocks, int32_t block_size, bool prefix_caching);

  int32_t size() const { return int32_t(pages_.size()); }
  int32_t block_size() const { return block_size_; }
  int32_t blocks_for(int32_t positions) const { return (positions + block_size_ - 1) / block_size_; }
  /// Pages that nobody owns, findable or not.
  int32_t available() const { return int32_t(unused_.size()); }
  int32_t owners(int32_t block) const { return pages_[size_t(block)].owners; }

  /// Grows a table to `blocks` pages; false, and no change, if too few are available.
  bool grow(BlockTable& table, int32_t blocks);
  /// Gives up all pages of a table and empties it.
  void release(BlockTable& table);
  /// A second owner of the table's first `blocks` pages.
  BlockTable share(const BlockTable& table, int32_t blocks);
  /// Another owner of one page, at the end of a table.
  void own(BlockTable& table, int32_t block);
  /// For good: tables of so many positions each, one after another, in a pool that nobody has used.
  std::vector<BlockTable> pin(std::span<const int32_t> positions);
  /// The beginning of a table: the whole pages of the first `positions` of a pinned one. root: see BlockTable.
  BlockTable begin(const BlockTable& pinned, int32_t positions, int64_t root);
  /// Adds to a table that has but its beginning the longest run of findable pages that hold the first of `tokens`; returns the positions
  /// of all its pages.
  int32_t match(BlockTable& table, std::span<const int32_t> tokens);
  /// Makes the whole pages among the first `positions` findable.
  void publish(BlockTable& table, std::span<const int32_t> tokens, int32_t positions);

 private:
  struct Page {
    int32_t owners = 0;
    int64_t prefix = 0;  // 0 = not findable
    int64_t parent = 0;  // prefix of the page before it
    std::vector<int32_t> tokens;
    std::list<int32_t>::iterator unused;  // its place there, without owners
  };
  int32_t take();
  int32_t lookup(int64_t parent, std::span<const int32_t> tokens) const;  // -1 = none
  void forget(Page& page, int32_t block);
  static size_t hash(int64_t parent, std::span<const int32_t> tokens);

  const int32_t block_size_;
  const bool prefix_caching_;
  std::vector<Page> pages_;
  std::list<int32_t> unused_;  // in the order of reuse: pages that nobody can find, then the findable ones, longest unused first
  std::unordered_multimap<size_t, int32_t> findable_;  // hash(parent, tokens) -> page
  int64_t prefixes_ = 0;
};

}  // namespace neox
