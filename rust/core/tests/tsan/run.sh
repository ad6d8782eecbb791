#!/usr/bin/env bash
# The tests of meteora-core under ThreadSanitizer, with std as the toolchain ships it: `run.sh [what cargo test takes]`.
#
# That std is not instrumented, so an order that its compiled code makes is invisible, and each use of a contended lock
# would look like a race. What such code does in our paths is told to the sanitizer by wrappers around it: a lock taken
# after waiting, a condition variable's wait, and the end of a scoped thread. suppressions.txt has the rest.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=$(cd "$here/../../../.." && pwd)/target/tsan
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
std=$(echo "$(rustc +nightly --print sysroot)/lib/rustlib/$host/lib/"libstd-*.rlib)
mkdir -p "$target/std"
(cd "$target/std" && rm -f ./*.o && ar x "$std")

# wrap PATTERN RESULT PARAMETERS ARGUMENTS BEFORE AFTER: around each of std's functions whose symbol matches.
wrap() {
  local symbols
  symbols=$(readelf -sW "$target"/std/std-*.o | awk '$5 == "GLOBAL" && $7 != "UND" { print $8 }' | grep -E "$1") \
    || { echo "This std has no $1." >&2; exit 1; }
  for symbol in $symbols; do
    echo "__attribute__((weak)) $2 __real_$symbol($3);"
    echo "$2 __wrap_$symbol($3) { $5 $2 result = __real_$symbol($4); $6 return result; }"
    echo "-Clink-arg=-Wl,--wrap=$symbol" >> "$target/flags"
  done
}
: > "$target/flags"
{
  echo '#include <stdint.h>'
  echo 'void __tsan_acquire(void *); void __tsan_release(void *);'
  wrap '(lock|read|write)_contended$' intptr_t 'void *lock' lock '' '__tsan_acquire(lock);'
  wrap '7condvar5futex.*4wait$' intptr_t 'void *condition, void *lock' 'condition, lock' \
    '__tsan_release(lock);' '__tsan_acquire(lock);'
  wrap '7condvar5futex.*12wait_timeout$' intptr_t 'void *condition, void *lock, uint64_t s, uint32_t ns' \
    'condition, lock, s, ns' '__tsan_release(lock);' '__tsan_acquire(lock);'
  # The count of running threads is one of the three words, and its place is the compiler's choice.
  wrap '9ScopeData29decrement_num_running_threads$' intptr_t 'uint64_t *scope, uint64_t panicked' 'scope, panicked' \
    '__tsan_release(scope); __tsan_release(scope + 1); __tsan_release(scope + 2);' ''
} > "$target/std.c"
cc -O1 -c "$target/std.c" -o "$target/std_wrapped.o"

export TSAN_OPTIONS="suppressions=$here/suppressions.txt"
export RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer -Clink-arg=$target/std_wrapped.o"
RUSTFLAGS+=" $(tr '\n' ' ' < "$target/flags")"
cargo +nightly test --release --target "$host" --target-dir "$target" --package meteora-core "$@"
