// SPDX-License-Identifier: Apache-2.0
#include "engine/block_pool.h"

#include <algorithm>
#include <cassert>

#include "base/check.h"

namespace neox {

BlockPool::BlockPool(int32_t blocks, int32_t block_size, bool prefix_caching)
    : block_size_(block_size), prefix_caching_(prefix_caching), pages_(size_t(blocks)) {
  for (int32_t b = 0; b < blocks; b++) pages_[size_t(b)].unused = unused_.insert(unused_.end(), b);
}

int32_t BlockPool::take() {
  const int32_t block = unused_.front();
  unused_.pop_front();
  Page& page = pages_[size_t(block)];
  forget(page, block);
  page.owners = 1;
  return block;
}

bool BlockPool::grow(BlockTable& table, int32_t blocks) {
  if (blocks - table.size() > available()) return false;
  while (table.size() < blocks) table.blocks.push_back(take());
  return true;
}

void BlockPool::release(BlockTable& table) {
  // The last pages first, so that the beginnings of prompts, which more requests share, are reused last.
  for (auto b = table.blocks.rbegin(); b != table.blocks.rend(); ++b) {
    Page& page = pages_[size_t(*b)];
    assert(page.owners > 0);
    if (--page.owners == 0) page.unused = unused_.insert(page.prefix ? unused_.end() : unused_.begin(), *b);
  }
  table = {};
}

BlockTable BlockPool::share(const BlockTable& table, int32_t blocks) {
  BlockTable out;
  out.blocks.assign(table.blocks.begin(), table.blocks.begin() + blocks);
  for (int32_t b : out.blocks) pages_[size_t(b)].owners++;
  out.pinned = table.pinned, out.root = table.root;
  const bool all = table.published <= blocks;  // else it publishes anew, and finds itself
  out.published = all ? table.published : table.pinned, out.prefix = all ? table.prefix : table.root;
  return out;
}

std::vector<BlockTable> BlockPool::pin(std::span<const int32_t> positions) {
  std::vector<BlockTable> tables;
  for (int32_t n : positions)
    if (!grow(tables.emplace_back(), blocks_for(n)))
      fail(ErrorKind::memory, "the KV cache has ", size(), " pages of ", block_size_, " positions, too few for the prefixes of ",
           positions.size(), " tasks: raise kv_cache_memory");
  return tables;
}

BlockTable BlockPool::begin(const BlockTable& pinned, int32_t positions, int64_t root) {
  BlockTable out = share(pinned, positions / block_size_);
  out.pinned = out.published = out.size();
  out.root = out.prefix = root;
  return out;
}

void BlockPool::own(BlockTable& table, int32_t block) {
  pages_[size_t(block)].owners++;
  table.blocks.push_back(block);
}

size_t BlockPool::hash(int64_t parent, std::span<const int32_t> tokens) {
  uint64_t h = uint64_t(parent) * 0x9E3779B97F4A7C15;
  for (int32_t t : tokens) h = (h ^ uint64_t(uint32_t(t))) * 0xD6E8FEB86659FD93, h ^= h >> 32;
  return size_t(h);
}

int32_t BlockPool::lookup(int64_t parent, std::span<const int32_t> tokens) const {
  const auto [begin, end] = findable_.equal_range(hash(parent, tokens));
  for (auto it = begin; it != end; ++it) {
    const Page& page = pages_[size_t(it->second)];
    if (page.parent == parent && std::equal(tokens.begin(), tokens.end(), page.tokens.begin(), page.tokens.end())) return it->second;
  }
  return -1;
}

void BlockPool::forget(Page& page, int32_t block) {
  if (!page.prefix) return;
  const auto [begin, end] = findable_.equal_range(hash(page.parent, page.tokens));
  const auto found = std::find_if(begin, end, [&](const auto& entry) { return entry.second == block; });
  assert(found != end);
  findable_.erase(found);
  page.prefix = 0;
  page.tokens.clear();
}

int32_t BlockPool::match(BlockTable& table, std::span<const int32_t> tokens) {
  assert(table.size() == table.pinned);
  const auto size = size_t(block_size_);
  for (size_t at = size_t(table.size()) * size; prefix_caching_ && at + size <= tokens.size(); at += size) {
    const int32_t block = lookup(table.prefix, tokens.subspan(at, size));
    if (block < 0) break;
    Page& page = pages_[size_t(block)];
    if (page.owners++ == 0) unused_.erase(page.unused);
    table.blocks.push_back(block);
    table.published++;
    table.prefix = page.prefix;
  }
  return table.size() * block_size_;
}

void BlockPool::publish(BlockTable& table, std::span<const int32_t> tokens, int32_t positions) {
  if (!prefix_caching_) return;
  for (; (table.published + 1) * block_size_ <= positions; table.published++) {
    const auto own = tokens.subspan(size_t(table.published) * size_t(block_size_), size_t(block_size_));
    int32_t block = lookup(table.prefix, own);
    if (block < 0) {
      block = table.blocks[size_t(table.published)];
      Page& page = pages_[size_t(block)];
      forget(page, block);  // it may be known as the continuation of a page that is gone
      page.prefix = ++prefixes_, page.parent = table.prefix;
      page.tokens.assign(own.begin(), own.end());
      findable_.emplace(hash(page.parent, own), block);
    }
    table.prefix = pages_[size_t(block)].prefix;
  }
}

}  // namespace neox
