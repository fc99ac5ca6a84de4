// SPDX-License-Identifier: Apache-2.0
#include "comm/communicator.h"

#include "backend/backend.h"

namespace neox {

void Communicator::all_reduce_add_norm(Backend& be, const AddNormArgs& a) {
  all_reduce(a.add);
  be.add_norm(a);
}

}  // namespace neox
