// SPDX-License-Identifier: Apache-2.0
// linear for up to 8 rows (16 of f32): out = act(x W^T + bias), W [n, inputs] and x [rows, inputs] of type T.
// W is walked in units (linear_units.cuh): 128 rows by 128 bytes of inputs. All units, tile of outputs after tile, are cut into equal
// contiguous shares, one a CTA and one CTA an SM; each keeps a ring of units, with x's part beside W's, as large as shared memory allows,
// so that many bytes are always on their way. A warp multiplies 16 rows of W by all of x.
// A tile cut between CTAs is finished by the one that comes last, which adds the partial sums in their order: the order of summation
// depends on the shape and the card alone.
// Two parts with outs of their own are tiles one after the other; two parts with one out are one tile's units one after the other.
// The ring's first units of W, and the next few as far as the L2 cache, are fetched before the kernel before has ended; x only then.
// Floor: W read once from memory; x, once a CTA, from L2. f32 sums on the FMA
// units, which keep up with memory to 16 rows. Instantiations: 4 (f16, bf16 x 8 rows; f32 x 8, 16).
#pragma once
#include "activate.cuh"
#include "linear_units.cuh"

namespace neox::cuda {

constexpr int kSmallWarps = 8, kSmallThreads = kSmallWarps * 32;
constexpr int kVectors = kSmallVectors;
constexpr int kMostStages = 13;

/// sums[e] += 16 rows of w by 8 of x, both [rows][8 vectors of 16 bytes] in shared memory, where vector v of row r lies at v ^ (r % 8).
/// A lane's four sums are those of w's rows lane / 4 and 8 further, and x's rows lane % 4 * 2 and 1 further, as the tensor cores have them.
template <class T> struct Multiply {
  template <int R> static __device__ void run(float (&sums)[R / 8][4], const uint8_t* w, const uint8_t* x) {
    static_assert(R == 8);  // the tensor cores' width
    const int lane = threadIdx.x % 32, low = lane % 8;
    const uint32_t w_at = shared_address(w + lane % 16 * 128), x_at = shared_address(x);
    uint32_t b[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {  // 16 inputs, two vectors
      uint32_t a[4];
      ldmatrix(a, w_at + ((k * 2 + lane / 16) ^ low) * 16);
      if (k % 2 == 0) ldmatrix(b, x_at + low * 128 + ((k / 2 * 4 + lane / 8) ^ low) * 16);  // for 32 inputs
      mma<T>(sums[0], a, b[k % 2 * 2], b[k % 2 * 2 + 1]);
    }
  }
};
template <> struct Multiply<float> {
  static __device__ float4 vector(const uint8_t* from, int row, int v) {
    return *reinterpret_cast<const float4*>(from + row * 128 + (v ^ row % 8) * 16);
  }
  static __device__ void add(float& sum, const float4& a, const float4& b) {
    sum = fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
  }
  template <int R> static __device__ void run(float (&sums)[R / 8][4], const uint8_t* w, const uint8_t* x) {
    const int lane = threadIdx.x % 32;
    float unit[R / 8][4] = {};  // added up on its own: short sums round less
#pragma unroll
    for (int v = 0; v < kVectors; v++) {
      const float4 w0 = vector(w, lane / 4, v), w1 = vector(w, lane / 4 + 8, v);
#pragma unroll
      for (int e = 0; e < R / 8; e++) {
        const float4 x0 = vector(x, e * 8 + lane % 4 * 2, v), x1 = vector(x, e * 8 + lane % 4 * 2 + 1, v);
        add(unit[e][0], w0, x0), add(unit[e][1], w0, x1), add(unit[e][2], w1, x0), add(unit[e][3], w1, x1);
      }
    }
#pragma unroll
    for (int e = 0; e < R / 8; e++)
#pragma unroll
      for (int i = 0; i < 4; i++) sums[e][i] += unit[e][i];
  }
};

template <class T, int R> struct Small {
  static constexpr int kRows = kTileRows, kW = kRows * 128, kStage = kW + R * 128;
  static constexpr int kPrefetched = 64 * 1024 / kW;  // units after the ring's first; many more would push out what is needed sooner
  static constexpr int kSums = R / 8;                 // of a thread, in fours

  const SmallCall& p;
  uint8_t* ring;  // [stages][W | x]
  const int stages;
  const Cut cut;
  const int lane, warp, begin, count;  // begin, count: this CTA's units
  float sums[kSums][4];

  __device__ Small(const SmallCall& call, uint8_t* memory, int stages_)
      : p(call), ring(memory), stages(stages_), cut{call.total, int(gridDim.x)}, lane(threadIdx.x % 32), warp(threadIdx.x / 32),
        begin(cut.begin(blockIdx.x)), count(cut.begin(blockIdx.x + 1) - begin) {}

  // Threads fetch neighbouring vectors, 8 to a row; a thread's rows lie 32 apart.
  static __device__ int row() { return threadIdx.x / kVectors; }
  static __device__ int place(int row, int vector) { return row * 128 + (vector ^ row % 8) * 16; }

  __device__ void fetch_w(int slot, const SmallCursor& c) const {
    const SmallPart& from = c.source(p);
    const int first = c.tile * kRows + row(), v = c.unit_of_source(p) * kVectors + int(threadIdx.x) % kVectors;
    const char* w = from.w + first * from.w_ld + v * 16;
    uint8_t* to = ring + slot * kStage + place(row(), threadIdx.x % kVectors);
#pragma unroll
    for (int i = 0; i < kRows; i += kSmallThreads / kVectors) {
      const bool real = v < from.vectors && first + i < from.n;
      copy16(to + i * 128, real ? w + i * from.w_ld : from.w, real);
    }
  }
  __device__ void prefetch_w(const SmallCursor& c) const {
    const SmallPart& from = c.source(p);
    const int n = c.tile * kRows + int(threadIdx.x);
    if (threadIdx.x < kRows && n < from.n) prefetch(from.w + n * from.w_ld + c.unit_of_source(p) * kVectors * 16);
  }
  __device__ void fetch_x(int slot, const SmallCursor& c) const {
    const SmallPart& from = c.source(p);
    const int v = c.unit_of_source(p) * kVectors + int(threadIdx.x) % kVectors;
    uint8_t* to = ring + slot * kStage + kW + place(row(), threadIdx.x % kVectors);
#pragma unroll
    for (int i = 0; i < R; i += kSmallThreads / kVectors) {
      const bool real = v < from.vectors && row() + i < p.rows;
      if (row() + i < R) copy16(to + i * 128, real ? from.x + (row() + i) * from.x_ld + v * 16 : from.x, real);
    }
  }
  /// x beside the ring's first units, through registers: copies are counted in order, and those of W are long on their way.
  __device__ void load_first_x() const {
    constexpr int kOfUnit = R * kVectors, kAtOnce = 4;
    const int n = min(stages - 1, count) * kOfUnit;
    for (int first = threadIdx.x; first < n; first += kSmallThreads * kAtOnce) {
      uint4 x[kAtOnce] = {};
#pragma unroll
      for (int j = 0; j < kAtOnce; j++) {
        const int i = first + j * kSmallThreads, slot = i / kOfUnit, r = i % kOfUnit / kVectors;
        if (i >= n) break;
        const SmallCursor c(p, begin + slot);
        const SmallPart& from = c.source(p);
        const int v = c.unit_of_source(p) * kVectors + i % kVectors;
        if (v < from.vectors && r < p.rows) x[j] = __ldcg(reinterpret_cast<const uint4*>(from.x + r * from.x_ld + v * 16));
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; j++) {
        const int i = first + j * kSmallThreads, slot = i / kOfUnit, r = i % kOfUnit / kVectors;
        if (i < n) *reinterpret_cast<uint4*>(ring + slot * kStage + kW + place(r, i % kVectors)) = x[j];
      }
    }
  }

  __device__ void run() {
    SmallCursor next(p, begin), at = next;
    const int ahead = stages - 1;
    for (int i = 0; i < ahead; i++) {
      if (i < count) fetch_w(i, next), next.advance(p);
      copy_commit();
    }
    SmallCursor later = next;
    for (int i = ahead; i < min(ahead + kPrefetched, count); i++) prefetch_w(later), later.advance(p);
    grid_wait();
    load_first_x();
    clear();
    for (int i = 0, slot = 0, free = ahead, first = at.unit; i < count; i++) {
      copy_wait<kMostStages - 2>(ahead - 1);
      __syncthreads();  // unit i is there for all warps, and all are done with unit i - 1
      if (i + ahead < count) fetch_w(free, next), fetch_x(free, next), next.advance(p);
      copy_commit();
      const uint8_t* unit = ring + slot * kStage;
      Multiply<T>::template run<R>(sums, unit + warp * 16 * 128, unit + kW);
      if (at.unit + 1 == at.units || i + 1 == count) finish(at, first), clear(), first = 0;
      at.advance(p);
      slot = slot + 1 == stages ? 0 : slot + 1, free = free + 1 == stages ? 0 : free + 1;
    }
  }
  __device__ void clear() {
#pragma unroll
    for (int e = 0; e < kSums; e++)
      for (int i = 0; i < 4; i++) sums[e][i] = 0;
  }

  /// The sums are those of units [first, at.unit] of a tile.
  __device__ void finish(const SmallCursor& at, int first) {
    const SmallPart& to = p.parts[at.part];
    const int n = at.tile * kRows + warp * 16 + lane / 4;
    float bias[2];
#pragma unroll
    for (int h = 0; h < 2; h++) bias[h] = bias_of(to, n + h * 8) + (p.sum ? bias_of(p.parts[1], n + h * 8) : 0.f);
    if ((first > 0 || at.unit + 1 < at.units) && !join(at, first)) return;
#pragma unroll
    for (int e = 0; e < kSums; e++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int column = n + i / 2 * 8, r = e * 8 + lane % 4 * 2 + i % 2;
        if (column < to.n && r < p.rows) store(to.out, to.out_type, r * to.out_ld + column, activate(to.act, sums[e][i] + bias[i / 2]));
      }
  }
  static __device__ float bias_of(const SmallPart& part, int column) {
    return part.bias && column < part.n ? load(part.bias, part.bias_type, column) : 0.f;
  }
  /// A CTA has at most two pieces of cut tiles: a tile's beginning, in its second place, and any other piece, in its first.
  __device__ float4* partial(int share, int second) const {
    return p.partial + (int64_t(share) * 2 + second) * (kSums * kSmallThreads) + threadIdx.x;
  }
  /// Leaves this warp's part of a piece where the one that comes last finds it; for that one the sums are the whole tile's.
  __device__ bool join(const SmallCursor& at, int first) {
    float4* mine = partial(blockIdx.x, first == 0);
#pragma unroll
    for (int s = 0; s < kSums; s++) {
      const float(&x)[4] = sums[s];
      __stcg(mine + s * kSmallThreads, make_float4(x[0], x[1], x[2], x[3]));
    }
    const int leader = cut.owner(at.begin(p)), pieces = cut.owner(at.begin(p) + at.units - 1) - leader + 1;
    unsigned* arrived = p.arrived + leader * kSmallWarps + warp;
    if (arrive(arrived) + 1 != unsigned(pieces)) return false;
    if (lane == 0) *arrived = 0;
    __syncwarp();
    clear();
    constexpr int kBatch = 8 / kSums;  // pieces that are read at once
    for (int i = 0; i < pieces; i += kBatch) {
      float4 x[kBatch][kSums];
#pragma unroll
      for (int b = 0; b < kBatch; b++)
#pragma unroll
        for (int s = 0; s < kSums; s++)
          x[b][s] = i + b < pieces ? __ldcg(partial(leader + i + b, i + b == 0) + s * kSmallThreads) : make_float4(0, 0, 0, 0);
#pragma unroll
      for (int b = 0; b < kBatch; b++)
#pragma unroll
        for (int s = 0; s < kSums; s++) {
          float(&sum)[4] = sums[s];
          sum[0] += x[b][s].x, sum[1] += x[b][s].y, sum[2] += x[b][s].z, sum[3] += x[b][s].w;
        }
    }
    return true;
  }
};

template <class T, int R>
__global__ __launch_bounds__(kSmallThreads, 1) void small_kernel(const __grid_constant__ SmallCall p, int stages) {
  extern __shared__ __align__(128) uint8_t memory[];
  grid_launch();
  Small<T, R>(p, memory, stages).run();
}

template <class T, int R> void small_with(SmallCall call, int ctas, const Stream& stream) {
  using S = Small<T, R>;
  const int stages = std::min(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) / S::kStage, kMostStages);
  launch(
      {.name = "linear, few rows", .grid = unsigned(ctas), .block = kSmallThreads, .stream = stream, .shared = size_t(stages) * S::kStage},
      small_kernel<T, R>, call, stages);
}
}  // namespace neox::cuda
