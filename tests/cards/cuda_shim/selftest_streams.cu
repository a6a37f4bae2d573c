// Streams, events, memory, failures on purpose, and host threads.
#include <cstring>
#include <string>
#include <thread>

#include "selftest.hpp"

namespace {

constexpr unsigned kSize = 64;
constexpr std::size_t kBytes = kSize * sizeof(unsigned);

__global__ void add(unsigned* to, unsigned value) { to[threadIdx.x] += value; }
__global__ void copy(unsigned* to, const unsigned* from) {
  to[threadIdx.x] = from[threadIdx.x];
}

struct Stream {
  cudaStream_t get = nullptr;
  Stream() {
    CHECK(cudaStreamCreateWithFlags(&get, cudaStreamNonBlocking) == cudaSuccess);
  }
  Stream(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(get); }
};

// One stream writes what another reads: how many of 20 seeds give the right value.
int right_of_20(bool waits) {
  int right = 0;
  for (int seed = 0; seed < 20; ++seed) {
    const Setting setting("TVMERGE_SHIM_SEED", std::to_string(seed).c_str());
    const Array<unsigned> first(std::vector<unsigned>(kSize, 1));
    const Array<unsigned> second(std::vector<unsigned>(kSize, 2));
    const Stream writer, reader;
    cudaEvent_t event;
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    TVMERGE_LAUNCH(add, 1, kSize, writer.get, first.data, 6u);
    cudaEventRecord(event, writer.get);
    if (waits) cudaStreamWaitEvent(reader.get, event);
    cudaEventRecord(event, reader.get);  // what was waited for stays the first record
    cudaEventDestroy(event);
    TVMERGE_LAUNCH(copy, 1, kSize, reader.get, second.data, first.data);
    unsigned got[kSize];
    cudaMemcpyAsync(got, second.data, kBytes, cudaMemcpyDeviceToHost, reader.get);
    CHECK(got[5] == 0xcdcdcdcdu);  // nobody waited for it
    CHECK(cudaStreamSynchronize(reader.get) == cudaSuccess);
    right += got[5] == 7;
  }
  return right;
}

}  // namespace

void test_streams() {
  CHECK(right_of_20(true) == 20);
  const int right = right_of_20(false);
  CHECK(right > 0 && right < 20);

  // In place through one pinned buffer: the copy back does not spoil the copy in.
  const Array<unsigned> device(kSize);
  unsigned* pinned = nullptr;
  cudaHostAlloc(&pinned, kBytes, cudaHostAllocPortable);
  CHECK(pinned[0] == 0xcdcdcdcdu);
  for (unsigned i = 0; i < kSize; ++i) pinned[i] = i;
  {
    const Stream stream;
    cudaMemcpyAsync(device.data, pinned, kBytes, cudaMemcpyHostToDevice, stream.get);
    TVMERGE_LAUNCH(add, 1, kSize, stream.get, device.data, 1u);
    cudaMemcpyAsync(pinned, device.data, kBytes, cudaMemcpyDeviceToHost, stream.get);
  }  // the stream is destroyed, what it queued is not lost, and is not done
  CHECK(pinned[9] == 9);
  CHECK(cudaDeviceSynchronize() == cudaSuccess && pinned[9] == 10);
  {
    const Setting setting("TVMERGE_SHIM_EAGER", "1");
    cudaMemsetAsync(device.data, 0, kBytes);
    cudaMemcpyAsync(pinned, device.data, kBytes, cudaMemcpyDeviceToHost);
    CHECK(pinned[9] == 0);
  }
  cudaMemcpyAsync(pinned, device.data, kBytes, cudaMemcpyDeviceToHost);
  CHECK(cudaFreeHost(pinned) == cudaErrorLaunchFailure);  // in use
  cudaDeviceReset();
}

void test_events() {
  const Stream stream;
  const Array<unsigned> device(std::vector<unsigned>(kSize, 0));
  cudaEvent_t start, end;
  cudaEventCreate(&start);
  cudaEventCreate(&end);
  CHECK(cudaEventQuery(end) == cudaSuccess);  // never recorded
  cudaEventRecord(start, stream.get);
  for (int i = 0; i < 30; ++i) TVMERGE_LAUNCH(add, 1, kSize, stream.get, device.data, 1u);
  cudaEventRecord(end, stream.get);
  float time = -1;
  CHECK(cudaEventElapsedTime(&time, start, end) == cudaErrorNotReady);
  CHECK(cudaStreamQuery(stream.get) == cudaErrorNotReady);
  while (cudaEventQuery(end) == cudaErrorNotReady) cudaGetLastError();
  CHECK(cudaEventSynchronize(end) == cudaSuccess);
  CHECK(cudaEventElapsedTime(&time, start, end) == cudaSuccess && time >= 0);
  CHECK(device.get()[3] == 30);
  cudaEventDestroy(start);
  cudaEventDestroy(end);
  CHECK(cudaEventDestroy(end) == cudaErrorInvalidResourceHandle);
  cudaGetLastError();
}

void test_memory() {
  const Setting setting("TVMERGE_SHIM_MEMORY", "4096");
  std::size_t free = 0, total = 0;
  const Array<unsigned char> array(1000);
  CHECK(cudaMemGetInfo(&free, &total) == cudaSuccess && free == 3072 && total == 4096);
  unsigned char* more = nullptr;
  CHECK(cudaMalloc(&more, 3073) == cudaErrorMemoryAllocation && !more);
  CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
  CHECK(cudaGetLastError() == cudaSuccess);  // it does not last
  std::vector<unsigned char> host(1001);
  const auto copies = [&](void* to, const void* from, std::size_t size,
                          cudaMemcpyKind kind) {
    return cudaMemcpyAsync(to, from, size, kind) == cudaSuccess;
  };
  CHECK(copies(array.data + 1, host.data(), 999, cudaMemcpyHostToDevice));
  CHECK(!copies(array.data, host.data(), 1001, cudaMemcpyHostToDevice));
  CHECK(!copies(array.data + 1, host.data(), 1000, cudaMemcpyHostToDevice));
  CHECK(!copies(host.data(), array.data, 9, cudaMemcpyHostToDevice));
  CHECK(!copies(array.data + 500, array.data, 501, cudaMemcpyDeviceToDevice));
  CHECK(copies(array.data + 500, array.data, 500, cudaMemcpyDeviceToDevice));
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  {
    const Setting two("TVMERGE_SHIM_DEVICES", "2");
    CHECK(cudaSetDevice(1) == cudaSuccess);
    CHECK(!copies(array.data, host.data(), 9, cudaMemcpyHostToDevice));
    CHECK(cudaMemGetInfo(&free, &total) == cudaSuccess && free == 4096);
    CHECK(cudaSetDevice(2) == cudaErrorInvalidDevice && cudaSetDevice(0) == cudaSuccess);
  }
  cudaGetLastError();
}

void test_failures() {
  int count = -1;
  {
    const Setting none("TVMERGE_SHIM_DEVICES", "0");
    CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice && count == 0);
  }
  {
    const Setting no_driver("TVMERGE_SHIM_DEVICES", "-1");
    CHECK(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver);
  }
  CHECK(cudaGetDeviceCount(&count) == cudaSuccess && count == 1);
  void* memory = nullptr;
  for (const bool host : {false, true}) {
    cudaDeviceReset();
    const Setting third("TVMERGE_SHIM_FAIL", host ? "hostalloc:3" : "malloc:3");
    for (int call = 1; call < 5; ++call) {
      const cudaError_t error =
          host ? cudaHostAlloc(&memory, 8, cudaHostAllocDefault) : cudaMalloc(&memory, 8);
      CHECK(error == (call == 3 ? cudaErrorMemoryAllocation : cudaSuccess));
      CHECK((host ? cudaFreeHost(memory) : cudaFree(memory)) == cudaSuccess);
    }
  }
  for (const char* const kind : {"launch:2", "copy:2"}) {
    cudaDeviceReset();
    const Setting second("TVMERGE_SHIM_FAIL", kind);
    const Array<unsigned> device(std::vector<unsigned>(kSize, 1));
    TVMERGE_LAUNCH(add, 1, kSize, nullptr, device.data, 1u);
    CHECK(cudaGetLastError() == cudaSuccess);
    if (kind[0] == 'l') TVMERGE_LAUNCH(add, 1, kSize, nullptr, device.data, 1u);
    unsigned to[kSize];
    cudaMemcpyAsync(to, device.data, kBytes, cudaMemcpyDeviceToHost);
    CHECK(cudaPeekAtLastError() == cudaErrorLaunchFailure);
    CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
    CHECK(std::strcmp(cudaGetErrorName(cudaGetLastError()), "cudaErrorLaunchFailure") ==
          0);
  }
  cudaDeviceReset();
}

void test_host_threads() {
  std::vector<std::thread> threads;
  std::vector<unsigned> got(8);
  for (unsigned thread = 0; thread < got.size(); ++thread) {
    threads.emplace_back([&got, thread] {
      const Stream stream;
      const Array<unsigned> device(std::vector<unsigned>(kSize, thread));
      std::vector<unsigned> host(kSize);
      for (int time = 0; time < 50; ++time) {
        TVMERGE_LAUNCH(add, 1, kSize, stream.get, device.data, 1u);
        cudaMemcpyAsync(host.data(), device.data, kBytes, cudaMemcpyDeviceToHost,
                        stream.get);
        cudaStreamSynchronize(stream.get);
      }
      got[thread] = host[7];
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (unsigned thread = 0; thread < got.size(); ++thread)
    CHECK(got[thread] == thread + 50);
}
