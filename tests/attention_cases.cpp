// SPDX-License-Identifier: Apache-2.0
#include "attention_cases.h"

#include <algorithm>
#include <numeric>

namespace neox::test {

Sequences make_sequences(const Shape& s, DType activation, uint32_t seed) {
  Random random(seed);
  const int longest = *std::max_element(s.lengths.begin(), s.lengths.end());
  Matrix cos_sin(longest, 2 * s.half);
  for (int64_t p = 0; p < longest; p++)
    for (int64_t i = 0; i < s.half; i++) {
      const double angle = double(p) * std::pow(10000.0, -double(i) / double(s.half));
      cos_sin.at(p, i) = rounded(std::cos(angle), DType::f32);
      cos_sin.at(p, s.half + i) = rounded(std::sin(angle), DType::f32);
    }
  const double scale = rounded(1 / std::sqrt(double(s.head_dim)), DType::f32);
  Sequences out{.spec = {.heads = s.heads, .head_dim = s.head_dim, .kv_dtype = s.kv, .scale = scale, .cos_sin = cos_sin},
                .block = s.block,
                .qkv = {}};
  for (int length : s.lengths) out.qkv.push_back(random.matrix(length, int64_t(s.heads) * 3 * s.head_dim, -2, 2.5, activation));
  return out;
}

std::vector<Matrix> reference_outputs(const Sequences& s) {
  std::vector<Matrix> out;
  for (const Matrix& qkv : s.qkv) {
    reference::History history;
    out.push_back(reference::attention(qkv, s.spec, history));
  }
  return out;
}

double attention_error(const Backend& backend, DType kv) {
  if (backend.name() == "cpu") return kv == DType::f32 ? 1e-6 : kv == DType::f16 ? 1e-5 : kv == DType::bf16 ? 3e-5 : 3e-4;
  return 3e-6 + 2 * rounding_error(kv);  // q, weights and out are rounded, too
}

Schedule whole(const Shape& shape) {
  Schedule steps(1);
  for (size_t s = 0; s < shape.lengths.size(); s++) steps[0].push_back({int(s), shape.lengths[s]});
  return steps;
}
Schedule alone(const Shape& shape) {
  Schedule steps;
  for (size_t s = 0; s < shape.lengths.size(); s++) steps.push_back({{int(s), shape.lengths[s]}});
  return steps;
}
Schedule chunked(const Shape& shape, int rows) {
  Schedule steps;
  for (int begin = 0;; begin += rows) {
    std::vector<Chunk> step;
    for (size_t s = 0; s < shape.lengths.size(); s++)
      if (const int left = shape.lengths[s] - begin; left > 0) step.push_back({int(s), std::min(left, rows)});
    if (step.empty()) return steps;
    steps.push_back(step);
  }
}
Schedule tails(const Shape& shape, int rows) {
  Schedule steps(size_t(rows) + 1);
  for (size_t s = 0; s < shape.lengths.size(); s++) {
    const int length = shape.lengths[s];
    if (length > rows) steps[0].push_back({int(s), length - rows});
    for (int i = std::max(rows - length, 0); i < rows; i++) steps[size_t(i) + 1].push_back({int(s), 1});
  }
  std::erase_if(steps, [](const auto& step) { return step.empty(); });
  return steps;
}
Schedule mixed(const Shape& shape, uint32_t seed) {
  Random random(seed);
  Schedule steps;
  std::vector<int> left = shape.lengths, order(left.size());
  std::iota(order.begin(), order.end(), 0);
  while (std::accumulate(left.begin(), left.end(), 0) > 0) {
    random.shuffle(order);
    std::vector<Chunk> step;
    for (int s : order)
      if (left[size_t(s)] > 0 && random.below(4) > 0) {
        const int rows = random.below(2) ? 1 : 1 + random.below(std::min(left[size_t(s)], 40));
        step.push_back({s, rows}), left[size_t(s)] -= rows;
      }
    if (!step.empty()) steps.push_back(step);
  }
  return steps;
}

namespace {

class Runner {
 public:
  Runner(Backend& backend, const Sequences& s, const Surroundings& around)
      : backend_(backend), s_(s), around_(around), cos_sin_(backend, s.spec.cos_sin) {
    kv_ = {.dtype = s.spec.kv_dtype, .heads = s.spec.heads, .head_dim = s.spec.head_dim, .block = s.block};
    for (const Matrix& m : s.qkv) {
      out_.emplace_back(m.rows, int64_t(s.spec.heads) * s.spec.head_dim);
      tables_.emplace_back(), stored_.push_back(0);
      pages_ += int32_t(m.rows + s.block - 1) / s.block;
    }
    pages_ = 2 * pages_ + 3;  // room to move, and pages that stay free
    bytes_ = backend.page_bytes(kv_);
    for (Buffer* cache : {&k_, &v_}) {
      *cache = Buffer(backend, size_t(pages_) * bytes_);
      fill_with_nan(*cache, 0, pages_);
    }
    kv_.k = k_.data(), kv_.v = v_.data();
    free_.resize(size_t(pages_));
    std::iota(free_.begin(), free_.end(), 0);
    Random(around.page_seed).shuffle(free_);
  }

  void step(const std::vector<Chunk>& chunks) {
    std::vector<int32_t> q_start{0}, kv_len, pos, slot, blocks;
    Matrix rows(0, s_.qkv[0].cols);
    for (const Chunk& c : chunks) {
      const auto seq = size_t(c.seq);
      for (int i = 0; i < c.rows; i++) {
        const int32_t p = stored_[seq]++;
        if (p % s_.block == 0) tables_[seq].push_back(free_.back()), free_.pop_back();
        pos.push_back(p), slot.push_back(tables_[seq].back() * s_.block + p % s_.block);
      }
      const Matrix part = s_.qkv[seq].slice(stored_[seq] - c.rows, c.rows);
      rows.v.insert(rows.v.end(), part.v.begin(), part.v.end());
      q_start.push_back(int32_t(pos.size())), kv_len.push_back(stored_[seq]);
    }
    const size_t tokens = pos.size() + size_t(around_.padding_rows);
    pos.resize(tokens, 0), slot.resize(tokens, -1);
    rows.rows = int64_t(tokens), rows.v.resize(tokens * size_t(rows.cols), 0.5);
    int32_t ld = 2;
    for (const Chunk& c : chunks) ld = std::max(ld, int32_t(tables_[size_t(c.seq)].size()) + 2);
    for (const Chunk& c : chunks) {
      blocks.insert(blocks.end(), tables_[size_t(c.seq)].begin(), tables_[size_t(c.seq)].end());
      blocks.resize((blocks.size() + size_t(ld) - 1) / size_t(ld) * size_t(ld), -1);
    }
    attend(chunks, rows, q_start, kv_len, pos, slot, blocks, ld);
    if (around_.move_pages) move_pages();
  }

  std::vector<Matrix> finish() const {
    for (const Buffer* cache : {&k_, &v_}) {
      std::string host(cache->bytes(), '\0');
      backend_.download(host.data(), cache->data(), host.size());
      backend_.synchronize();
      for (int32_t page : free_)
        EXPECT_TRUE(host.substr(size_t(page) * bytes_, bytes_) == std::string(bytes_, '\xff')) << "free page " << page;
    }
    return out_;
  }

 private:
  void fill_with_nan(const Buffer& cache, int32_t page, int32_t count) {
    const std::string nan(size_t(count) * bytes_, '\xff');
    backend_.upload(cache.data<char>() + size_t(page) * bytes_, nan.data(), nan.size());
    backend_.synchronize();
  }

  void attend(const std::vector<Chunk>& chunks, const Matrix& rows, const std::vector<int32_t>& q_start, const std::vector<int32_t>& kv_len,
              const std::vector<int32_t>& pos, const std::vector<int32_t>& slot, const std::vector<int32_t>& blocks, int32_t blocks_ld) {
    const DType dtype = backend_.activation_dtype(s_.spec.kv_dtype);
    const DeviceMatrix qkv(backend_, rows, dtype, around_.pad), out(backend_, rows.rows, out_[0].cols, dtype, around_.pad / 2);
    const DeviceList<int32_t> d_q(backend_, q_start), d_kv(backend_, kv_len), d_pos(backend_, pos), d_slot(backend_, slot),
        d_blocks(backend_, blocks);
    Step step{.tokens = int32_t(rows.rows), .seqs = int32_t(chunks.size())};
    for (size_t i = 0; i < chunks.size(); i++)
      step.max_q = std::max(step.max_q, chunks[i].rows), step.max_kv = std::max(step.max_kv, kv_len[i]);
    step.single_rows = std::any_of(chunks.begin(), chunks.end(), [](const Chunk& c) { return c.rows == 1; });
    step.pos = d_pos.data(), step.slot = d_slot.data(), step.q_start = d_q.data(), step.kv_len = d_kv.data();
    step.blocks = d_blocks.data(), step.blocks_ld = blocks_ld;
    step.host_q_start = q_start.data(), step.host_kv_len = kv_len.data();
    const Rope rope{.cos_sin = cos_sin_.view().row(0), .half = int32_t(s_.spec.cos_sin.cols / 2)};
    backend_.attention({.out = out, .qkv = qkv, .kv = kv_, .step = step, .rope = rope, .scale = float(s_.spec.scale)});
    const Matrix got = out.values();
    for (size_t i = 0; i < chunks.size(); i++) {
      const auto seq = size_t(chunks[i].seq);
      std::copy_n(got.row(q_start[i]), chunks[i].rows * got.cols, out_[seq].row(stored_[seq] - chunks[i].rows));
    }
    EXPECT_TRUE(out.surroundings_untouched());
    EXPECT_TRUE(qkv.surroundings_untouched());
  }

  void move_pages() {
    std::vector<int32_t> pairs, left;
    for (auto& table : tables_)
      for (int32_t& page : table) {
        const int32_t to = free_.back();
        free_.pop_back();
        pairs.insert(pairs.end(), {page, to}), left.push_back(page);
        page = to;
      }
    const DeviceList<int32_t> device_pairs(backend_, pairs);
    backend_.copy_blocks({.kv = kv_, .pairs = device_pairs.data(), .count = int32_t(left.size())});
    backend_.synchronize();
    for (int32_t page : left)
      for (const Buffer* cache : {&k_, &v_}) fill_with_nan(*cache, page, 1);
    free_.insert(free_.begin(), left.begin(), left.end());
  }

  Backend& backend_;
  const Sequences& s_;
  const Surroundings around_;
  DeviceMatrix cos_sin_;
  KvPages kv_;
  Buffer k_, v_;
  int32_t pages_ = 0;
  size_t bytes_ = 0;
  std::vector<int32_t> free_;
  std::vector<std::vector<int32_t>> tables_;  // of each sequence
  std::vector<int32_t> stored_;               // positions of each sequence
  std::vector<Matrix> out_;
};

}  // namespace

std::vector<Matrix> run(Backend& backend, const Sequences& s, const Schedule& schedule, const Surroundings& around) {
  Runner runner(backend, s, around);
  for (const auto& step : schedule) runner.step(step);
  return runner.finish();
}

}  // namespace neox::test
