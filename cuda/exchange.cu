// SPDX-License-Identifier: Apache-2.0
// exchange_sum, exchange_parts: one-shot collectives over NVLink. Every rank writes its whole message into every other's memory, and a
// message carries its own arrival: an area is full of a word that no sender writes, and a packet is there once none of its words is that
// one (Lamport). No flag, no fence and no barrier is on the way. Floor at two ranks: bytes / 370 GB/s, or about 2 us.
//   A rank may write message n once it has all of message n - 1, hence once the others are past their kernel of n - 2, which emptied the
//   area of n - 3, the same one. That holds because kernels of a stream end, or grid_wait() for the one before, in turn.
#include <bit>

#include "device.cuh"
#include "exchange.h"
#include "types.cuh"

namespace neox::cuda {
namespace {

constexpr uint32_t kEmpty = 0x80008000u;  // two -0 of 16 bits, which are sent as +0; in f32 a number that is 0 in all but name
constexpr int kLooks = 1024;              // for a packet, between looks at the clock

struct Rows {
  float* data;
  int64_t ld;
  int rows, packets;  // packets: of a row
  int cols;
};

__device__ inline void put(char* to, uint4 v) {
  asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ inline uint4 get(const char* from) {
  uint4 v;
  asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
  return v;
}
__device__ inline bool there(uint4 v) { return v.x != kEmpty && v.y != kEmpty && v.z != kEmpty && v.w != kEmpty; }
__device__ inline uint32_t sendable(uint32_t word) { return word == kEmpty ? 0 : word; }
__device__ inline uint64_t nanoseconds() {
  uint64_t t;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
  return t;
}

template <class E> constexpr int kPacked = 16 / sizeof(E);  // elements of a packet

template <class E> __device__ uint4 pack(const float* from) {
  Pack<E, kPacked<E>> p;
#pragma unroll
  for (int i = 0; i < kPacked<E>; i += 4) {
    const auto four = *reinterpret_cast<const Pack<float, 4>*>(from + i);
#pragma unroll
    for (int j = 0; j < 4; j++) p.v[i + j] = narrow<E>(four.v[j]);
  }
  uint4 v;
  memcpy(&v, &p, sizeof v);
  return {sendable(v.x), sendable(v.y), sendable(v.z), sendable(v.w)};
}
template <class E> __device__ void add(float (&sum)[kPacked<E>], uint4 packet) {
  const uint32_t words[4] = {packet.x, packet.y, packet.z, packet.w};
  constexpr int n = kPacked<E> / 4;  // of a word
#pragma unroll
  for (int w = 0; w < 4; w++) {
    const auto p = std::bit_cast<Pack<E, n>>(words[w]);
#pragma unroll
    for (int i = 0; i < n; i++) sum[w * n + i] += widen(p.v[i]);
  }
}
__device__ inline float* place(const Rows& r, int packet, int packed) {
  return r.data + int64_t(packet / r.packets) * r.ld + packet % r.packets * packed;
}

/// Waits for packets; true where they never came.
class Patience {
 public:
  explicit __device__ Patience(const Peers& p) : peers_(p) {}
  __device__ bool over() {
    if (++looks_ % kLooks != 0) return false;
    const uint64_t now = nanoseconds();
    if (begin_ == 0) begin_ = now;
    if (now - begin_ > peers_.patience) *static_cast<volatile int*>(peers_.over) = 1;
    return *static_cast<volatile int*>(peers_.over) != 0;
  }

 private:
  const Peers& peers_;
  int looks_ = 0;
  uint64_t begin_ = 0;
};

/// Most: ranks at most. Calls take(packet, packets of all ranks in their order) for each packet of this thread once it is there.
template <int Most, class Make, class Take> __device__ void exchange(const Peers& p, int count, const Make& make, const Take& take) {
  constexpr int kFlight = Most <= 2 ? 4 : Most <= 4 ? 2 : 1;  // packets of each rank that a thread waits for at once
  grid_launch();
  grid_wait();
  const uint4 cell = p.cells[blockIdx.x];
  if (cell.z != 0) return;
  const int first = blockIdx.x * blockDim.x + threadIdx.x, stride = gridDim.x * blockDim.x;
  const auto area = [&](int of, uint32_t message, int from) { return p.areas[of] + (size_t(message % 3) * p.ranks + from) * p.capacity; };
  for (int i = first; i < count; i += stride) {
    const uint4 v = make(i);
#pragma unroll
    for (int r = 0; r < Most; r++)
      if (r < p.ranks && r != p.rank) put(area(r, cell.x, p.rank) + size_t(i) * 16, v);
  }
  for (int i = first; i < int(cell.y); i += stride)
    for (int r = 0; r < p.ranks; r++)
      if (r != p.rank) put(area(p.rank, cell.x + 2, r) + size_t(i) * 16, {kEmpty, kEmpty, kEmpty, kEmpty});
  __syncthreads();  // all have read the cell
  for (int c = blockIdx.x + threadIdx.x * gridDim.x; c < kExchangeCells; c += blockDim.x * gridDim.x)
    p.cells[c] = {cell.x + 1, uint32_t(count), 0, 0};
  bool over = false;
  Patience patience(p);
  for (int i = first; i < count && !over; i += kFlight * stride) {
    uint4 packets[kFlight][Most];
    for (bool whole = false; !whole && !over; over = !whole && patience.over()) {
      whole = true;
#pragma unroll
      for (int f = 0; f < kFlight; f++)
#pragma unroll
        for (int r = 0; r < Most; r++)
          if (r < p.ranks && r != p.rank && i + f * stride < count) {
            packets[f][r] = get(area(p.rank, cell.x, r) + size_t(i + f * stride) * 16);
            whole = whole && there(packets[f][r]);
          }
    }
#pragma unroll
    for (int f = 0; f < kFlight; f++)
      if (const int at = i + f * stride; at < count && !over) {
        uint4 all[Most];
        const uint4 own = make(at);
#pragma unroll
        for (int r = 0; r < Most; r++) all[r] = r == p.rank ? own : packets[f][r];
        take(at, all);
      }
  }
  for (int c = 0; c < kExchangeCells && over; c++) p.cells[c].z = 1;
}

template <class E, int Most>
__global__ __launch_bounds__(512) void sum_kernel(const __grid_constant__ Peers p, const __grid_constant__ Rows x) {
  constexpr int n = kPacked<E>;
  exchange<Most>(
      p, x.rows * x.packets, [&](int i) { return pack<E>(place(x, i, n)); },
      [&](int i, const uint4(&packets)[Most]) {
        float sum[n] = {};
#pragma unroll
        for (int r = 0; r < Most; r++)
          if (r < p.ranks) add<E>(sum, packets[r]);
        float* to = place(x, i, n);
#pragma unroll
        for (int j = 0; j < n; j += 4) *reinterpret_cast<float4*>(to + j) = {sum[j], sum[j + 1], sum[j + 2], sum[j + 3]};
      });
}

template <int Most>
__global__ __launch_bounds__(512) void parts_kernel(const __grid_constant__ Peers p, const __grid_constant__ Rows part, float* out,
                                                    int64_t out_ld) {
  exchange<Most>(
      p, part.rows * part.packets, [&](int i) { return pack<float>(place(part, i, 4)); },
      [&](int i, const uint4(&packets)[Most]) {
        const int col = i % part.packets * 4;
        float* row = out + int64_t(i / part.packets) * out_ld + col;
#pragma unroll
        for (int r = 0; r < Most; r++)
          if (r < p.ranks) {
            Pack<float, 4> v;
            memcpy(&v, &packets[r], sizeof v);
#pragma unroll
            for (int j = 0; j < 4; j++)
              if (col + j < part.cols) row[int64_t(r) * part.cols + j] = v.v[j];
          }
      });
}

__global__ void fill_kernel(uint4* to, size_t n, uint32_t word) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x)
    to[i] = {word, word, word, word};
}

template <class E> __global__ void pack_kernel(uint4* to, Rows x) {
  grid_launch();
  grid_wait();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < x.rows * x.packets; i += gridDim.x * blockDim.x)
    to[i] = pack<E>(place(x, i, kPacked<E>));
}
template <class E> __global__ void sum_wires_kernel(Rows x, const uint4* from, int ranks) {
  constexpr int n = kPacked<E>;
  grid_launch();
  grid_wait();
  const int count = x.rows * x.packets;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    float sum[n] = {};
    for (int r = 0; r < ranks; r++) add<E>(sum, from[int64_t(r) * count + i]);
    float* to = place(x, i, n);
#pragma unroll
    for (int j = 0; j < n; j += 4) *reinterpret_cast<float4*>(to + j) = {sum[j], sum[j + 1], sum[j + 2], sum[j + 3]};
  }
}
__global__ void place_parts_kernel(float* out, int64_t out_ld, const float* from, Rows part, int ranks) {
  grid_launch();
  grid_wait();
  const int64_t block = int64_t(part.rows) * part.ld;
  const float* row = from + blockIdx.y * part.ld;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < ranks * part.cols; i += gridDim.x * blockDim.x)
    out[blockIdx.y * out_ld + i] = row[i / part.cols * block + i % part.cols];
}

Rows rows_of(const Tensor& t, int packed) {
  return {.data = t.row(0), .ld = t.ld, .rows = int(t.rows), .packets = int((t.cols + packed - 1) / packed), .cols = int(t.cols)};
}

/// A thread for each packet, as far as all CTAs run at once: each waits for what the same one of another rank sends.
Launch shape(const char* name, int count, const Stream& stream) {
  const int threads = count <= 8192 ? 128 : 512, most = attribute(cudaDevAttrMultiProcessorCount) * (threads == 128 ? 2 : 1);
  return {.name = name,
          .grid = unsigned(std::min((count + threads - 1) / threads, std::min(most, kExchangeCells))),
          .block = unsigned(threads),
          .stream = stream};
}

/// f with the number of ranks that kernels are made for.
template <class F> void with_most(int ranks, const F& f) {
  if (ranks <= 2) f(std::integral_constant<int, 2>{});
  else if (ranks <= 4) f(std::integral_constant<int, 4>{});
  else f(std::integral_constant<int, 8>{});
}

}  // namespace

void clear_peers(const Peers& p, cudaStream_t stream) {
  fill_kernel<<<264, 512, 0, stream>>>(reinterpret_cast<uint4*>(p.areas[p.rank]), 3 * size_t(p.ranks) * p.capacity / 16, kEmpty);
  check(cudaGetLastError(), "fill memory");
  check(cudaMemsetAsync(p.cells, 0, kExchangeCells * sizeof(uint4), stream), "fill memory");
}

void exchange_sum(const Peers& p, const Tensor& x, DType wire, const Stream& stream) {
  dispatch(wire, [&](auto type) {
    using E = Element<type>;
    const Rows rows = rows_of(x, kPacked<E>);
    with_most(p.ranks, [&](auto most) { launch(shape("all-reduce", rows.rows * rows.packets, stream), sum_kernel<E, most>, p, rows); });
  });
}

void exchange_parts(const Peers& p, const Tensor& out, const Tensor& part, const Stream& stream) {
  const Rows rows = rows_of(part, 4);
  with_most(p.ranks, [&](auto most) {
    launch(shape("all-gather", rows.rows * rows.packets, stream), parts_kernel<most>, p, rows, out.row(0), out.ld);
  });
}

void pack_wire(void* to, const Tensor& x, DType wire, const Stream& stream) {
  dispatch(wire, [&](auto type) {
    using E = Element<type>;
    const Rows rows = rows_of(x, kPacked<E>);
    launch(shape("pack for the wire", rows.rows * rows.packets, stream), pack_kernel<E>, static_cast<uint4*>(to), rows);
  });
}

void sum_wires(const Tensor& x, const void* from, DType wire, int ranks, const Stream& stream) {
  dispatch(wire, [&](auto type) {
    using E = Element<type>;
    const Rows rows = rows_of(x, kPacked<E>);
    launch(shape("sum from the wire", rows.rows * rows.packets, stream), sum_wires_kernel<E>, rows, static_cast<const uint4*>(from), ranks);
  });
}

void place_parts(const Tensor& out, const void* from, const Tensor& part, int ranks, const Stream& stream) {
  const int cols = ranks * int(part.cols);
  launch({.name = "place parts",
          .grid = dim3(unsigned(std::min((cols + 255) / 256, 256)), unsigned(part.rows)),
          .block = 256,
          .stream = stream},
         place_parts_kernel, out.row(0), out.ld, static_cast<const float*>(from), rows_of(part, 4), ranks);
}

}  // namespace neox::cuda
