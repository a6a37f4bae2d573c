// tvmerge._core: converts types, releases the GIL, nothing else. The stub is
// tvmerge/_core.pyi.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>

#include "engine.hpp"
#include "error.hpp"
#include "kernels.hpp"

namespace py = pybind11;

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

Options make_options(unsigned threads, std::uint64_t slice_bytes,
                     std::uint64_t buffer_bytes, std::string isa,
                     const py::object& progress) {
  return {threads, slice_bytes, buffer_bytes, std::move(isa), with_signals(progress)};
}

}  // namespace
}  // namespace tvmerge

PYBIND11_MODULE(_core, module) {
  using namespace tvmerge;
  module.doc() = "Streams safetensors files through memory: combine, copy, measure.";
  py::register_exception_translator(&raise_in_python);

  py::class_<Source>(module, "Source")
      .def(py::init([](std::uint32_t file, std::uint64_t offset_bytes,
                       const std::string& dtype, double coefficient) {
             return Source{file, offset_bytes, parse_dtype(dtype), coefficient};
           }),
           py::arg("file"), py::arg("offset_bytes"), py::arg("dtype"),
           py::arg("coefficient"));

  py::class_<CombineJob>(module, "CombineJob")
      .def(py::init([](std::vector<Source> sources, std::uint64_t elements,
                       std::uint32_t out_file, std::uint64_t out_offset_bytes,
                       const std::string& out_dtype, std::int32_t reference) {
             return CombineJob{
                 std::move(sources),     elements, out_file, out_offset_bytes,
                 parse_dtype(out_dtype), reference};
           }),
           py::kw_only(), py::arg("sources"), py::arg("elements"), py::arg("out_file"),
           py::arg("out_offset_bytes"), py::arg("out_dtype"), py::arg("reference"));

  py::class_<CopyJob>(module, "CopyJob")
      .def(py::init([](std::uint32_t file, std::uint64_t offset_bytes,
                       std::uint64_t size_bytes, std::uint32_t out_file,
                       std::uint64_t out_offset_bytes,
                       std::vector<std::pair<std::uint32_t, std::uint64_t>> same_as) {
             return CopyJob{file,     offset_bytes,     size_bytes,
                            out_file, out_offset_bytes, std::move(same_as)};
           }),
           py::kw_only(), py::arg("file"), py::arg("offset_bytes"), py::arg("size_bytes"),
           py::arg("out_file"), py::arg("out_offset_bytes"), py::arg("same_as"));

  py::class_<MeasureJob>(module, "MeasureJob")
      .def(py::init([](std::vector<Source> sources, std::uint64_t elements,
                       std::vector<double> rows) {
             return MeasureJob{std::move(sources), elements, std::move(rows)};
           }),
           py::kw_only(), py::arg("sources"), py::arg("elements"), py::arg("rows"));

  module.def(
      "merge",
      [](const std::vector<std::string>& inputs, const std::vector<std::string>& outputs,
         const std::vector<CombineJob>& combines, const std::vector<CopyJob>& copies,
         unsigned threads, std::uint64_t slice_bytes, std::uint64_t buffer_bytes,
         const std::string& isa, const py::object& progress) {
        const Options options =
            make_options(threads, slice_bytes, buffer_bytes, isa, progress);
        MergeCounts counts;
        {
          const py::gil_scoped_release release;
          counts = merge(inputs, outputs, combines, copies, options);
        }
        return py::make_tuple(counts.changed, counts.different);
      },
      py::arg("inputs"), py::arg("outputs"), py::arg("combines"), py::arg("copies"),
      py::kw_only(), py::arg("threads"), py::arg("slice_bytes"), py::arg("buffer_bytes"),
      py::arg("isa") = "", py::arg("progress") = py::none());

  module.def(
      "measure",
      [](const std::vector<std::string>& inputs, const std::vector<MeasureJob>& jobs,
         unsigned threads, std::uint64_t buffer_bytes, const std::string& isa,
         const py::object& progress) {
        const Options options =
            make_options(threads, buffer_bytes, buffer_bytes, isa, progress);
        std::vector<Measured> measured;
        {
          const py::gil_scoped_release release;
          measured = measure(inputs, jobs, options);
        }
        py::list results;
        for (Measured& one : measured)
          results.append(py::make_tuple(one.gram, one.nonzero));
        return results;
      },
      py::arg("inputs"), py::arg("jobs"), py::kw_only(), py::arg("threads"),
      py::arg("buffer_bytes"), py::arg("isa") = "", py::arg("progress") = py::none());

  module.def("available_isas", &available_isas);
}
