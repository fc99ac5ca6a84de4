// SPDX-License-Identifier: Apache-2.0
// One-shot collectives over NVLink. Every rank writes its whole message into every other's memory, and a
// message carries its own arrival: an area is full of a word that no sender writes, and a packet is there once none of its words is that
// one (Lamport). No flag, no fence and no barrier is on the way. Floor at two ranks: bytes / 370 GB/s, or about 2 us.
//   A rank may write message n once it has all of message n - 1, hence once the others are past their kernel of n - 2, which emptied the
//   area of n - 3, the same one. That holds because kernels of a stream end, or grid_wait() for the one before, in turn.
#pragma once
#include <bit>

#include "device.cuh"
#include "exchange.h"
#include "types.cuh"

namespace neox::cuda {

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

/// The packets of a message that a thread sends and takes: every stride-th from first to before end.
struct Own {
  int first, stride, end;
};
__device__ inline int thread_of_grid() { return int(blockIdx.x * blockDim.x + threadIdx.x); }
__device__ inline int threads_of_grid() { return int(gridDim.x * blockDim.x); }

/// A message between at most Most ranks, as a thread of the grid sees it. All threads of a CTA: some send(), settle(), then take() what was
/// sent, between more send(), and end().
template <int Most> class Message {
  static constexpr int kFlight = Most <= 4 ? 2 : 1;  // packets of each rank that a thread waits for at once

 public:
  explicit __device__ Message(const Peers& p) : p_(p), patience_(p) {
    grid_launch();
    grid_wait();
    cell_ = p.cells[blockIdx.x];
    over_ = cell_.z != 0;
  }

  /// make(i): packet i of this rank.
  template <class Make> __device__ void send(const Own& own, const Make& make) {
    for (int i = own.first; i < own.end && !over_; i += own.stride) {
      const uint4 v = make(i);
#pragma unroll
      for (int r = 0; r < Most; r++)
        if (r < p_.ranks && r != p_.rank) put(area(r, cell_.x, p_.rank) + size_t(i) * 16, v);
    }
  }

  /// Empties what the message before has left, and counts this one, of `count` packets.
  __device__ void settle(int count) {
    for (int i = thread_of_grid(); i < int(cell_.y); i += threads_of_grid())
      for (int r = 0; r < p_.ranks; r++)
        if (r != p_.rank) put(area(p_.rank, cell_.x + 2, r) + size_t(i) * 16, {kEmpty, kEmpty, kEmpty, kEmpty});
    __syncthreads();  // all have read the cell
    for (int c = blockIdx.x + threadIdx.x * gridDim.x; c < kExchangeCells && !over_; c += blockDim.x * gridDim.x)
      p_.cells[c] = {cell_.x + 1, uint32_t(count), 0, 0};
  }

  /// take(i, packets i of all ranks in their order), once they are there.
  template <class Make, class Take> __device__ void take(const Own& own, const Make& make, const Take& take) {
    for (int i = own.first; i < own.end && !over_; i += kFlight * own.stride) {
      uint4 packets[kFlight][Most], mine[kFlight];
#pragma unroll
      for (int f = 0; f < kFlight; f++)  // loads that need not wait
        if (i + f * own.stride < own.end) mine[f] = make(i + f * own.stride);
      for (bool whole = false; !whole && !over_; over_ = !whole && patience_.over()) {
        whole = true;
#pragma unroll
        for (int f = 0; f < kFlight; f++)
#pragma unroll
          for (int r = 0; r < Most; r++)
            if (r < p_.ranks && r != p_.rank && i + f * own.stride < own.end) {
              packets[f][r] = get(area(p_.rank, cell_.x, r) + size_t(i + f * own.stride) * 16);
              whole = whole && there(packets[f][r]);
            }
      }
#pragma unroll
      for (int f = 0; f < kFlight; f++)
        if (const int at = i + f * own.stride; at < own.end && !over_) {
          uint4 all[Most];
#pragma unroll
          for (int r = 0; r < Most; r++) all[r] = r == p_.rank ? mine[f] : packets[f][r];
          take(at, all);
        }
    }
  }

  __device__ void end() {
    for (int c = 0; c < kExchangeCells && over_; c++) p_.cells[c].z = 1;
  }

 private:
  __device__ char* area(int of, uint32_t message, int from) const {
    return p_.areas[of] + (size_t(message % 3) * p_.ranks + from) * p_.capacity;
  }

  const Peers& p_;
  Patience patience_;
  uint4 cell_;
  bool over_;
};

/// A whole message of `count` packets, a thread for each of them as far as there are threads.
template <int Most, class Make, class Take> __device__ void exchange(const Peers& p, int count, const Make& make, const Take& take) {
  const Own own{.first = thread_of_grid(), .stride = threads_of_grid(), .end = count};
  Message<Most> message(p);
  message.send(own, make);
  message.settle(count);
  message.take(own, make, take);
  message.end();
}

/// The sum of all ranks' packets.
template <class E, int Most> __device__ void add_all(float (&sum)[kPacked<E>], int ranks, const uint4 (&packets)[Most]) {
#pragma unroll
  for (int r = 0; r < Most; r++)
    if (r < ranks) add<E>(sum, packets[r]);
}

inline Rows rows_of(const Tensor& t, int packed) {
  return {.data = t.row(0), .ld = t.ld, .rows = int(t.rows), .packets = int((t.cols + packed - 1) / packed), .cols = int(t.cols)};
}
/// f with the number of ranks that kernels are made for.
template <class F> void with_most(int ranks, const F& f) {
  if (ranks <= 2) f(std::integral_constant<int, 2>{});
  else if (ranks <= 4) f(std::integral_constant<int, 4>{});
  else f(std::integral_constant<int, 8>{});
}

}  // namespace neox::cuda
