// SPDX-License-Identifier: Apache-2.0
// How the kernels for few rows walk through W: in units of 128 rows by some inputs, tile of outputs after tile.
// Two parts with outs of their own are tiles one after the other; two parts with one out are one tile's units one after the other.
#pragma once
#include "device.cuh"
#include "linear_small.h"
#include "types.cuh"

namespace neox::cuda {

/// A unit of W among all: of which tile of which out. For a share's next unit, advance().
struct SmallCursor {
  int part, tile, unit, units;  // unit: of the tile's `units`

  __device__ SmallCursor(const SmallCall& p, int at) {
    const int first = p.tiles * p.per_tile;
    part = at >= first;
    units = part ? p.parts[1].units : p.per_tile;
    at -= part ? first : 0;
    tile = at / units, unit = at % units;
  }
  __device__ void advance(const SmallCall& p) {
    if (++unit == units) next_tile(p);
  }
  __device__ void next_tile(const SmallCall& p) {
    unit = 0, tile++;
    if (part == 0 && tile == p.tiles) part = 1, tile = 0, units = p.parts[1].units;
  }
  __device__ bool in_second(const SmallCall& p) const { return part == 1 || (p.sum && unit >= p.parts[0].units); }
  __device__ const SmallPart& source(const SmallCall& p) const { return p.parts[in_second(p)]; }
  __device__ int unit_of_source(const SmallCall& p) const { return unit - (part == 0 && in_second(p) ? p.parts[0].units : 0); }
  __device__ int begin(const SmallCall& p) const {  // the tile's first unit, among all
    return part ? p.tiles * p.per_tile + tile * units : tile * units;
  }
};

}  // namespace neox::cuda
