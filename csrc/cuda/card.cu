// Cards by the CUDA runtime.
#include "cards/card.hpp"

#include <cuda_runtime.h>
#include <sys/mman.h>

#include <system_error>
#include <thread>

#include "core/error.hpp"
#include "cuda/launches.hpp"
#include "engine/in_memory.hpp"

namespace tvmerge {
namespace {

constexpr int kLeastMajor = 8;  // Ampere: what this is compiled for

void check(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  const ErrorKind kind =
      error == cudaErrorMemoryAllocation ? ErrorKind::memory : ErrorKind::card;
  throw Error(kind, what + ": " + cudaGetErrorString(error) + " (" +
                        cudaGetErrorName(error) + ")");
}

CardInfo describe(int index) {
  CardInfo info{index, "unknown", 0, 0, 0, 0, ""};
  cudaDeviceProp properties{};
  cudaError_t error = cudaGetDeviceProperties(&properties, index);
  if (error == cudaSuccess) {
    info.name = properties.name;
    info.major = properties.major;
    info.minor = properties.minor;
    info.total_bytes = properties.totalGlobalMem;
    error = cudaSetDevice(index);
  }
  std::size_t free_bytes = 0, total_bytes = 0;
  if (error == cudaSuccess) error = cudaMemGetInfo(&free_bytes, &total_bytes);
  info.free_bytes = free_bytes;
  if (error != cudaSuccess) {
    info.problem = cudaGetErrorString(error);
    cudaGetLastError();
  } else if (info.major < kLeastMajor) {
    info.problem = "too old: compute capability " + std::to_string(info.major) + "." +
                   std::to_string(info.minor) + ", expected 8.0 or later";
  }
  return info;
}

class CudaMemory final : public CardMemory {
 public:
  CudaMemory(int index, std::uint64_t bytes) : index_(index) {
    cudaSetDevice(index_);
    void* data = nullptr;
    if (cudaMalloc(&data, bytes) != cudaSuccess) {
      cudaGetLastError();  // it is no error of what comes next
      return;
    }
    data_ = static_cast<unsigned char*>(data);
    size_bytes_ = bytes;
  }
  CudaMemory(const CudaMemory&) = delete;
  CudaMemory& operator=(const CudaMemory&) = delete;
  ~CudaMemory() override {
    cudaSetDevice(index_);
    cudaFree(data_);
  }

 private:
  int index_;
};

// Huge pages, touched by us and then registered: cudaHostAlloc takes seven times as long.
class PinnedMemory final : public CardMemory {
 public:
  explicit PinnedMemory(std::uint64_t bytes) : held_bytes_(bytes + kHugePage) {
    void* const held = mmap(nullptr, held_bytes_, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (held == MAP_FAILED) return;
    held_ = static_cast<unsigned char*>(held);
    const auto address = reinterpret_cast<std::uintptr_t>(held_);
    unsigned char* const data = held_ + (kHugePage - address % kHugePage) % kHugePage;
    madvise(data, bytes, MADV_HUGEPAGE);
    touch(data, bytes);
    if (cudaHostRegister(data, bytes, cudaHostRegisterPortable) != cudaSuccess) {
      cudaGetLastError();
      return;
    }
    data_ = data;
    size_bytes_ = bytes;
  }
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  ~PinnedMemory() override {
    if (data_ != nullptr) cudaHostUnregister(data_);
    if (held_ != nullptr) munmap(held_, held_bytes_);
  }

 private:
  static constexpr std::uint64_t kPage = 4096, kHugePage = std::uint64_t{2} * 1024 * 1024;
  static constexpr std::uint64_t kTouchers = 8;

  static void touch(unsigned char* data, std::uint64_t bytes) {
    const auto some = [=](std::uint64_t part) {
      const std::uint64_t end = bytes / kTouchers * (part + 1);
      for (std::uint64_t at = bytes / kTouchers * part; at < end; at += kPage)
        data[at] = 0;
    };
    std::vector<std::thread> threads;
    for (std::uint64_t part = 0; part < kTouchers; ++part) {
      try {
        threads.emplace_back(some, part);
      } catch (const std::system_error&) {  // no more threads
        some(part);
      }
    }
    for (std::thread& thread : threads) thread.join();
  }

  unsigned char* held_ = nullptr;
  std::uint64_t held_bytes_;
};

class CudaStream final : public Stream {
 public:
  CudaStream(int index, const std::string& name) : index_(index), name_(name) {
    check(cudaSetDevice(index_), name_);
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), name_);
  }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  ~CudaStream() override {
    cudaSetDevice(index_);
    cudaStreamSynchronize(stream_);  // the memory that it uses goes next
    cudaStreamDestroy(stream_);
  }

  void copy_in(void* device, const void* host, std::size_t size_bytes) override {
    copy(device, host, size_bytes, cudaMemcpyHostToDevice);
  }
  void copy_out(void* host, const void* device, std::size_t size_bytes) override {
    copy(host, device, size_bytes, cudaMemcpyDeviceToHost);
  }
  void clear(void* device, std::size_t size_bytes) override {
    check(cudaMemsetAsync(device, 0, size_bytes, stream_), name_ + ": clearing memory");
  }

  void combine(const CombineSlice& slice) override {
    check_terms(slice.term_count);
    cuda::combine(slice, stream_);
    launched();
  }
  void consensus(const ConsensusSlice& slice) override {
    check_terms(slice.term_count);
    check_terms(slice.consensus->parts.size());
    cuda::consensus(slice, stream_);
    launched();
  }
  void digest(const std::vector<CardDigest>& ranges) override {
    cuda::digest(ranges, stream_);
    launched();
  }
  void measure(const MeasureSlice& slice, void* room) override {
    check_terms(slice.term_count);
    if (slice.row_count * slice.term_count > cuda::kMostCoefficients)
      too_many(slice.row_count * slice.term_count, "coefficients",
               cuda::kMostCoefficients);
    cuda::measure(slice, room, stream_);
    launched();
  }
  void scan(const CardScan& scan) override {
    check_terms(scan.slice.term_count);
    cuda::scan(scan, stream_);
    launched();
  }
  void delta_sums(const DeltaSlice& slice, bool counted, void* room) override {
    check_terms(slice.term_count);
    check_terms(slice.part_count);
    cuda::delta_sums(slice, counted, room, stream_);
    launched();
  }

  void wait() override { check(cudaStreamSynchronize(stream_), name_); }

 private:
  void copy(void* to, const void* from, std::size_t size_bytes, cudaMemcpyKind kind) {
    check(cudaMemcpyAsync(to, from, size_bytes, kind, stream_), name_ + ": copying");
  }
  void launched() const { check(cudaGetLastError(), name_ + ": launching a kernel"); }
  static void too_many(std::size_t found, const std::string& what, unsigned most) {
    throw Error(ErrorKind::config, std::to_string(found) + " " + what +
                                       " of one tensor: a card takes at most " +
                                       std::to_string(most) + "; use --device cpu");
  }
  static void check_terms(std::size_t count) {
    if (count > cuda::kMostTerms) too_many(count, "inputs", cuda::kMostTerms);
  }

  int index_;
  std::string name_;
  cudaStream_t stream_ = nullptr;
};

class CudaCard final : public Card {
 public:
  explicit CudaCard(CardInfo info) : info_(std::move(info)) {}

  [[nodiscard]] const CardInfo& info() const override { return info_; }
  std::unique_ptr<Stream> make_stream() override {
    return std::make_unique<CudaStream>(info_.index, info_.name);
  }
  std::unique_ptr<CardMemory> allocate(std::uint64_t bytes) override {
    return made(std::make_unique<CudaMemory>(info_.index, bytes));
  }
  std::unique_ptr<CardMemory> allocate_pinned(std::uint64_t bytes) override {
    check(cudaSetDevice(info_.index), info_.name);
    return made(std::make_unique<PinnedMemory>(bytes));
  }

 private:
  static std::unique_ptr<CardMemory> made(std::unique_ptr<CardMemory> memory) {
    if (memory->data() == nullptr) return nullptr;
    return memory;
  }

  CardInfo info_;
};

}  // namespace

std::string cuda_problem() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return "";
  cudaGetLastError();
  int driver = 0;
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
    return "no NVIDIA driver is installed here (this build has CUDA)";
  if (error == cudaErrorInsufficientDriver) {
    int needed = 0;
    cudaRuntimeGetVersion(&needed);
    const auto version = [](int number) {
      return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
    };
    return "the NVIDIA driver is too old: it knows CUDA " + version(driver) +
           ", expected " + version(needed) + " or later";
  }
  if (error != cudaSuccess && error != cudaErrorNoDevice)
    return std::string("CUDA cannot start: ") + cudaGetErrorString(error);
  return "no NVIDIA card is visible here";
}

std::vector<CardInfo> cards() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) cudaGetLastError();
  std::vector<CardInfo> found;
  for (int index = 0; index < count; ++index) found.push_back(describe(index));
  return found;
}

std::unique_ptr<Card> Card::open(int index) {
  if (const std::string problem = cuda_problem(); !problem.empty())
    throw Error(ErrorKind::card, problem);
  CardInfo info = describe(index);
  if (!info.problem.empty())
    throw Error(ErrorKind::card, "card " + std::to_string(index) + ": " + info.problem);
  return std::make_unique<CudaCard>(std::move(info));
}

void combine_on_card(const CombineSlice& whole, int card, void* stream) {
  // The caller's choice of card is the caller's: torch expects to find it again.
  int before = 0;
  check(cudaGetDevice(&before), "CUDA");
  check(cudaSetDevice(card), "card " + std::to_string(card));
  if (whole.term_count > cuda::kMostTerms) {
    throw Error(ErrorKind::config, std::to_string(whole.term_count) +
                                       " terms: a card takes at most " +
                                       std::to_string(cuda::kMostTerms));
  }
  cuda::combine(whole, static_cast<cudaStream_t>(stream));
  const cudaError_t error = cudaGetLastError();
  cudaSetDevice(before);
  check(error, "card " + std::to_string(card) + ": launching a kernel");
}

}  // namespace tvmerge
