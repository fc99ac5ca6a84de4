// SPDX-License-Identifier: Apache-2.0
#include "neox/error.h"

namespace neox {

Error::Error(ErrorKind k, const std::string& message) : std::runtime_error(message), kind(k) {}
Error::~Error() = default;

}  // namespace neox
