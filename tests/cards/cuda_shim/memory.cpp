// Memory of devices and pinned memory, both from malloc.
#include <cstdlib>
#include <cstring>

#include "streams.hpp"

namespace cuda_shim {

std::size_t memory_of_device() {
  return static_cast<std::size_t>(setting("TVMERGE_SHIM_MEMORY", 1L << 30));
}

namespace {

constexpr std::size_t kAlignment = 256;

std::size_t rounded(std::size_t size) {
  return (size + kAlignment - 1) / kAlignment * kAlignment;
}

std::uintptr_t address(const void* memory) {
  return reinterpret_cast<std::uintptr_t>(memory);
}

void* allocate(std::size_t size, Allocations& allocations) {
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlignment, size) != 0) return nullptr;
  std::memset(memory, kPoison, size);
  allocations[address(memory)] = {size, current_device()};
  return memory;
}

}  // namespace
}  // namespace cuda_shim

using namespace cuda_shim;

cudaError_t cudaMalloc(void** memory, std::size_t size) {
  return call([&] {
    *memory = nullptr;
    if (size == 0) return cudaSuccess;
    Device& device = state().devices[current_device()];
    if (fails("malloc") || size > memory_of_device() ||
        device.used + rounded(size) > memory_of_device()) {
      return cudaErrorMemoryAllocation;
    }
    *memory = allocate(size, state().device_memory);
    if (!*memory) return cudaErrorMemoryAllocation;
    device.used += rounded(size);
    return cudaSuccess;
  });
}

// Waits for the device, as CUDA does.
cudaError_t cudaFree(void* memory) {
  return release([&] {
    if (!memory) return cudaSuccess;
    const auto found = state().device_memory.find(address(memory));
    if (found == state().device_memory.end()) {
      complain("cudaFree: %p was not allocated, or is free already", memory);
      return cudaErrorInvalidValue;
    }
    const Allocation allocation = found->second;
    drain_device(allocation.device);
    state().devices[allocation.device].used -= rounded(allocation.size);
    state().device_memory.erase(address(memory));
    std::free(memory);
    return cudaSuccess;
  });
}

cudaError_t cudaHostAlloc(void** memory, std::size_t size, unsigned) {
  return call([&] {
    *memory = nullptr;
    if (size == 0) return cudaSuccess;
    if (!fails("hostalloc")) *memory = allocate(size, state().host_memory);
    return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
  });
}

// Memory that the caller has allocated; with it go what checks there are of pinned
// memory.
cudaError_t cudaHostRegister(void* memory, std::size_t size, unsigned) {
  return call([&] {
    if (size == 0) return cudaErrorInvalidValue;
    if (fails("hostalloc")) return cudaErrorMemoryAllocation;
    std::memset(memory, kPoison, size);
    state().host_memory[address(memory)] = {size, current_device()};
    return cudaSuccess;
  });
}

namespace {

// That it waits for copies is nowhere promised: they should have ended.
cudaError_t let_go(void* memory, const char* function) {
  const auto found = state().host_memory.find(address(memory));
  if (found == state().host_memory.end()) {
    complain("%s: %p is not pinned, or is free already", function, memory);
    return cudaErrorInvalidValue;
  }
  if (host_memory_queued(memory, found->second.size)) {
    for (int device = 0; device < kMaxDevices; ++device) {
      const bool healthy = state().devices[device].error == cudaSuccess;
      drain_device(device);
      if (healthy && device == current_device()) {
        complain("%s: copies of %p are queued", function, memory);
        state().devices[device].error = cudaErrorLaunchFailure;
      }
    }
  }
  state().host_memory.erase(address(memory));
  return cudaSuccess;
}

}  // namespace

cudaError_t cudaFreeHost(void* memory) {
  return release([&] {
    if (!memory) return cudaSuccess;
    const cudaError_t error = let_go(memory, "cudaFreeHost");
    if (error == cudaSuccess) std::free(memory);
    return error;
  });
}

cudaError_t cudaHostUnregister(void* memory) {
  return release([&] { return let_go(memory, "cudaHostUnregister"); });
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  return call([&] {
    *total = memory_of_device();
    *free = *total - state().devices[current_device()].used;
    return cudaSuccess;
  });
}
