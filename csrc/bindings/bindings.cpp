// tvmerge._core: converts types, releases the GIL, nothing else. The stub is
// tvmerge/_core.pyi.
#include "bindings/bindings.hpp"

#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <memory>

#include "cards/card_pool.hpp"
#include "core/error.hpp"
#include "engine/engine.hpp"
#include "kernels/kernels.hpp"
#include "passes/delta_sums.hpp"
#include "passes/divergence.hpp"
#include "passes/line_grams.hpp"
#include "passes/select.hpp"

namespace tvmerge {
namespace {

const char* python_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::config:
      return "ConfigError";
    case ErrorKind::storage:
      return "StorageError";
    case ErrorKind::memory:
      return "MemoryLimitError";
    case ErrorKind::card:
      return "DeviceError";
  }
  return "TVMergeError";
}

// By value: the signature that pybind11 asks for.
// NOLINTNEXTLINE(performance-unnecessary-value-param)
void raise_in_python(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const Error& error) {
    const py::object type =
        py::module_::import("tvmerge.errors").attr(python_name(error.kind()));
    PyErr_SetString(type.ptr(), error.what());
  }
}

// Takes the GIL to let signals (Ctrl-C) through and to tell the caller's callback, which
// is borrowed: it must outlive the run.
std::function<void(std::uint64_t)> with_signals(py::handle callback) {
  return [callback](std::uint64_t bytes) {
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (!callback.is_none()) callback(bytes);
  };
}

using Cards = std::vector<std::shared_ptr<CardPool>>;

Options make_options(unsigned threads, std::uint64_t slice_bytes,
                     std::uint64_t buffer_bytes, std::uint64_t mapped_bytes,
                     std::string isa, bool drop_behind, const py::object& progress,
                     Cards cards = {}) {
  return {threads,         slice_bytes, buffer_bytes,           mapped_bytes,
          std::move(isa),  drop_behind, with_signals(progress), false,
          std::move(cards)};
}

// A path, (address, size in bytes) of writable memory, or None.
std::vector<Place> make_places(const py::sequence& outputs) {
  std::vector<Place> places;
  for (const py::handle output : outputs) {
    if (output.is_none()) {
      places.emplace_back(Nowhere{});
    } else if (py::isinstance<py::str>(output)) {
      places.emplace_back(output.cast<std::string>());
    } else {
      const auto [address, size_bytes] =
          output.cast<std::pair<std::uintptr_t, std::uint64_t>>();
      // The one place where a number becomes memory: the caller vouches for it.
      // NOLINTNEXTLINE(performance-no-int-to-ptr)
      places.emplace_back(Memory{reinterpret_cast<unsigned char*>(address), size_bytes});
    }
  }
  return places;
}

py::list edits(const MergeResult& result) {
  py::list jobs;
  for (const std::vector<Edit>& job : result.edits) {
    py::list outputs;
    for (const Edit& edit : job) {
      outputs.append(py::make_tuple(edit.changed, edit.intended, edit.lost,
                                    edit.intended_sq, edit.realised_sq, edit.dot));
    }
    jobs.append(outputs);
  }
  return jobs;
}

py::list states(const std::vector<DigestLanes>& digests) {
  py::list states;
  for (const DigestLanes& lanes : digests) {
    states.append(
        py::bytes(reinterpret_cast<const char*>(lanes.data()), sizeof(DigestLanes)));
  }
  return states;
}

// A function that reads what `jobs` name and writes nothing; show(result) for each job.
template <typename Job, typename Result>
using Measurement = std::vector<Result> (*)(const std::vector<std::string>&,
                                            const std::vector<Job>&, const Options&);
template <typename Job, typename Result, typename Show>
void def_measurement(py::module_& module, const char* name, Measurement<Job, Result> run,
                     Show show) {
  module.def(
      name,
      [run, show](const std::vector<std::string>& inputs, const std::vector<Job>& jobs,
                  unsigned threads, std::uint64_t buffer_bytes,
                  std::uint64_t mapped_bytes, const std::string& isa, bool drop_behind,
                  const py::object& progress, Cards cards) {
        const Options options =
            make_options(threads, buffer_bytes, buffer_bytes, mapped_bytes, isa,
                         drop_behind, progress, std::move(cards));
        const auto found = [&] {
          const py::gil_scoped_release release;
          return run(inputs, jobs, options);
        }();
        py::list results;
        for (const auto& one : found) results.append(show(one));
        return results;
      },
      py::arg("inputs"), py::arg("jobs"), py::kw_only(), py::arg("threads"),
      py::arg("buffer_bytes"), py::arg("mapped_bytes") = 0, py::arg("isa") = "",
      py::arg("drop_behind") = false, py::arg("progress") = py::none(),
      py::arg("cards") = Cards{});
}

}  // namespace
}  // namespace tvmerge

PYBIND11_MODULE(_core, module) {
  using namespace tvmerge;
  module.doc() = "Streams safetensors files through memory: combine, copy, measure.";
  py::register_exception_translator(&raise_in_python);

  def_jobs(module);
  def_cards(module);

  py::class_<MergeResult>(module, "MergeResult")
      .def_property_readonly("edits", [](const MergeResult& self) { return edits(self); })
      .def_readonly("different", &MergeResult::different)
      .def_readonly("cloned_bytes", &MergeResult::cloned_bytes)
      .def_property_readonly(
          "input_digests",
          [](const MergeResult& self) { return states(self.input_digests); })
      .def_property_readonly("output_digests", [](const MergeResult& self) {
        return states(self.output_digests);
      });

  module.def(
      "merge",
      [](const std::vector<std::string>& inputs, const py::sequence& outputs,
         const std::vector<CombineJob>& combines, const std::vector<CopyJob>& copies,
         unsigned threads, std::uint64_t slice_bytes, std::uint64_t buffer_bytes,
         std::uint64_t mapped_bytes, const std::string& isa, bool drop_behind,
         const py::object& progress, Cards cards) {
        const Options options =
            make_options(threads, slice_bytes, buffer_bytes, mapped_bytes, isa,
                         drop_behind, progress, std::move(cards));
        const std::vector<Place> places = make_places(outputs);
        const py::gil_scoped_release release;
        return merge(inputs, places, combines, copies, options);
      },
      py::arg("inputs"), py::arg("outputs"), py::arg("combines"), py::arg("copies"),
      py::kw_only(), py::arg("threads"), py::arg("slice_bytes"), py::arg("buffer_bytes"),
      py::arg("mapped_bytes") = 0, py::arg("isa") = "", py::arg("drop_behind") = false,
      py::arg("progress") = py::none(), py::arg("cards") = Cards{});

  module.def(
      "floor",
      [](const std::vector<std::string>& inputs, const py::sequence& outputs,
         const std::vector<CombineJob>& combines, const std::vector<CopyJob>& copies,
         unsigned threads, std::uint64_t slice_bytes, std::uint64_t buffer_bytes,
         bool drop_behind, const py::object& progress) {
        Options options = make_options(threads, slice_bytes, buffer_bytes, 0, "",
                                       drop_behind, progress);
        options.floor = true;
        const std::vector<Place> places = make_places(outputs);
        const py::gil_scoped_release release;
        merge(inputs, places, combines, copies, options);
      },
      py::arg("inputs"), py::arg("outputs"), py::arg("combines"), py::arg("copies"),
      py::kw_only(), py::arg("threads"), py::arg("slice_bytes"), py::arg("buffer_bytes"),
      py::arg("drop_behind") = false, py::arg("progress") = py::none());

  def_measurement<MeasureJob>(module, "measure", &measure, [](const Measured& one) {
    return py::make_tuple(one.gram, one.nonzero);
  });

  using Products = std::vector<double>;
  def_measurement<LineGramsJob>(
      module, "line_grams", &line_grams, [](const Products& one) {
        return py::bytes(reinterpret_cast<const char*>(one.data()),
                         one.size() * sizeof(double));
      });

  def_measurement<SelectJob>(module, "select", &select, [](const std::vector<Cut>& job) {
    py::list cuts;
    for (const Cut& cut : job) cuts.append(py::make_tuple(cut.key, cut.ties_end));
    return cuts;
  });

  def_measurement<DeltaSumsJob>(
      module, "delta_sums", &delta_sums, [](const std::vector<DeltaSums>& job) {
        py::list parts;
        for (const DeltaSums& sums : job)
          parts.append(
              py::make_tuple(sums.all, sums.kept, sums.kept_sq, sums.count, sums.alone));
        return parts;
      });

  using Rows = std::shared_ptr<RowFactors>;
  def_measurement<DivergenceJob>(module, "divergences", &divergences,
                                 [](const Rows& rows) { return rows; });

  module.def("allocate", &File::allocate, py::arg("path"), py::arg("size_bytes"),
             py::call_guard<py::gil_scoped_release>());
  module.def("available_isas", &available_isas);
}
