// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

#include "neox/error.h"

namespace neox {

/// Loads the shared library `file` from the folder that holds this library, or of a program in bin/ from the libraries'
/// folder beside it, and returns its symbol.
/// Stays loaded for the life of the process. Throws Error(unsupported) with the loader's own words.
NEOX_API void* plugin_symbol(const std::string& file, const char* symbol);

}  // namespace neox
