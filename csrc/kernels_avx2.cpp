// Compiled with -mavx2 -mfma; chosen at run time where the processor has both.
#define TVMERGE_ISA avx2
#define TVMERGE_ISA_NAME "avx2"
#include "kernels_body.hpp"

namespace tvmerge {
const Kernels& avx2_kernels() { return avx2::kKernels; }
}  // namespace tvmerge
