#include "checks.hpp"

#include <cmath>
#include <cstdio>

namespace kernel_tests {

std::uint64_t Random::bits() {
  std::uint64_t x = state_ += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

Memory::Memory(std::size_t size_bytes)
    : whole_(nullptr, &std::free), size_bytes_(size_bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 2 * kAlignment, kAlignment + size_bytes) != 0) std::abort();
  whole_.reset(static_cast<unsigned char*>(memory));
  std::memset(memory, 0xcd, kAlignment + size_bytes);
}

namespace {

// Of a code's bits those that are not its exponent.
std::uint64_t without_exponent(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
      return 0x800fffffffffffffu;
    case Dtype::f32:
      return 0x807fffffu;
    case Dtype::f16:
      return 0x83ffu;
    case Dtype::bf16:
      return 0x807fu;
    case Dtype::f8_e4m3:
      return 0x87u;
    case Dtype::f8_e5m2:
      return 0x83u;
  }
  return 0;
}

double plain_value(Random& random, double base) {
  return random.one_in(5) ? base : base + 0.1 * (random.unit() - 0.5);
}
double equal_value(Random& random) {
  constexpr double kValues[] = {0, -0.0, 0.5, -0.5, 1, 1.25, -1.25, 3};
  return kValues[random.below(8)];
}

Memory tensor(Dtype dtype, const std::vector<double>& base, Kind kind, Random& random) {
  const std::size_t count = base.size(), width = size_of(dtype);
  std::vector<double> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = kind == Kind::equal ? equal_value(random) : plain_value(random, base[i]);
  const Term term{values.data(), Dtype::f64, 1};
  Memory made(count * width);
  generic_kernels().combine(
      {&term, 1, made.data(), dtype, count, nullptr, nullptr, dtype});
  for (std::size_t i = 0; i < count; ++i) {
    std::uint64_t code = random.bits();
    if (kind == Kind::tiny) code &= without_exponent(dtype);
    const bool wild =
        kind == Kind::wild && i / kTileElements % 3 != 1 && random.one_in(8);
    if (wild || (kind == Kind::tiny && !random.one_in(16)))
      std::memcpy(made.data() + i * width, &code, width);
  }
  return made;
}

int checks = 0, failures = 0;

}  // namespace

Inputs::Inputs(const std::vector<Dtype>& dtypes, std::size_t count, Kind kind,
               Random& random) {
  std::vector<double> base(count);
  for (double& value : base) value = random.unit() + random.unit() - 1;
  std::vector<double> others = base;
  for (std::size_t i = 5; kind == Kind::huge && i < count; i += 700) {
    base[i] = 1e38;
    others[i] = 1e33;
  }
  for (const Dtype dtype : dtypes) {
    memory.push_back(tensor(dtype, memory.empty() ? base : others, kind, random));
    terms.push_back({memory.back().data(), dtype, 1});
  }
}

std::vector<Term> Inputs::from(std::size_t start) const {
  std::vector<Term> moved = terms;
  for (std::size_t k = 0; k < moved.size(); ++k)
    moved[k].data = memory[k].data() + start * size_of(moved[k].dtype);
  return moved;
}

std::vector<Dtype> dtypes_of(std::size_t count, const Dtype* only, Random& random) {
  std::vector<Dtype> dtypes;
  for (std::size_t k = 0; k < count; ++k)
    dtypes.push_back(only != nullptr ? *only : any_dtype(random));
  return dtypes;
}

cudaStream_t stream() {
  static cudaStream_t made = nullptr;
  if (made == nullptr) cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking);
  return made;
}

void finish(const std::string& what) {
  cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) error = cudaStreamSynchronize(stream());
  check(error == cudaSuccess, what + ": " + cudaGetErrorString(error));
}

void check(bool good, const std::string& what) {
  ++checks;
  if (good) return;
  std::printf("failed: %s\n", what.c_str());
  if (++failures == 5) std::exit(1);
}

void check_bytes(const void* found, const void* expected, std::size_t size_bytes,
                 const std::string& what) {
  const auto* const a = static_cast<const unsigned char*>(found);
  const auto* const b = static_cast<const unsigned char*>(expected);
  std::size_t at = 0;
  while (at < size_bytes && a[at] == b[at]) ++at;
  check(at == size_bytes,
        what + ": byte " + std::to_string(at) + " of " + std::to_string(size_bytes));
}

bool same(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return std::memcmp(&a, &b, sizeof a) == 0;
}

int checks_done() { return failures == 0 ? checks : -1; }

bool is_chosen(Random& random, std::size_t one_in) {
  return one_in == 1 || random.one_in(one_in);
}

}  // namespace kernel_tests
