// SPDX-License-Identifier: Apache-2.0
#include "base/plugin.h"

#include <dlfcn.h>
#include <sys/stat.h>

#include "base/check.h"

namespace neox {

void* plugin_symbol(const std::string& file, const char* symbol) {
  Dl_info self;
  std::string folder = ".";
  if (dladdr(reinterpret_cast<void*>(&plugin_symbol), &self) && self.dli_fname) {
    const std::string path = self.dli_fname;
    if (const auto slash = path.rfind('/'); slash != std::string::npos) folder = path.substr(0, slash);
  }
  struct stat found_file;
  std::string path = folder + "/" + file;
  if (stat(path.c_str(), &found_file) != 0 && folder.ends_with("/bin"))  // an installed program
    path = folder + "/../" NEOX_LIBDIR "/" + file;
  if (stat(path.c_str(), &found_file) != 0) fail(ErrorKind::unsupported, folder, " has no ", file);
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) fail(ErrorKind::unsupported, dlerror());
  void* found = dlsym(handle, symbol);
  if (!found) fail(ErrorKind::unsupported, path, " has no symbol ", symbol);
  return found;
}

}  // namespace neox
