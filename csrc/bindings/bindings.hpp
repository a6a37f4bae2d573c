// The parts of tvmerge._core, each of which converts types and nothing else.
#pragma once

#include <pybind11/pybind11.h>

namespace tvmerge {

namespace py = pybind11;

void def_jobs(py::module_& module);
void def_cards(py::module_& module);

}  // namespace tvmerge
