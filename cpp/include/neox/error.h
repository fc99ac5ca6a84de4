// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <stdexcept>
#include <string>

#define NEOX_API __attribute__((visibility("default")))

namespace neox {

enum class ErrorKind {
  invalid,      // an argument, a config or a file's content is wrong: Python's ValueError
  not_found,    // a file or folder is not there: FileNotFoundError
  unsupported,  // well-formed, but not something this build or engine does: NotImplementedError
  memory,       // an allocation or a budget was exceeded: MemoryError
  numerical,    // NaN or infinity where a finite number was due: NumericalError
  runtime,      // misuse of an object, or the system failed: RuntimeError
};

/// The one exception type of the library. Its message says what was expected and what was found.
class NEOX_API Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message);
  ~Error() override;  // out of line: one type_info, so that a plugin's throw is caught by type
  ErrorKind kind;
};

}  // namespace neox
