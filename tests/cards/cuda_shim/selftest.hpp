// The shim's own tests: what is right passes, what is wrong shows.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

extern int failures;
#define CHECK(...)                                                         \
  do {                                                                     \
    if (!(__VA_ARGS__)) {                                                  \
      std::printf("FAILED %s:%d: %s\n", __FILE__, __LINE__, #__VA_ARGS__); \
      ++failures;                                                          \
    }                                                                      \
  } while (false)

struct Setting {
  const char* name;
  Setting(const char* name_, const char* value) : name(name_) { setenv(name, value, 1); }
  ~Setting() { unsetenv(name); }
};

// Device memory for the time of a test.
template <class T>
struct Array {
  T* data = nullptr;
  std::size_t size;
  explicit Array(std::size_t size_) : size(size_) {
    CHECK(cudaMalloc(&data, size * sizeof(T)) == cudaSuccess);
  }
  explicit Array(const std::vector<T>& from) : Array(from.size()) {
    CHECK(cudaMemcpy(data, from.data(), size * sizeof(T), cudaMemcpyHostToDevice) ==
          cudaSuccess);
  }
  Array(const Array&) = delete;
  ~Array() { cudaFree(data); }
  std::vector<T> get() const {
    std::vector<T> to(size);
    cudaDeviceSynchronize();
    cudaMemcpy(to.data(), data, size * sizeof(T), cudaMemcpyDeviceToHost);
    return to;
  }
};

constexpr const char* kOrders[] = {"ascending", "descending", "random"};

void test_streams();
void test_events();
void test_memory();
void test_failures();
void test_host_threads();
