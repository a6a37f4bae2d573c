#include "kernels/kernels.hpp"

#include <cmath>
#include <limits>

#include "core/error.hpp"

namespace tvmerge {
namespace {

std::vector<const Kernels*> usable() {
  std::vector<const Kernels*> found;
#ifdef TVMERGE_X86
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    found.push_back(&avx512_kernels());
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    found.push_back(&avx2_kernels());
  }
#endif
  found.push_back(&generic_kernels());
  return found;
}

}  // namespace

bool accumulates_in_double(const Term* terms, std::size_t term_count, Dtype out) {
  using Limits = std::numeric_limits<float>;
  if (out == Dtype::f32 || out == Dtype::f64) return true;
  for (std::size_t k = 0; k < term_count; ++k) {
    const double size = std::abs(terms[k].coefficient);
    // As a float this coefficient would overflow, or lose its digits.
    const bool beyond_float = size != 0 && (size < Limits::min() || size > Limits::max());
    if (terms[k].dtype == Dtype::f64 || beyond_float) return true;
  }
  return false;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Kernels* kernels : usable()) names.emplace_back(kernels->isa);
  return names;
}

const Kernels& kernels_for(const std::string& isa) {
  std::string names;
  for (const Kernels* kernels : usable()) {
    if (isa.empty() || isa == kernels->isa) return *kernels;
    names += std::string(names.empty() ? "" : ", ") + kernels->isa;
  }
  throw Error(ErrorKind::config, "instruction set '" + isa +
                                     "' cannot be used here: this machine has " + names);
}

}  // namespace tvmerge
