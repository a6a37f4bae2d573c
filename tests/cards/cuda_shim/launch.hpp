// Kernel launches and shared memory.
#pragma once

#include <cstddef>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "api.hpp"

namespace cuda_shim {

// `thread` is the kernel with its arguments.
void enqueue_kernel(const char* name, std::function<void()> thread, unsigned grid,
                    unsigned block, cudaStream_t stream);

// The arguments are copied here, as CUDA does: what they were at the launch counts.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), unsigned grid,
            unsigned block, cudaStream_t stream, const Arguments&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments));
  static_assert((std::is_trivially_copyable_v<Parameters> && ...));
  static_assert((std::is_convertible_v<const Arguments&, Parameters> && ...));
  static_assert((sizeof(Parameters) + ... + 0) <= 32764, "CUDA passes no more");
  std::tuple<Parameters...> parameters(arguments...);
  enqueue_kernel(
      name,
      [kernel, parameters = std::move(parameters)] { std::apply(kernel, parameters); },
      grid, block, stream);
}

// The running block's array of that key.
void* shared_memory(const void* key, std::size_t size, std::size_t alignment);

template <class Array, class Place>
Array& shared(Place) {
  static char key;
  return *static_cast<Array*>(shared_memory(&key, sizeof(Array), alignof(Array)));
}

}  // namespace cuda_shim
