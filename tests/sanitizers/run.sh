#!/usr/bin/env bash
# Builds the engine with a sanitizer (asan or tsan) and runs the tests that exercise it.
# usage: tests/sanitizers/run.sh asan|tsan [TEST ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
preset=$1
shift
bin=$(realpath "${BIN:-.venv/bin}")
build=$PWD/build/$preset
here=$PWD/tests/sanitizers

mkdir -p build
"$bin/cmake" --preset "$preset" -DCMAKE_MAKE_PROGRAM="$bin/ninja" \
  -DPython_EXECUTABLE="$bin/python" \
  -Dpybind11_DIR="$("$bin/python" -m pybind11 --cmakedir)" > "$build.log"
"$bin/cmake" --build "$build"

# Not test_disk_faults and test_kill: their commands run on a preloaded disk of their own.
tests=(tests/merging/test_{merge,merge_faults,batches,receipt,verify}.py
       tests/algebra/test_{sweep,compare}.py
       tests/engine/test_{numbers,rounding,same_bytes,mapping,digests,bfloat16_alone,select,consensus,row_draw,divergence}.py
       tests/methods/test_{lines,methods}.py tests/cards/test_{cards,card_files}.py)
# A sanitizer takes memory of its own, so that limits on memory say nothing; torch has its own races;
# and what only parses is slow without showing anything.
skipped="in_160_mib or fewer_threads or transformers or cut_receipt or flipped_bit"
direct=$(PYTHONPATH=tests "$bin/python" -c "from cards import shim_build; print(shim_build.cufile())")
library=libasan.so
# ThreadSanitizer wants its addresses where a randomised layout may put others.
[ "$preset" = tsan ] && library=libtsan.so && start=(setarch "$(uname -m)" -R) || start=()

rm -f "$build"/report.*
# Python was not built with the sanitizer, so its runtime has to be there first, and with it the
# C++ runtime, whose exceptions it intercepts. Python's own leaks are not ours.
export LD_PRELOAD="$(g++ -print-file-name=$library) $(g++ -print-file-name=libstdc++.so.6)"
export ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:log_path=$build/report"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1" # it knows no log: hence --capture=sys
export TSAN_OPTIONS="suppressions=$here/tsan.txt:log_path=$build/report:die_after_fork=0"
export PYTHONPATH="$here" TVMERGE_CORE="$build" OPENBLAS_NUM_THREADS=1 PYTHONMALLOC=malloc

loaded="import os, tvmerge._core as core; assert core.__file__.startswith(os.environ['TVMERGE_CORE'])"
"${start[@]}" "$bin/python" -c "$loaded"

status=0
for test in "${@:-${tests[@]}}"; do # each in a process of its own, which holds little
  chosen="not ($skipped)"
  # Fibers under a sanitizer are slow: a few of these.
  [[ $test == */test_cards.py ]] && chosen="processor and BF16 and (ties or sce or slerp)"
  [[ $test == */test_card_files.py ]] && export TVMERGE_GPUDIRECT="$direct"
  # ThreadSanitizer's runtime ends with SIGSEGV when a process has had too many fibers.
  [[ $preset == tsan && $test == */test_card_files.py ]] && chosen="early or not_taken"
  "${start[@]}" "$bin/python" -m pytest -q --capture=sys -k "$chosen" "$test" ||
    status=$?
done
unset LD_PRELOAD
if compgen -G "$build/report.*" > /dev/null; then
  cat "$build"/report.*
  echo "$preset: reports in $build"
  exit 1
fi
exit "$status"
