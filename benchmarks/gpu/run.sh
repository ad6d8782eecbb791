#!/usr/bin/env bash
# The CUDA kernels on a real card, in under ten minutes: the correctness grid, compute-sanitizer on a thinned grid, then
# the timings; leaves one JSON with card, driver and versions.
#
#     benchmarks/gpu/run.sh [results.json]        from the repository, with the wheel, torch, transformers, pytest
#
# PYTHON names the interpreter. No step is skipped in silence: what could not run stands in the JSON.
# It has never run on a card: none was at hand. The kernels and the launcher have run on the tests' emulator alone,
# and these scripts' Python on a CPU (tests/test_benchmarks_gpu.py).
set -uo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
OUT=$(realpath -m "${1:-benchmarks/results/gpu-$(date +%F).json}")
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' \
  || { echo "No CUDA device: nothing to measure."; exit 1; }

timeout 120 "$PYTHON" -m pytest -q tests/test_cuda_device.py 2>&1 | tee "$WORK/grid.log"
echo "${PIPESTATUS[0]}" > "$WORK/grid.status"

for tool in memcheck racecheck synccheck; do
  if command -v compute-sanitizer > /dev/null; then
    METEORA_THIN_GRID=1 timeout 60 compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all \
      "$PYTHON" -m pytest -q tests/test_cuda_device.py -k specification > "$WORK/$tool.log" 2>&1
    echo "$?" > "$WORK/$tool.status"
  else
    echo "compute-sanitizer is not on the path" > "$WORK/$tool.log"
    echo "missing" > "$WORK/$tool.status"
  fi
done

for part in kernels end_to_end; do
  timeout 140 "$PYTHON" -m "benchmarks.gpu.$part" "$WORK/$part.json" 2>&1 | tee "$WORK/$part.log"
  echo "${PIPESTATUS[0]}" > "$WORK/$part.status"
done

"$PYTHON" -m benchmarks.gpu.collect "$WORK" "$OUT" && echo "$OUT"
[ "$(cat "$WORK/grid.status")" = 0 ]
