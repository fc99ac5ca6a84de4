// SPDX-License-Identifier: Apache-2.0
// Checks the attention op against double precision, and times it beside the card's limits. A program of its own, target
// neox_check_attention:
//   neox_check_attention            all checks, then timings
//   neox_check_attention --small    few small cases, for compute-sanitizer
//   neox_check_attention --time     timings alone
// Pages, outputs and the workspace are full of NaN before use; pages are shuffled; each step runs twice and must give the same bits.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

#include "check_attention.h"

namespace neox::cuda::trial {
namespace {

struct Chunk {
  int seq, rows;
};
using Schedule = std::vector<std::vector<Chunk>>;

Schedule chunked(const Case& c, int rows) {
  Schedule steps;
  for (int begin = 0;; begin += rows) {
    std::vector<Chunk> step;
    for (int s = 0; s < int(c.lengths.size()); s++)
      if (const int left = c.lengths[s] - begin; left > 0) step.push_back({s, std::min(left, rows)});
    if (step.empty()) return steps;
    steps.push_back(step);
  }
}
/// Prompts in large pieces beside single rows; each sequence's last rows come one by one.
Schedule mixed(const Case& c, std::mt19937& random) {
  Schedule steps;
  std::vector<int> left = c.lengths, order(left.size());
  std::iota(order.begin(), order.end(), 0);
  while (std::accumulate(left.begin(), left.end(), 0) > 0) {
    std::shuffle(order.begin(), order.end(), random);
    std::vector<Chunk> step;
    for (int s : order) {
      if (left[s] == 0 || random() % 5 == 0) continue;
      const int rows = left[s] <= 3 ? 1 : random() % 3 == 0 ? 1 : std::min<int>(left[s] - 3, 1 + int(random() % 700));
      step.push_back({s, std::max(rows, 1)}), left[s] -= std::max(rows, 1);
    }
    if (!step.empty()) steps.push_back(step);
  }
  return steps;
}

/// Prompts whole, then single rows of all, at different lengths.
Schedule tails(const Case& c, int rows) {
  Schedule steps(1);
  for (int s = 0; s < int(c.lengths.size()); s++)
    if (c.lengths[s] > rows) steps[0].push_back({s, c.lengths[s] - rows});
  for (int i = 0; i < rows; i++) {
    std::vector<Chunk> step;
    for (int s = 0; s < int(c.lengths.size()); s++)
      if (i < c.lengths[s]) step.push_back({s, 1});
    steps.push_back(step);
  }
  return steps;
}

class Runner {
 public:
  Runner(const Case& c, uint32_t seed)
      : c_(c), random_(seed), page_bytes_(size_t(c.heads) * c.block * c.head_dim * size_of(c.kv)),
        scale_(1 / std::sqrt(float(c.head_dim))) {
    const int longest = *std::max_element(c.lengths.begin(), c.lengths.end());
    for (int t = 0; t < longest; t++) {
      for (int i = 0; i < c.half; i++) cos_sin_.push_back(float(std::cos(t * std::pow(10000.0, -double(i) / c.half))));
      for (int i = 0; i < c.half; i++) cos_sin_.push_back(float(std::sin(t * std::pow(10000.0, -double(i) / c.half))));
    }
    int pages = 5;
    for (int length : c.lengths) {
      sequences_.emplace_back(c, length, cos_sin_, random_);
      pages += (length + c.block - 1) / c.block + 1;
    }
    free_.resize(size_t(pages)), tables_.resize(c.lengths.size()), stored_.resize(c.lengths.size());
    std::iota(free_.begin(), free_.end(), 0);
    std::shuffle(free_.begin(), free_.end(), random_);
    k_ = new Memory(pages * page_bytes_), v_ = new Memory(pages * page_bytes_), rope_ = new Memory(cos_sin_);
    workspace_ = new Memory(attention_workspace_bytes(longest * int(c.lengths.size()), longest, c.heads, c.head_dim));
    ok(cudaMemset(workspace_->data(), 0, kAttentionZeroed), "cudaMemset");
  }
  ~Runner() { delete k_, delete v_, delete rope_, delete workspace_; }

  /// extra: padding rows, padding sequences and looser bounds, as in a recorded step; pad: columns between rows.
  void run(const Schedule& schedule, int extra, int pad) {
    for (const auto& chunks : schedule) step(chunks, extra, pad);
    check_pages();
  }
  double error() const { return std::sqrt(difference_ / norm_); }
  bool clean() const { return clean_; }

 private:
  void step(const std::vector<Chunk>& chunks, int extra, int pad) {
    const int D = c_.head_dim, cols = c_.heads * 3 * D, ld = cols + pad, out_ld = c_.heads * D + pad;
    std::vector<int32_t> q_start{0}, kv_len, pos, slot, blocks;
    Step s;
    for (const Chunk& k : chunks) {
      for (int i = 0; i < k.rows; i++) {
        const int t = stored_[k.seq]++;
        if (t % c_.block == 0) tables_[k.seq].push_back(free_.back()), free_.pop_back();
        pos.push_back(t), slot.push_back(tables_[k.seq].back() * c_.block + t % c_.block);
      }
      q_start.push_back(int32_t(pos.size())), kv_len.push_back(stored_[k.seq]);
      s.max_q = std::max(s.max_q, k.rows), s.max_kv = std::max(s.max_kv, stored_[k.seq]);
      s.blocks_ld = std::max(s.blocks_ld, int32_t(tables_[k.seq].size()) + 1);
    }
    const int rows = int(pos.size());
    s.tokens = rows + extra, s.seqs = int(chunks.size()) + extra, s.max_q += extra && s.max_q > 1 ? 64 : 0, s.max_kv += extra;
    pos.resize(s.tokens, 0), slot.resize(s.tokens, -1), kv_len.resize(s.seqs, extra % 2 ? 0 : -1);
    q_start.resize(s.seqs + 1, extra % 2 ? rows : -1);
    for (const Chunk& k : chunks) {
      blocks.insert(blocks.end(), tables_[k.seq].begin(), tables_[k.seq].end());
      blocks.resize((blocks.size() + s.blocks_ld - 1) / s.blocks_ld * s.blocks_ld, -1);
    }
    blocks.resize(size_t(s.seqs) * s.blocks_ld, -1);
    std::vector<uint8_t> qkv(size_t(s.tokens) * ld * size_of(c_.act), 0xff);
    for (size_t i = 0, r = 0; i < chunks.size(); i++)
      for (int n = chunks[i].rows, t = kv_len[i] - n; t < kv_len[i]; t++, r++)
        for (int x = 0; x < cols; x++)
          store_from_f32(qkv.data(), c_.act, int64_t(r) * ld + x, sequences_[chunks[i].seq].qkv[size_t(t) * cols + x]);

    const Memory d_q(q_start), d_kv(kv_len), d_pos(pos), d_slot(slot), d_blocks(blocks);
    s.q_start = d_q.data<int32_t>(), s.kv_len = d_kv.data<int32_t>(), s.pos = d_pos.data<int32_t>(), s.slot = d_slot.data<int32_t>();
    s.blocks = d_blocks.data<int32_t>();
    Memory d_qkv(qkv), d_out(size_t(s.tokens) * out_ld * size_of(c_.act));
    const AttentionArgs args{.out = {.data = d_out.data(), .rows = s.tokens, .cols = c_.heads * D, .ld = out_ld, .dtype = c_.act},
                             .qkv = {.data = d_qkv.data(), .rows = s.tokens, .cols = cols, .ld = ld, .dtype = c_.act},
                             .kv = {.k = k_->data(), .v = v_->data(), .dtype = c_.kv, .heads = c_.heads, .head_dim = D, .block = c_.block},
                             .step = s,
                             .rope = {.cos_sin = rope_->data<float>(), .half = c_.half},
                             .scale = scale_};
    std::vector<uint8_t> out, before;
    for (int turn = 0; turn < 2; turn++) {
      d_qkv.upload(qkv.data(), qkv.size()), d_out.poison();
      ok(cudaMemset(workspace_->data<char>() + kAttentionZeroed, 0xff, workspace_->bytes() - kAttentionZeroed), "cudaMemset");
      attention(args, workspace_->data(), workspace_->bytes(), {.early = kernels_can_wait()});
      ok(cudaDeviceSynchronize(), "attention");
      before = out, out = d_out.download();
    }
    if (before != out) std::printf("other bits in the second run\n"), clean_ = false;
    compare(chunks, kv_len, out, out_ld, rows);
  }

  void compare(const std::vector<Chunk>& chunks, const std::vector<int32_t>& kv_len, const std::vector<uint8_t>& out, int ld, int rows) {
    const int D = c_.head_dim;
    for (int64_t r = 0; r < int64_t(out.size() / size_of(c_.act) / ld); r++)
      for (int x = 0; x < ld; x++) {
        const bool written = !std::isnan(load_as_f32(out.data(), c_.act, r * ld + x)), due = r < rows && x < c_.heads * D;
        if (due != written)
          return void(std::printf("row %d column %d: %s\n", int(r), x, due ? "not written" : "written")), void(clean_ = false);
      }
    int64_t first = 0;
    for (size_t i = 0; i < chunks.size(); first += chunks[i].rows, i++)
      for (int n = 0; n < chunks[i].rows; n++) {
        if (chunks[i].rows > 40 && n > 3 && n < chunks[i].rows - 3 && random_() % unsigned(chunks[i].rows) > 30) continue;
        for (int h = 0; h < c_.heads; h++) {
          const auto want = sequences_[chunks[i].seq].attend(c_, kv_len[i] - chunks[i].rows + n, h, scale_);
          for (int d = 0; d < D; d++) {
            const double got = load_as_f32(out.data(), c_.act, (first + n) * ld + h * D + d);
            difference_ += (got - want[d]) * (got - want[d]), norm_ += want[d] * want[d];
          }
        }
      }
  }
  void check_pages() {  // what no sequence has stored is NaN still
    for (const Memory* m : {k_, v_}) {
      const auto host = m->download();
      std::vector<int> used(host.size() / page_bytes_, 0);
      for (size_t s = 0; s < tables_.size(); s++)
        for (size_t b = 0; b < tables_[s].size(); b++) used[tables_[s][b]] = std::min(c_.block, stored_[s] - int(b) * c_.block);
      for (size_t page = 0; page < used.size(); page++)
        for (int h = 0; h < c_.heads; h++)
          for (size_t t = size_t(used[page]); t < size_t(c_.block); t++)
            for (size_t b = 0, row = c_.head_dim * size_of(c_.kv); b < row; b++)
              if (host[page * page_bytes_ + (size_t(h) * c_.block + t) * row + b] != 0xff)
                return void(std::printf("page %zu position %zu written\n", page, t)), void(clean_ = false);
    }
  }

  const Case c_;
  std::mt19937 random_;
  const size_t page_bytes_;
  const float scale_;
  std::vector<float> cos_sin_;
  std::vector<Sequence> sequences_;
  std::vector<int> free_, stored_;
  std::vector<std::vector<int>> tables_;
  Memory *k_, *v_, *rope_, *workspace_;
  double difference_ = 0, norm_ = 0;
  bool clean_ = true;
};

double limit(DType act, DType kv) {
  if (act == DType::f32) return kv == DType::f32 ? 1e-5 : 3e-5;  // a rotated key may round to the other neighbour
  return act == DType::f16 && kv != DType::bf16 ? 1e-3 : 8e-3;
}

bool check(const Case& c, bool small) {
  bool good = true;
  double worst = 0;
  std::mt19937 random(uint32_t(c.head_dim * 64 + c.block));
  std::vector<std::pair<const char*, Schedule>> schedules = {{"whole", chunked(c, 1 << 20)}, {"mixed", mixed(c, random)}};
  schedules.push_back({"tails", tails(c, 18)});
  if (!small) schedules.push_back({"chunked", chunked(c, 333)}), schedules.push_back({"mixed", mixed(c, random)});
  int turn = 0;
  for (const auto& [name, schedule] : schedules) {
    Runner runner(c, uint32_t(c.head_dim + turn));
    runner.run(schedule, turn % 3 ? turn + 4 : 0, turn == 3 ? 5 : turn == 1 ? 16 : 0);
    if (!(runner.error() <= limit(c.act, c.kv)) || !runner.clean())
      std::printf("  %s: error %.2e FAILED\n", name, runner.error()), good = false;
    worst = std::max(worst, runner.error()), turn++;
  }
  std::printf("%s x %s, head size %d, block %d: %.2e (limit %.0e)%s\n", name_of(c.act), name_of(c.kv), c.head_dim, c.block, worst,
              limit(c.act, c.kv), good ? "" : " FAILED");
  return good;
}

}  // namespace

void time_all();

}  // namespace neox::cuda::trial

namespace neox {
const char* name_of(DType t) { return t == DType::f32 ? "f32" : t == DType::f16 ? "f16" : "bf16"; }
float f16_to_f32(uint16_t h) {
  __half_raw raw;
  raw.x = h;
  return __half2float(__half(raw));
}
uint16_t f32_to_f16(float f) { return __half_raw(__float2half(f)).x; }
}  // namespace neox

int main(int argc, char** argv) {
  using namespace neox;
  using namespace neox::cuda::trial;
  const std::string mode = argc > 1 ? argv[1] : "";
  bool good = true;
  const std::vector<int> lengths =
      mode == "--small" ? std::vector<int>{1, 40, 150} : std::vector<int>{1, 15, 16, 17, 64, 129, 700, 2047, 3, 333};
  constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16};
  if (mode != "--time")
    for (int D : {8, 24, 32, 64, 80, 96, 128, 256})
      for (DType act : kTypes)
        for (DType kv : kTypes) {
          if (act != kv && (D != 24 && D != 96)) continue;
          for (int block : {16, 32}) {
            if (mode == "--small" && (block == 32) != (D == 96)) continue;
            const int half = D == 24 ? 3 : D == 80 ? D / 2 : D / 8;
            good &= check({.act = act, .kv = kv, .heads = D == 24 ? 3 : 2, .head_dim = D, .half = half, .block = block, .lengths = lengths},
                          mode == "--small");
          }
        }
  if (mode != "--time")  // more heads than SMs
    for (int D : {64, 96}) good &= check({.heads = 24, .head_dim = D, .half = 8, .lengths = {1, 40, 150, 16, 17, 333}}, true);
  if (mode != "--time") std::printf("%s\n", good ? "all good" : "FAILED");
  if (mode != "--small") time_all();
  return good ? 0 : 1;
}
