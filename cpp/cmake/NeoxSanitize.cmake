# NEOX_SANITIZE=address|thread|undefined instruments everything with GCC's or clang's sanitizers; address looks for undefined behaviour too.
# NEOX_FUZZ=ON adds the fuzz targets of tests/fuzz, and needs clang with libFuzzer.
set(NEOX_SANITIZE "" CACHE STRING "sanitizer: address, thread, undefined, or nothing")
set_property(CACHE NEOX_SANITIZE PROPERTY STRINGS "" address thread undefined)
option(NEOX_FUZZ "build the fuzz targets (needs clang and libFuzzer)" OFF)

set(sanitize_address -fsanitize=address,undefined)
set(sanitize_thread -fsanitize=thread)
set(sanitize_undefined -fsanitize=undefined)
if(NOT NEOX_SANITIZE MATCHES "^(|address|thread|undefined)$")
  message(FATAL_ERROR "NEOX_SANITIZE is '${NEOX_SANITIZE}', expected address, thread, undefined, or nothing")
endif()
if(NEOX_FUZZ)
  include(CheckCXXSourceCompiles)
  set(CMAKE_REQUIRED_FLAGS -fsanitize=fuzzer)
  check_cxx_source_compiles("extern \"C\" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }" NEOX_HAS_LIBFUZZER)
  unset(CMAKE_REQUIRED_FLAGS)
  if(NOT NEOX_HAS_LIBFUZZER)
    message(FATAL_ERROR "NEOX_FUZZ=ON needs clang with libFuzzer, but ${CMAKE_CXX_COMPILER} is ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION} "
      "without it: apt-get install clang-14 libclang-rt-14-dev, then -DCMAKE_C_COMPILER=clang-14 -DCMAKE_CXX_COMPILER=clang++-14")
  endif()
  if(NEOX_SANITIZE)
    message(FATAL_ERROR "NEOX_FUZZ=ON brings its own sanitizers: leave NEOX_SANITIZE empty")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link)
  set(NEOX_SANITIZE address)
endif()

if(NEOX_SANITIZE)
  # The first finding ends the program; asserts, the standard library's too, hold whatever the build type.
  add_compile_options(${sanitize_${NEOX_SANITIZE}} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1 -UNDEBUG -D_GLIBCXX_ASSERTIONS)
  add_link_options(${sanitize_${NEOX_SANITIZE}})
  # For the kernels, which are unrolled so far that full instrumentation takes many minutes to compile: memory is watched but not their own
  # stack, and undefined behaviour is left to NEOX_SANITIZE=undefined.
  set(sanitize_kernels -O1)
  if(NEOX_SANITIZE STREQUAL address)
    list(APPEND sanitize_kernels -fno-sanitize=undefined -fno-sanitize-address-use-after-scope)
    if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
      list(APPEND sanitize_kernels "SHELL:--param asan-stack=0")
    else()
      list(APPEND sanitize_kernels "SHELL:-mllvm -asan-stack=0")
    endif()
  endif()
endif()
