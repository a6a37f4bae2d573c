#!/usr/bin/env bash
# On a machine with an NVIDIA card: builds, tests, checks memory, measures. Needs torch for CUDA,
# nvcc, pybind11, scikit-build-core, pytest and its plugins; no network, no ray.
# usage: [PYTHON=python3] benchmarks/gpu/run.sh [WORK]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3} work=${1:-build/gpu}
mkdir -p "$work"

"$python" -m pip install --quiet --no-build-isolation --no-deps --editable . \
  --config-settings=cmake.define.TVMERGE_CUDA=ON \
  --config-settings=cmake.define.TVMERGE_CUDA_ARCHITECTURES=native
"$python" -m tvmerge devices
[ -d "$work/models-1.1e9" ] ||
  "$python" -m benchmarks.models "$work/models-1.1e9" --parameters 1.1e9 > "$work/models.log" &
tests=(-q --no-header -p no:benchmark tests/cards/test_cards.py \
  tests/cards/test_card_blocks.py tests/in_memory/test_torch.py)
"$python" -m pytest "${tests[@]}" tests/methods/test_matrix_devices.py -n 8
direct=$("$python" -c "from tvmerge.engine.devices import gpudirect_problem as why; print(why('cuda'))")
if [ -z "$direct" ]; then
  TVMERGE_GPUDIRECT=1 "$python" -m pytest -q --no-header tests/cards/test_card_files.py
else
  echo "not tried: $direct"
fi
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck synccheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" -m pytest "${tests[@]}" \
      -k 'processor and (ties or dare_ties or sce or slerp or task_arithmetic) and BF16' 2>&1 |
      grep -v '^$'
  done
fi
wait
"$python" -m benchmarks.gpu "$work" --json "$work/gpu.json"
"$python" -m tvmerge bench "$work"/models-1.1e9/{base,tuned1,tuned2,tuned3} --device cuda --rounds 3 --dir "$work"
