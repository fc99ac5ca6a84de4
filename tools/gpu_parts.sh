# Sourced by tools/gpu_check and tools/multi_gpu_check: builds in build/gpu, runs the parts that were named, and sums up.
# --prebuilt FOLDER as the first of the arguments takes FOLDER/bin and FOLDER/site instead of building. CMAKE_ARGS=... goes to CMake.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"

prebuilt=
if [ "${1:-}" = --prebuilt ]; then
  prebuilt=$(cd "$2" && pwd)
  shift 2
fi
parts=("$@")
made=${prebuilt:-$root/build/gpu}
site=$made/site
bin=$made/bin

build() {
  mkdir -p "$site"
  # cuBLASLt as the loader finds it: the toolkit's, or that of the Python that is here.
  LD_LIBRARY_PATH=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia/cu13/lib:${CUDA_HOME:-/usr/local/cuda}/lib64:${LD_LIBRARY_PATH:-}
  export LD_LIBRARY_PATH PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
  [ -z "$prebuilt" ] || return 0
  # shellcheck disable=SC2086
  run cmake -S . -B build/gpu -G Ninja ${CMAKE_ARGS:-}
  run cmake --build build/gpu -j16
  run "$python" -m pip install -q --no-deps --no-build-isolation --upgrade --target "$site" .
}

# A program that is built when it is asked for.
program() {
  if [ -z "$prebuilt" ]; then run cmake --build build/gpu -j16 --target "$1" || return; fi
  run "$bin/$1" "${@:2}"
}

# run_parts DEFAULT...: those that were named, else these.
run_parts() {
  ((${#parts[@]})) || parts=("$@")
  build
  local results=() failed=0 start part result
  for part in "${parts[@]}"; do
    start=$SECONDS
    if "$part"; then result=ok; else result=FAILED failed=1; fi
    results+=("$(printf '%-9s %-7s %4d s' "$part" "$result" $((SECONDS - start)))")
  done
  printf '%s\n' "--- $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | sort | uniq -c | sed 's/^ *//')" "${results[@]}"
  exit $failed
}
