#!/usr/bin/env bash
# Builds the shim's own tests, plain and under sanitizers, and runs them. What they print
# of "cuda_shim:" are the mistakes that they make on purpose.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
flags=(-std=c++17 -Wall -Wextra -Wconversion -Werror -ffp-contract=off -fno-strict-aliasing
  -g -pthread -I "$here")

for kind in "-O2" "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all" \
  "-O1 -fsanitize=thread"; do
  echo "== $kind"
  # shellcheck disable=SC2086
  g++ "${flags[@]}" $kind -x c++ "$here"/selftest*.cu "$here"/*.cpp -o "$build/selftest"
  if ! "$build/selftest" >"$build/out" 2>"$build/err"; then
    cat "$build/out" "$build/err"
    exit 1
  fi
  cat "$build/out"
  [[ $kind == *address* ]] || continue
  for mistake in --overrun --shared-overrun --misaligned; do
    if "$build/selftest" "$mistake" 2>"$build/err"; then
      echo "$mistake is not found"
      exit 1
    fi
    grep -E -m 1 "heap-buffer-overflow|misaligned" "$build/err" | cut -c 1-100
  done
done
