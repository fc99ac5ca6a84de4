// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <sstream>
#include <string>

#include "neox/error.h"

namespace neox {

template <class... Parts> std::string concat(const Parts&... parts) {
  std::ostringstream s;
  (s << ... << parts);
  return s.str();
}
template <class... Parts> [[noreturn]] void fail(ErrorKind kind, const Parts&... parts) { throw Error(kind, concat(parts...)); }

/// Throws Error(invalid) unless ok. For what a caller or a file can get wrong; inner invariants use assert.
template <class... Parts> void require(bool ok, const Parts&... parts) {
  if (!ok) fail(ErrorKind::invalid, parts...);
}

}  // namespace neox
