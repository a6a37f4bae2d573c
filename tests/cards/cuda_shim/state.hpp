// What the shim knows, and what its files share. One lock guards all of it, and is held
// while kernels run: host threads take turns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "api.hpp"

namespace cuda_shim {

constexpr int kPoison = 0xCD;
constexpr int kMaxDevices = 16;

struct Device {
  cudaError_t error = cudaSuccess;  // stays, as a card's context is lost for good
  std::size_t used = 0;             // bytes of its memory
  std::shared_ptr<CUstream_st> default_stream;
};

struct Allocation {
  std::size_t size;
  int device;
};
using Allocations = std::map<std::uintptr_t, Allocation>;

struct State {
  std::mutex mutex;
  Device devices[kMaxDevices];
  Allocations device_memory, host_memory;
  // Destroyed ones too while something is queued: CUDA lets it finish.
  std::vector<std::shared_ptr<CUstream_st>> streams;
  std::vector<std::shared_ptr<CUevent_st>> events;
  std::map<std::string, long> calls;  // that TVMERGE_SHIM_FAIL counts
  std::uint64_t draws = 0;
};
State& state();

// 0 .. below - 1; with TVMERGE_SHIM_SEED the same from process to process.
std::uint64_t draw(std::uint64_t below);
long setting(const char* name, long otherwise);
// Prints; what is found in operations also becomes their device's error.
[[gnu::format(printf, 1, 2)]] void complain(const char* format, ...);
// Whether this call is the one that TVMERGE_SHIM_FAIL names.
bool fails(const char* kind);

int device_count();
int current_device();
// Why no call can succeed, or the error that the current device is left with.
cudaError_t health();
cudaError_t remember(cudaError_t error);  // for cudaGetLastError
void remember_nothing();

// Under the lock. Nothing is done after an error of the device,
template <class Body>
cudaError_t call(Body body) {
  const std::lock_guard<std::mutex> lock(state().mutex);
  cudaError_t error = health();
  if (error == cudaSuccess) error = body();
  return remember(error == cudaSuccess ? health() : error);
}
// ... but what gives something back is.
template <class Body>
cudaError_t release(Body body) {
  const std::lock_guard<std::mutex> lock(state().mutex);
  const cudaError_t error = body();
  return remember(error == cudaSuccess ? health() : error);
}

}  // namespace cuda_shim
