// dynconv._host: how the native code was built, and what this processor can do. The only file that sees Python, for
// pybind11 does not go with the stable ABI of the operator libraries.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

namespace {

#define DYNCONV_TEXT_OF(value) #value
#define DYNCONV_TEXT(value) DYNCONV_TEXT_OF(value)

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#elif defined(_MSC_VER)
  return "msvc " DYNCONV_TEXT(_MSC_FULL_VER);
#else
  return "unknown";
#endif
}

std::map<std::string, std::string> build_info() {
  return {
      {"compiler", compiler()},
      {"cxx_standard", std::to_string(__cplusplus)},
      {"torch", DYNCONV_TEXT(DYNCONV_BUILT_WITH_TORCH)},
      {"cuda", DYNCONV_TEXT(DYNCONV_BUILT_WITH_CUDA)},
      {"cuda_architectures", DYNCONV_TEXT(DYNCONV_CUDA_ARCHITECTURES)},
      {"python", PY_VERSION},
      {"pybind11", DYNCONV_TEXT(PYBIND11_VERSION_MAJOR) "." DYNCONV_TEXT(PYBIND11_VERSION_MINOR)},
  };
}

std::vector<std::string> cpu_capabilities() {
  std::vector<std::string> found;
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
  __builtin_cpu_init();
#define DYNCONV_ASK(feature) \
  if (__builtin_cpu_supports(feature)) found.emplace_back(feature)
  DYNCONV_ASK("sse4.2");
  DYNCONV_ASK("avx");
  DYNCONV_ASK("f16c");
  DYNCONV_ASK("fma");
  DYNCONV_ASK("avx2");
  DYNCONV_ASK("avx512f");
  DYNCONV_ASK("avx512bw");
  DYNCONV_ASK("avx512dq");
  DYNCONV_ASK("avx512vl");
  DYNCONV_ASK("avx512vnni");
  DYNCONV_ASK("avx512bf16");
#undef DYNCONV_ASK
#elif defined(__aarch64__)
  found.emplace_back("neon");
#endif
  return found;
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.doc() = "How dynconv's native code was built, and what this processor can do.";
  m.def("build_info", &build_info, "Compiler, versions and CUDA architectures of the native build, as text.");
  m.def("cpu_capabilities", &cpu_capabilities, "The instruction sets of this processor that matter to the kernels.");
}
