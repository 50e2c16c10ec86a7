#!/usr/bin/env bash
# Builds the CPU operators with AddressSanitizer and UndefinedBehaviorSanitizer into build/sanitize, beside the normal
# build and without touching it, and runs the tests of the native operators on them. Any report ends it with a failure.
# PYTHON names the environment's interpreter; further arguments go to pytest.
set -euo pipefail
python=${PYTHON:?set PYTHON to the interpreter of the environment}
out=$PWD/build/sanitize
say() { printf '==> %s\n' "$1"; }

# Python itself is not instrumented, so the sanitizers' runtimes must be loaded before anything else.
runtimes=
for name in libasan.so libubsan.so; do
  path=$("${CXX:-c++}" -print-file-name="$name")
  if [ ! -e "$path" ]; then
    echo "no $name beside the compiler ${CXX:-c++}: this needs GCC with its sanitizers (Debian: libgcc-dev)" >&2
    exit 1
  fi
  runtimes+="${runtimes:+:}$(realpath "$path")"
done

say 'building the CPU operators with sanitizers (a minute)'
rm -rf "$out/lib" && mkdir -p "$out"
DYNCONV_BUILD=cpu DYNCONV_SANITIZE=1 "$python" setup.py --quiet build --build-base "$out" --build-lib "$out/lib" \
  --build-temp "$out/objects" > "$out/log" 2>&1 || { cat "$out/log" >&2; exit 1; }

# detect_leaks=0: the interpreter and torch keep memory until the end, and nothing of ours outlives a call. Every new
# byte is 255, so that floats which nobody wrote are NaN and a test fails.
asan=detect_leaks=0:max_malloc_fill_size=1000000000:malloc_fill_byte=255
sanitized() {
  env LD_PRELOAD="$runtimes" ASAN_OPTIONS="$asan" UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH="$out/lib" "$@"
}

say 'checking that the tests will load that build'
loaded=$(sanitized "$python" -P -c 'import dynconv.functional as f, dynconv; print(dynconv.__file__)')
library=$(echo "$out"/lib/dynconv/_native_cpu*.so)
if [ "$loaded" != "$out/lib/dynconv/__init__.py" ] || ! grep -q __asan_report "$library"; then
  echo "the tests would load $loaded, or $library is not sanitized" >&2
  exit 1
fi

# --capture=sys: a report goes to the file descriptor, and pytest would take it along when the process aborts.
say 'running the tests of the native operators'
sanitized "$(dirname "$python")/pytest" -q --capture=sys -m 'not gpu' -k '(native or coefficients) and not emulated' tests/ops "$@"
