// SPDX-License-Identifier: Apache-2.0
// Pinned host memory through which everything passes between host and device.
#pragma once
#include <array>
#include <vector>

#include "base/file.h"
#include "check.h"
#include "waits.h"

namespace neox::cuda {

/// Bytes of the host in rows, which may lie apart.
struct HostRows {
  const char* data;
  int64_t rows, bytes, stride;  // bytes: of one row; stride: from one row's first byte to the next one's

  int64_t all() const { return rows * bytes; }
  const char* at(int64_t byte) const { return data + byte / bytes * stride + byte % bytes; }  // of all(), one after another
  void copy(char* to, int64_t begin, int64_t end) const;                                      // these of them
};

/// Large uploads: several threads, each of which copies pieces of the source, which may be of a mapped file, into places of its own and
/// sends them from there, side by side.
class Feed {
 public:
  Feed(cudaStream_t stream, Waits& waits) : stream_(stream), waits_(waits) {}
  ~Feed();
  Feed(const Feed&) = delete;

  static constexpr size_t kLeast = size_t(8) << 20;  // bytes that are worth it
  void upload(void* to, const HostRows& from);

 private:
  struct Place {
    char* memory = nullptr;  // [kFetchBytes]
    cudaEvent_t sent = nullptr;
  };
  struct Reader {
    std::array<Place, 2> places;
    size_t next = 0;
  };
  void prepare();

  const cudaStream_t stream_;
  Waits& waits_;
  char* memory_ = nullptr;  // of all places, from the first upload on
  std::array<Reader, kFetchThreads> readers_;
};

/// Uploads go through two areas in turn, so that one is filled while the other is sent. Downloads gather in one area until mark(), then in
/// the next.
class Staging {
 public:
  Staging(cudaStream_t stream, Waits& waits);
  ~Staging();
  Staging(const Staging&) = delete;

  void upload(void* to, const void* from, size_t bytes);    // `from` may change once this returns
  void upload(void* to, const HostRows& from);              // the same, and rows come to lie side by side
  void download(void* to, const void* from, size_t bytes);  // `to` is whole after finish()
  void finish();                                            // waits for the stream
  uint64_t mark();
  void wait(uint64_t mark);  // what was downloaded before the mark is whole then, whatever was enqueued after it

 private:
  static constexpr size_t kBytes = size_t(4) << 20;  // of each area
  static constexpr size_t kGathers = 3;              // two marks, and what follows them
  struct Pending {
    void* to;
    const void* from;
    size_t bytes;
  };
  struct Gather {
    char* area = nullptr;  // [kBytes]
    size_t bytes = 0;
    std::vector<Pending> pending;
    cudaEvent_t there = nullptr;  // the mark that ends it
  };
  bool complete(Gather& gather);  // once its mark is reached
  static void hand_over(Gather& gather);

  const cudaStream_t stream_;
  Waits& waits_;
  Feed feed_;
  char* memory_ = nullptr;                 // [2 + kGathers][kBytes]
  std::array<cudaEvent_t, 2> sent_{};      // when an upload's area may be filled again
  std::array<bool, 2> sending_{};          // unless that is known: no mark after it was waited for
  std::array<uint64_t, 2> sent_before_{};  // this mark
  size_t half_ = 0;
  std::array<Gather, kGathers> gathers_;
  uint64_t marks_ = 0;  // made so far; the current gather is that of the next one
};

}  // namespace neox::cuda
