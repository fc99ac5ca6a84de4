// SPDX-License-Identifier: Apache-2.0
#include "base/plugin.h"

#include <dlfcn.h>
#include <link.h>

#include <filesystem>

#include "base/check.h"

namespace neox {
namespace {

namespace fs = std::filesystem;

/// Of the library or program that this is linked into.
fs::path own_folder() {
  Dl_info info;
  link_map* map = nullptr;
  require(dladdr1(reinterpret_cast<void*>(&own_folder), &info, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) != 0,
          "the loader does not know the file that this code is in");
  // A program has no name there; what it was called by may be found on the PATH alone.
  return (*map->l_name ? fs::absolute(map->l_name) : fs::read_symlink("/proc/self/exe")).parent_path();
}

}  // namespace

void* plugin_symbol(const std::string& file, const char* symbol) {
  const fs::path folder = own_folder();
  fs::path path = folder / file;
  if (!fs::exists(path) && folder.filename() == "bin")  // an installed program
    path = folder.parent_path() / NEOX_LIBDIR / file;
  if (!fs::exists(path)) fail(ErrorKind::unsupported, folder.string(), " has no ", file);
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) fail(ErrorKind::unsupported, dlerror());
  void* found = dlsym(handle, symbol);
  if (!found) fail(ErrorKind::unsupported, path.string(), " has no symbol ", symbol);
  return found;
}

}  // namespace neox
