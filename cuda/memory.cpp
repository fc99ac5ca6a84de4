// SPDX-License-Identifier: Apache-2.0
// Device memory, and copies between host and device. All copies are enqueued on the backend's one stream, hence in order with the ops.
#include <algorithm>
#include <cstring>

#include "base/pieces.h"
#include "cuda_backend.h"

namespace neox {
namespace cuda {

void HostRows::copy(char* to, int64_t begin, int64_t end) const {
  for (int64_t n; begin < end; begin += n, to += n) {
    n = std::min(end - begin, bytes - begin % bytes);
    std::memcpy(to, at(begin), size_t(n));
  }
}

Feed::~Feed() {
  for (const Reader& reader : readers_)
    for (const Place& place : reader.places)
      if (place.sent) cudaEventDestroy(place.sent);
  cudaFreeHost(memory_);
}

void Feed::prepare() {
  check(cudaMallocHost(reinterpret_cast<void**>(&memory_), readers_.size() * 2 * kFetchBytes), "allocate pinned host memory");
  char* at = memory_;
  for (Reader& reader : readers_)
    for (Place& place : reader.places) {
      place.memory = at, at += kFetchBytes;
      check(cudaEventCreateWithFlags(&place.sent, cudaEventDisableTiming), "create an event");
    }
}

void Feed::upload(void* to, const HostRows& from) {
  int device = 0;
  check(cudaGetDevice(&device), "ask for the device");
  if (!memory_) prepare();
  waits_.stream(stream_);  // so that nothing before these copies still waits for other ranks
  in_pieces(from.all(), kFetchBytes, kFetchThreads, [&](int thread, int64_t begin, int64_t end) {
    Reader& reader = readers_[size_t(thread)];
    const Place& place = reader.places[reader.next];
    fetch(from.at(begin), size_t(from.at(end - 1) - from.at(begin)) + 1);
    check(cudaSetDevice(device), "choose the device");  // each thread has its own choice
    check(cudaEventSynchronize(place.sent), "wait for an upload");
    from.copy(place.memory, begin, end);
    check(cudaMemcpyAsync(static_cast<char*>(to) + begin, place.memory, size_t(end - begin), cudaMemcpyHostToDevice, stream_), "upload");
    check(cudaEventRecord(place.sent, stream_), "record an event");
    reader.next ^= 1;
  });
}

Staging::Staging(cudaStream_t stream, Waits& waits) : stream_(stream), waits_(waits), feed_(stream, waits) {
  check(cudaMallocHost(reinterpret_cast<void**>(&memory_), (2 + kGathers) * kBytes), "allocate pinned host memory");
  for (cudaEvent_t& e : sent_) check(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "create an event");
  for (size_t i = 0; i < gathers_.size(); i++) {
    gathers_[i].area = memory_ + (2 + i) * kBytes;
    check(cudaEventCreateWithFlags(&gathers_[i].there, cudaEventDisableTiming), "create an event");
  }
}

Staging::~Staging() {
  for (cudaEvent_t e : sent_)
    if (e) cudaEventDestroy(e);
  for (const Gather& g : gathers_)
    if (g.there) cudaEventDestroy(g.there);
  cudaFreeHost(memory_);
}

void Staging::upload(void* to, const void* from, size_t bytes) {
  const auto size = int64_t(bytes);
  if (bytes >= Feed::kLeast) return feed_.upload(to, {.data = static_cast<const char*>(from), .rows = 1, .bytes = size, .stride = size});
  for (size_t done = 0, n; done < bytes; done += n) {
    n = std::min(kBytes, bytes - done);
    char* half = memory_ + half_ * kBytes;
    if (sending_[half_]) waits_.event(sent_[half_]);
    std::memcpy(half, static_cast<const char*>(from) + done, n);
    check(cudaMemcpyAsync(static_cast<char*>(to) + done, half, n, cudaMemcpyHostToDevice, stream_), "upload");
    check(cudaEventRecord(sent_[half_], stream_), "record an event");
    sending_[half_] = true, sent_before_[half_] = marks_;
    half_ ^= 1;
  }
}

void Staging::upload(void* to, const HostRows& from) {
  if (from.rows <= 1 || from.stride == from.bytes) upload(to, from.data, size_t(from.all()));
  else feed_.upload(to, from);
}

void Staging::download(void* to, const void* from, size_t bytes) {
  for (size_t done = 0, n; done < bytes; done += n) {
    if (gathers_[marks_ % kGathers].bytes == kBytes) finish();
    Gather& g = gathers_[marks_ % kGathers];
    n = std::min(kBytes - g.bytes, bytes - done);
    check(cudaMemcpyAsync(g.area + g.bytes, static_cast<const char*>(from) + done, n, cudaMemcpyDeviceToHost, stream_), "download");
    g.pending.push_back({.to = static_cast<char*>(to) + done, .from = g.area + g.bytes, .bytes = n});
    g.bytes += n;
  }
}

void Staging::hand_over(Gather& g) {
  for (const Pending& p : g.pending) std::memcpy(p.to, p.from, p.bytes);
  g.pending.clear(), g.bytes = 0;
}

uint64_t Staging::mark() {
  check(cudaEventRecord(gathers_[marks_ % kGathers].there, stream_), "record an event");
  const uint64_t mark = marks_++;
  complete(gathers_[marks_ % kGathers]);  // of a mark long past, whose area the next downloads take
  return mark;
}

void Staging::wait(uint64_t mark) {
  if (mark + kGathers <= marks_ || !complete(gathers_[mark % kGathers])) return;
  for (size_t i = 0; i < sending_.size(); i++) sending_[i] = sending_[i] && sent_before_[i] > mark;
}

/// Whether there was anything to wait for.
bool Staging::complete(Gather& g) {
  if (g.pending.empty()) return false;
  waits_.event(g.there);
  hand_over(g);
  return true;
}

void Staging::finish() {
  waits_.stream(stream_);
  sending_ = {};
  for (uint64_t i = 1; i <= kGathers; i++) hand_over(gathers_[(marks_ + i) % kGathers]);  // the oldest first
}

}  // namespace cuda

int64_t CudaBackend::memory_free() const {
  enter();
  size_t available = 0, total = 0;
  cuda::check(cudaMemGetInfo(&available, &total), "ask for free memory");
  return int64_t(available);
}

void* CudaBackend::allocate(size_t bytes) {
  enter();
  void* p = nullptr;
  const cudaError_t error = cudaMalloc(&p, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // so that no later call reports it again
    fail(ErrorKind::memory, "cannot allocate ", bytes, " bytes of GPU memory: ", memory_free(), " bytes are free");
  }
  cuda::check(error, "allocate memory");
  return p;
}

void CudaBackend::release(void* p) noexcept { cudaFree(p); }
void CudaBackend::upload(void* to, const void* from, size_t bytes) {
  enter();
  staging_->upload(to, from, bytes);
}
void CudaBackend::download(void* to, const void* from, size_t bytes) { staging_->download(to, from, bytes); }
void CudaBackend::synchronize() {
  enter();
  staging_->finish();
}
uint64_t CudaBackend::mark() { return staging_->mark(); }
void CudaBackend::wait(uint64_t mark) {
  enter();
  staging_->wait(mark);
}

}  // namespace neox
