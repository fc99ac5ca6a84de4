// SPDX-License-Identifier: Apache-2.0
// Sums and gathers between the GPUs of one machine by kernels that write into each other's memory.
#pragma once
#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "check.h"

namespace neox::cuda {

constexpr int kMostPeers = 8;
constexpr int kExchangeCells = 512;

/// A rank's side of an exchange; lives on the host and is given to kernels by value. Messages are numbered, and go through three areas in
/// turn: while one fills, the one before it is emptied, and the next is empty since the message before.
struct Peers {
  char* areas[kMostPeers];  // [3][ranks][capacity] of each rank, this one's own among them: what each other rank writes for it
  uint4* cells;             // [kExchangeCells] on the device: messages so far, 16-byte packets of the last, whether all is over; all alike
  int* over;                // in host memory: set by whoever gives up
  int rank, ranks;
  size_t capacity;    // bytes of one message
  uint64_t patience;  // nanoseconds that a kernel waits for the others
};

/// Fills this rank's areas and cells as they have to be before the first message of any rank.
void clear_peers(const Peers& peers, cudaStream_t stream);
/// x [rows, cols] f32 becomes the sum over ranks, in rank order, of what each rank's x is in the type `wire`. Same bits on all ranks.
/// Reads and writes up to the next multiple of 8 columns, which rows have room for.
void exchange_sum(const Peers& peers, const Tensor& x, DType wire, const Stream& stream);
/// add_norm(a) once a.add has become its sum over the ranks, which is written nowhere: bit for bit exchange_sum and add_norm. By at most
/// `most` CTAs.
void exchange_add_norm(const Peers& peers, const AddNormArgs& a, DType wire, const Stream& stream, int most = kExchangeCells);
/// Whether it may be called: the norms are of the type that travels, and rows consist of whole packets.
bool can_exchange_add_norm(const AddNormArgs& a, DType wire);
/// out [rows, ranks * cols] f32: the ranks' parts [rows, cols] f32 side by side; part's rows may be read up to a multiple of 4 columns.
void exchange_parts(const Peers& peers, const Tensor& out, const Tensor& part, const Stream& stream);

/// Sums by another way than exchange_sum: to [rows, cols], close together, in the type `wire`, and back.
void pack_wire(void* to, const Tensor& x, DType wire, const Stream& stream);
/// x = the sum, in rank order, of `ranks` such blocks one after the other.
void sum_wires(const Tensor& x, const void* from, DType wire, int ranks, const Stream& stream);
/// out = `ranks` blocks [rows, ld] f32, as part's rows lie, side by side.
void place_parts(const Tensor& out, const void* from, const Tensor& part, int ranks, const Stream& stream);

}  // namespace neox::cuda
