#include "core/dtype.hpp"

#include "core/error.hpp"

namespace tvmerge {

Dtype parse_dtype(const std::string& name) {
  if (name == "F64") return Dtype::f64;
  if (name == "F32") return Dtype::f32;
  if (name == "F16") return Dtype::f16;
  if (name == "BF16") return Dtype::bf16;
  if (name == "F8_E4M3") return Dtype::f8_e4m3;
  if (name == "F8_E5M2") return Dtype::f8_e5m2;
  throw Error(ErrorKind::config,
              "no arithmetic for dtype '" + name +
                  "': expected F64, F32, F16, BF16, F8_E4M3 or F8_E5M2");
}

}  // namespace tvmerge
