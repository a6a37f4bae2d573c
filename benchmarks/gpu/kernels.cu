// Seconds and bytes of every kernel and of the copies that are its roof, on one card, as
// JSON lines. Built and run by benchmarks/gpu/__main__.py.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cuda/launches.hpp"

namespace {

using namespace tvmerge;

constexpr std::size_t kElements = std::size_t{1} << 27;
constexpr unsigned kInputs = 4;
constexpr int kWarmUps = 3, kRounds = 15;

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}

// Codes that are neither NaN nor infinite in any dtype, near each other for neighbours in
// `number` as fine-tunes are.
__global__ void fill(std::uint32_t* words, std::size_t count, std::uint32_t number) {
  const std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  std::uint64_t x = (i + 1) * 0x9e3779b97f4a7c15u;
  x ^= x >> 29;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 32;
  const auto same = static_cast<std::uint32_t>(x);
  const auto own = static_cast<std::uint32_t>((x ^ (x >> 17)) * (2 * number + 1));
  words[i] = ((same & 0x87f887f8u) | (own & 0x00070007u)) ^ 0x38003800u;
}

struct Buffers {
  std::vector<void*> inputs;
  void *out, *room;
  Edit* edits;
  std::uint64_t* lanes;
};

Buffers make_buffers() {
  Buffers made{};
  const std::size_t bytes = kElements * 4;
  for (unsigned k = 0; k < kInputs; ++k) {
    void* data = nullptr;
    check(cudaMalloc(&data, bytes));
    fill<<<static_cast<unsigned>(bytes / 4 / 256), 256>>>(
        static_cast<std::uint32_t*>(data), bytes / 4, k);
    made.inputs.push_back(data);
  }
  check(cudaMalloc(&made.out, bytes));
  check(cudaMalloc(&made.room, std::size_t{1} << 30));
  check(cudaMemset(made.room, 0, std::size_t{1} << 30));
  check(cudaMalloc(&made.edits, kElements / kTileElements * sizeof(Edit)));
  check(cudaMalloc(&made.lanes, 1024));
  check(cudaMemset(made.lanes, 0, 1024));
  check(cudaDeviceSynchronize());
  return made;
}

// The median of a few rounds, each of its own events.
template <typename Run>
void time_it(const std::string& name, double bytes, cudaStream_t stream, Run&& run) {
  for (int n = 0; n < kWarmUps; ++n) run();
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<float> held;
  for (int n = 0; n < kRounds; ++n) {
    check(cudaEventRecord(begin, stream));
    run();
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end));
    held.push_back(milliseconds);
  }
  check(cudaGetLastError());
  std::sort(held.begin(), held.end());
  const double seconds = held[held.size() / 2] / 1e3;
  std::printf(
      "{\"name\": \"%s\", \"seconds\": %.9f, \"bytes\": %.0f, \"gb_per_s\": %.1f}\n",
      name.c_str(), seconds, bytes, bytes / seconds / 1e9);
  std::fflush(stdout);
}

std::vector<Term> terms_of(const Buffers& buffers, const std::vector<Dtype>& dtypes) {
  std::vector<Term> terms;
  for (std::size_t k = 0; k < dtypes.size(); ++k)
    terms.push_back({buffers.inputs[k % kInputs], dtypes[k], k == 0 ? 1.9 : -0.3});
  return terms;
}

void combines(const Buffers& buffers, cudaStream_t stream) {
  struct Case {
    std::string name;
    std::vector<Dtype> in;
    Dtype out;
    bool compared;
  };
  const auto same = [](Dtype dtype, std::size_t count) {
    return std::vector<Dtype>(count, dtype);
  };
  const std::vector<Case> cases{
      {"combine 2 bf16", same(Dtype::bf16, 2), Dtype::bf16, true},
      {"combine 4 bf16", same(Dtype::bf16, 4), Dtype::bf16, true},
      {"combine 4 bf16, not compared", same(Dtype::bf16, 4), Dtype::bf16, false},
      {"combine 4 f16", same(Dtype::f16, 4), Dtype::f16, true},
      {"combine 4 f32", same(Dtype::f32, 4), Dtype::f32, true},
      {"combine 4 e4m3", same(Dtype::f8_e4m3, 4), Dtype::f8_e4m3, true},
      {"combine 4 e5m2", same(Dtype::f8_e5m2, 4), Dtype::f8_e5m2, true},
      {"vector: 2 bf16 to f32", same(Dtype::bf16, 2), Dtype::f32, false},
      {"bf16 and 3 f32 vectors",
       {Dtype::bf16, Dtype::f32, Dtype::f32, Dtype::f32},
       Dtype::bf16,
       true}};
  for (const Case& one : cases) {
    const std::vector<Term> terms = terms_of(buffers, one.in);
    double bytes = static_cast<double>(size_of(one.out)) * kElements;
    for (const Dtype dtype : one.in)
      bytes += static_cast<double>(size_of(dtype)) * kElements;
    const CombineSlice slice{terms.data(),  terms.size(),
                             buffers.out,   one.out,
                             kElements,     one.compared ? buffers.edits : nullptr,
                             terms[0].data, terms[0].dtype};
    time_it(one.name, bytes, stream, [&] { cuda::combine(slice, stream); });
  }
}

void agreements(const Buffers& buffers, cudaStream_t stream) {
  const std::vector<Term> terms = terms_of(buffers, std::vector<Dtype>(4, Dtype::bf16));
  const double bytes = 5.0 * 2 * kElements;
  std::vector<Part> parts;
  for (std::int32_t k = 1; k < 4; ++k) {
    Part part{k, 0.3, 1, {}};
    part.keep.outer = {0x3a000000u, kElements / 2};
    parts.push_back(part);
  }
  const auto time_one = [&](const std::string& name, const Consensus& consensus) {
    const ConsensusSlice slice{terms.data(), terms.size(), &consensus, nullptr,      0,
                               buffers.out,  Dtype::bf16,  kElements,  buffers.edits};
    time_it(name, bytes, stream, [&] { cuda::consensus(slice, stream); });
  };
  time_one("ties 4 bf16", {parts, 1, true, false, true});
  time_one("breadcrumbs 4 bf16", {parts, 1, false, false, false});
  std::vector<Part> random = parts;
  for (Part& part : random) {
    part.keep = {};
    part.keep.random_below = kAlways / 2;
    part.keep.key = 77;
  }
  time_one("dare_linear 4 bf16", {random, 1, false, false, false});
  time_one("dare_ties 4 bf16", {random, 1, true, false, true});
  const DeltaSlice slice{terms.data(), terms.size(),
                         parts.data(), parts.size(),
                         nullptr,      0,
                         kElements,    static_cast<DeltaSums*>(buffers.out)};
  const double read = 4.0 * 2 * kElements;
  time_it("delta sums 4 bf16", read, stream,
          [&] { cuda::delta_sums(slice, false, buffers.room, stream); });
  const DeltaSlice drawn{terms.data(),  terms.size(),
                         random.data(), random.size(),
                         nullptr,       0,
                         kElements,     static_cast<DeltaSums*>(buffers.out)};
  time_it("delta sums 4 bf16, random", read, stream,
          [&] { cuda::delta_sums(drawn, false, buffers.room, stream); });
}

void reductions(const Buffers& buffers, cudaStream_t stream) {
  const std::vector<Term> terms = terms_of(buffers, std::vector<Dtype>(4, Dtype::bf16));
  const double one = 2.0 * kElements;
  auto* const bins = static_cast<std::uint32_t*>(buffers.room);
  const CardScan scan{{terms.data(), 2, 1, kElements},
                      0x3a000000u,
                      0x3a03ffffu,
                      0x3a000000u,
                      0,
                      buffers.lanes,
                      bins + (1 << 20),
                      bins};
  time_it("scan 2 bf16", 2 * one, stream, [&] { cuda::scan(scan, stream); });
  const std::vector<double> rows{-1, 1, 0, 0, -1, 0, 1, 0, -1, 0, 0, 1};
  auto* const gram = static_cast<double*>(buffers.out);
  const MeasureSlice measured{terms.data(),
                              4,
                              rows.data(),
                              3,
                              kElements,
                              gram,
                              reinterpret_cast<std::uint64_t*>(gram + (1 << 20))};
  time_it("gram of 3 deltas, 4 bf16", 4 * one, stream,
          [&] { cuda::measure(measured, buffers.room, stream); });
  time_it("digest", 2 * one, stream, [&] {
    cuda::digest({{buffers.inputs[0], kElements * 4, 0, buffers.lanes}}, stream);
  });
}

void copies(const Buffers& buffers, cudaStream_t stream) {
  const std::size_t bytes = kElements * 4;
  time_it("copy, device to device", 2.0 * static_cast<double>(bytes), stream, [&] {
    check(cudaMemcpyAsync(buffers.out, buffers.inputs[0], bytes, cudaMemcpyDeviceToDevice,
                          stream));
  });
  void *host = nullptr, *other = nullptr;
  check(cudaHostAlloc(&host, bytes, cudaHostAllocPortable));
  check(cudaHostAlloc(&other, bytes, cudaHostAllocPortable));
  const auto in = [&](cudaStream_t on) {
    check(cudaMemcpyAsync(buffers.inputs[1], host, bytes, cudaMemcpyHostToDevice, on));
  };
  const auto out = [&](cudaStream_t on) {
    check(cudaMemcpyAsync(other, buffers.out, bytes, cudaMemcpyDeviceToHost, on));
  };
  const auto whole = static_cast<double>(bytes);
  time_it("PCIe, host to device", whole, stream, [&] { in(stream); });
  time_it("PCIe, device to host", whole, stream, [&] { out(stream); });
  cudaStream_t second;
  cudaEvent_t started, done;
  check(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
  check(cudaEventCreate(&started));
  check(cudaEventCreate(&done));
  time_it("PCIe, both ways at once", 2 * whole, stream, [&] {
    check(cudaEventRecord(started, stream));
    check(cudaStreamWaitEvent(second, started));
    in(stream);
    out(second);
    check(cudaEventRecord(done, second));
    check(cudaStreamWaitEvent(stream, done));
  });
  check(cudaFreeHost(host));
  check(cudaFreeHost(other));
}

}  // namespace

int main() {
  const Buffers buffers = make_buffers();
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  combines(buffers, stream);
  agreements(buffers, stream);
  reductions(buffers, stream);
  copies(buffers, stream);
  return 0;
}
