#!/usr/bin/env bash
# The CUDA kernels on a real card, in under ten minutes: the correctness grid, compute-sanitizer on a thinned grid, then
# the timings; leaves one JSON with card, driver and versions, whatever fails on the way.
#
#     benchmarks/gpu/run.sh [results.json]        from the repository, with the wheel, torch, transformers, pytest
#
# PYTHON names the interpreter, LIMIT the seconds for all parts (540). No part is skipped in silence: what could not run
# stands in the JSON, and so does what was cut off (status 124 or 137; the timings taken until then are there).
# It has never run on a card: none was at hand. The kernels and the launcher have run on the tests' emulator alone,
# these scripts' Python on a CPU, and this script with a stand-in for Python (tests/test_benchmarks_gpu.py).
set -uo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
LIMIT=${LIMIT:-540}
OUT=$(realpath -m "${1:-benchmarks/results/gpu-$(date +%F).json}")
WORK=$(mktemp -d)
trap '"$PYTHON" -m benchmarks.gpu.collect "$WORK" "$OUT" && echo "$OUT"; rm -rf "$WORK"' EXIT
mkdir -p "$(dirname "$OUT")"

# part NAME SECONDS COMMAND...: its output, status and time limit, the smaller of its own and what is left for all.
part() {
  local name=$1 left=$((LIMIT - SECONDS))
  local limit=$(($2 < left ? $2 : left))
  if [ "$limit" -gt 0 ]; then
    timeout -k 5 "$limit" "${@:3}" > "$WORK/$name.log" 2>&1
    echo "$?" > "$WORK/$name.status"
  else
    echo "no time left" > "$WORK/$name.status"
  fi
  echo "== $name: $(cat "$WORK/$name.status"), ${SECONDS} s"
  tail -n 3 "$WORK/$name.log" 2> /dev/null
}

if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "No CUDA device: nothing to measure."
  trap 'rm -rf "$WORK"' EXIT
  exit 1
fi

part doctor 30 "$PYTHON" -m meteora_rs.cli doctor
part grid 110 "$PYTHON" -m pytest -q tests/test_cuda_device.py
for tool in memcheck racecheck synccheck; do
  if command -v compute-sanitizer > /dev/null; then
    METEORA_THIN_GRID=1 part "$tool" 55 compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all \
      "$PYTHON" -m pytest -q tests/test_cuda_device.py -k specification
  else
    echo "missing" > "$WORK/$tool.status"
    echo "== $tool: compute-sanitizer is not on the path"
  fi
done
part kernels 100 "$PYTHON" -m benchmarks.gpu.kernels "$WORK/kernels.json"
part end_to_end 150 "$PYTHON" -m benchmarks.gpu.end_to_end "$WORK/end_to_end.json"

[ "$(cat "$WORK/grid.status")" = 0 ]
