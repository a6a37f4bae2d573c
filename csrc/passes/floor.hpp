// The floor of a merge: what its reading and writing cost, with the arithmetic left out.
#pragma once

#include "kernels/kernels.hpp"

namespace tvmerge {

// Kernels that compute nothing: a merge with them does the same reads and writes, of the
// same sizes from the same threads, and writes whatever its buffers hold.
const Kernels& floor_kernels();

}  // namespace tvmerge
