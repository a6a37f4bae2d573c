// What the tests of kernels share: each calls csrc/cuda/launches.hpp as card.cu does, and
// compares with generic_kernels() byte for byte.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/kernels.hpp"

namespace kernel_tests {

using namespace tvmerge;

constexpr Dtype kDtypes[] = {Dtype::f64,  Dtype::f32,     Dtype::f16,
                             Dtype::bf16, Dtype::f8_e4m3, Dtype::f8_e5m2};
// Around the edges of words, rows, blocks, tiles and stretches.
constexpr std::size_t kSmall[] = {1,   2,    7,    31,   32,   33,   64,   511,
                                  512, 1023, 1024, 1025, 2047, 2048, 2049, 8193};
constexpr std::size_t kLarge[] = {65535, 65536, 65537, 262145};

// splitmix64 (Steele et al., 2014)
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits();
  std::size_t below(std::size_t count) { return bits() % count; }
  double unit() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  bool one_in(std::size_t count) { return below(count) == 0; }

 private:
  std::uint64_t state_;
};

// Memory that ends where it ends, for AddressSanitizer, and is as aligned as a flight's:
// to 64 bytes, not to 128. Poisoned.
class Memory {
 public:
  explicit Memory(std::size_t size_bytes);
  [[nodiscard]] unsigned char* data() const { return whole_.get() + kAlignment; }
  [[nodiscard]] std::size_t size_bytes() const { return size_bytes_; }
  template <typename T>
  [[nodiscard]] T* as() const {
    return reinterpret_cast<T*>(data());
  }

 private:
  static constexpr std::size_t kAlignment = 64;
  std::unique_ptr<unsigned char, decltype(&std::free)> whole_;
  std::size_t size_bytes_;
};

enum class Kind {
  plain,  // near each other, as fine-tunes are
  wild,   // and any bits at all in two of three tiles
  tiny,   // subnormal for the most part
  equal,  // a few values, so that magnitudes tie
  huge,   // a few values of the base, from which the others are lost in rounding: squares
          // of what is meant overflow, and what became of it does not
};
constexpr Kind kKinds[] = {Kind::plain, Kind::wild, Kind::tiny, Kind::equal, Kind::huge};

// Several tensors of as many elements, as a slice's terms.
struct Inputs {
  Inputs(const std::vector<Dtype>& dtypes, std::size_t count, Kind kind, Random& random);
  // The same from element `start` on.
  [[nodiscard]] std::vector<Term> from(std::size_t start) const;

  std::vector<Memory> memory;
  std::vector<Term> terms;
};
// `count` dtypes: all `only`, or any of all.
std::vector<Dtype> dtypes_of(std::size_t count, const Dtype* only, Random& random);
inline Dtype any_dtype(Random& random) { return kDtypes[random.below(6)]; }

cudaStream_t stream();
// Waits, and reports what the shim has found.
void finish(const std::string& what);
void check(bool good, const std::string& what);
void check_bytes(const void* found, const void* expected, std::size_t size_bytes,
                 const std::string& what);
// NaN is NaN: which payload an operation passes on differs between processors.
bool same(double a, double b);
int checks_done();

// Of so many cases only some are run under sanitizers, others in each round.
bool is_chosen(Random& random, std::size_t one_in);

void test_combine(Random& random, std::size_t one_in);
void test_consensus(Random& random, std::size_t one_in);
void test_reduce(Random& random, std::size_t one_in);
void test_scan(Random& random, std::size_t one_in);

}  // namespace kernel_tests
