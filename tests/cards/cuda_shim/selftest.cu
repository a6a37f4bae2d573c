// Kernels: results in every order of threads, and what must not pass.
#include "selftest.hpp"

#include <chrono>
#include <cstring>
#include <string>

#include "selftest_kernels.hpp"

int failures = 0;

namespace {

void test_elementwise() {
  std::vector<float> host(100003, 1.5f);
  const Array<float> in(host), out(host.size());
  Scale scale{2, 1};
  unsigned size = static_cast<unsigned>(host.size());
  TVMERGE_LAUNCH((scaled<2>), 37, 256, nullptr, in.data, out.data, scale, size);
  scale.by = 0;  // too late: it was passed by value
  for (const float x : out.get()) CHECK(x == 9);
}

template <bool kBarrier>
bool sums_are_right() {
  std::vector<unsigned> host(4 * 256);
  for (unsigned i = 0; i < host.size(); ++i) host[i] = i * i;
  std::vector<unsigned> expected(4);
  for (unsigned i = 0; i < host.size(); ++i) expected[i / 256] += host[i];
  const Array<unsigned> in(host), out(4);
  TVMERGE_LAUNCH((sums<kBarrier>), 4, 256, nullptr, in.data, out.data);
  return out.get() == expected;
}

void test_warps() {
  const Array<unsigned> lanes(64), same(64);
  const Array<double> total(64);
  TVMERGE_LAUNCH(warps, 1, 64, nullptr, lanes.data, total.data, same.data);
  for (unsigned i = 0; i < 64; ++i) {
    CHECK(lanes.get()[i] == (i < 32 ? 528u : 1552u) + 0xaaaaaaaau);
    CHECK(total.get()[i] == (i < 32 ? 496 : 1520));
    CHECK(same.get()[i] == (0x11111111u << i % 4) + (i % 32 < 8 ? 8 : 0));
  }
  const Array<unsigned> counted(std::vector<unsigned>(256, 0)), values(lanes.get());
  TVMERGE_LAUNCH(histogram, 3, 256, nullptr, values.data, counted.data, 64u);
  unsigned sum = 0;
  for (const unsigned count : counted.get()) sum += count;
  CHECK(sum == 3 * 64);
}

void expect_found(void (*kernel)(unsigned*), unsigned block) {
  const Array<unsigned> out(64);
  TVMERGE_LAUNCH(kernel, 1, block, nullptr, out.data);
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
  CHECK(cudaStreamSynchronize(nullptr) == cudaErrorLaunchFailure);
  CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
  cudaDeviceReset();
}

void print_speed() {
  const unsigned size = 1 << 20;
  const Array<float> in(std::vector<float>(size, 1)), out(size);
  const Array<unsigned> numbers(std::vector<unsigned>(size, 1)), parts(size / 256);
  for (int kernel = 0; kernel < 2; ++kernel) {
    const auto start = std::chrono::steady_clock::now();
    if (kernel) {
      TVMERGE_LAUNCH((sums<true>), size / 256, 256, nullptr, numbers.data, parts.data);
    } else {
      TVMERGE_LAUNCH((scaled<1>), size / 256, 256, nullptr, in.data, out.data,
                     Scale{2, 1}, size);
    }
    cudaDeviceSynchronize();
    const std::chrono::duration<double, std::milli> time =
        std::chrono::steady_clock::now() - start;
    std::printf("1M %s: %.1f ms\n", kernel ? "summed, 9 barriers" : "elements",
                time.count());
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1 && std::strcmp(arguments[1], "--speed") == 0) {
    print_speed();
    return 0;
  }
  if (count > 1) {
    const std::string mistake = arguments[1];
    const Array<unsigned> out(9);
    if (mistake == "--misaligned") {
      TVMERGE_LAUNCH(misaligned, 1, 1, nullptr, out.data);
    } else {
      TVMERGE_LAUNCH(runs_over, 1, 1, nullptr, out.data, mistake == "--shared-overrun");
    }
    cudaDeviceSynchronize();
    return 0;
  }
  int wrong = 0;
  for (const char* order : kOrders) {
    const Setting setting("TVMERGE_SHIM_ORDER", order);
    test_elementwise();
    test_warps();
    CHECK(sums_are_right<true>());
    wrong += !sums_are_right<false>();
    for (const auto kernel : {divergent, leaves_early}) expect_found(kernel, 64);
    for (const unsigned block : {16, 32}) expect_found(half_warp, block);
    const Array<unsigned> values(8);
    TVMERGE_LAUNCH(stale, 8, 32, nullptr, values.data);
    CHECK(values.get()[0] == 5 && values.get()[1] == 0xcdcdcdcdu);
  }
  CHECK(wrong > 0);
  TVMERGE_LAUNCH(divergent, 1, 1025, nullptr, nullptr);
  CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
  CHECK(cudaGetLastError() == cudaSuccess);
  test_streams();
  test_events();
  test_memory();
  test_failures();
  test_host_threads();
  std::printf(failures ? "%d failures\n" : "passed\n", failures);
  return failures != 0;
}
