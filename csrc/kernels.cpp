#include "kernels.hpp"

#include "error.hpp"

namespace tvmerge {
namespace {

std::vector<const Kernels*> usable() {
  std::vector<const Kernels*> found;
#ifdef TVMERGE_HAVE_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    found.push_back(&avx2_kernels());
  }
#endif
  found.push_back(&generic_kernels());
  return found;
}

}  // namespace

bool accumulates_in_double(const Term* terms, std::size_t term_count, Dtype out) {
  if (out == Dtype::f32 || out == Dtype::f64) return true;
  for (std::size_t k = 0; k < term_count; ++k) {
    if (terms[k].dtype == Dtype::f64) return true;
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
