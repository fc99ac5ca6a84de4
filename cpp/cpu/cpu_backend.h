// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <string>

#include "backend/backend.h"

namespace neox {

std::unique_ptr<Backend> make_cpu_backend(const std::string& isa, int num_threads);

}  // namespace neox
