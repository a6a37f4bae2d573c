// Plain C++: runs everywhere; where the processor has no fma, the C library's exact one
// is used.
#define TVMERGE_ISA generic
#define TVMERGE_ISA_NAME "generic"
#include "kernels_body.hpp"

namespace tvmerge {
const Kernels& generic_kernels() { return generic::kKernels; }
}  // namespace tvmerge
