// The element types that the engine computes with, under their names in safetensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace tvmerge {

enum class Dtype : std::uint8_t { f64, f32, f16, bf16, f8_e4m3, f8_e5m2 };

// Bytes of one element.
constexpr std::size_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
      return 8;
    case Dtype::f32:
      return 4;
    case Dtype::f16:
    case Dtype::bf16:
      return 2;
    case Dtype::f8_e4m3:
    case Dtype::f8_e5m2:
      return 1;
  }
  return 0;
}

// From the safetensors name ("BF16"); throws Error(config) for any other string.
Dtype parse_dtype(const std::string& name);

}  // namespace tvmerge
