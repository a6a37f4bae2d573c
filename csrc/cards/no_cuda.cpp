// In place of cuda/ in a build without CUDA: says so.
#include "cards/card.hpp"
#include "core/error.hpp"
#include "engine/in_memory.hpp"

namespace tvmerge {

std::string cuda_problem() {
  return "this tvmerge was built without CUDA. Where nvcc 12.1 or later is on the PATH, "
         "build it again, and see what is missing if that stops: pip install "
         "--force-reinstall --no-deps --config-settings=cmake.define.TVMERGE_CUDA=ON .";
}

std::vector<CardInfo> cards() { return {}; }

std::unique_ptr<Card> Card::open(int /*index*/) {
  throw Error(ErrorKind::card, cuda_problem());
}

void combine_on_card(const CombineSlice& /*whole*/, int /*card*/, void* /*stream*/) {
  throw Error(ErrorKind::card, cuda_problem());
}

std::uint64_t measure_room(std::uint64_t /*rows*/, std::uint64_t /*count*/) { return 0; }
std::uint64_t delta_room(std::uint64_t /*parts*/, std::uint64_t /*count*/) { return 0; }

}  // namespace tvmerge
