// usage: kernel_tests ONE_IN SEED ORDER ...: one in so many cases, drawn anew for every
// order of threads (tests/cards/cuda_shim/block.cpp).
#include <cstdio>

#include "checks.hpp"

int main(int argument_count, char** arguments) {
  using namespace kernel_tests;
  if (argument_count < 4) return 2;
  const std::size_t one_in = std::strtoul(arguments[1], nullptr, 10);
  std::uint64_t seed = std::strtoul(arguments[2], nullptr, 10);
  for (int k = 3; k < argument_count; ++k) {
    setenv("TVMERGE_SHIM_ORDER", arguments[k], 1);
    Random random(seed++);
    test_combine(random, one_in);
    test_consensus(random, one_in);
    test_reduce(random, one_in);
    test_scan(random, one_in);
  }
  std::printf("%d checks\n", checks_done());
  return checks_done() < 0 ? 1 : 0;
}
