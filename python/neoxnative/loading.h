// SPDX-License-Identifier: Apache-2.0
// A Python callable as the C++ callback that is told how far a model is loaded.
#pragma once
#include <Python.h>

#include <cstdint>
#include <functional>

#include "errors.h"

/// `call` outlives the result, which is called without the GIL in the thread that made it. What Python raises passes through C++.
inline std::function<void(int32_t, int32_t)> neox_told(PyObject* call) {
  return [call](int32_t done, int32_t layers) {
    const PyGILState_STATE gil = PyGILState_Ensure();
    PyObject* result = PyObject_CallFunction(call, "ii", int(done), int(layers));
    const bool raised = result == nullptr;
    Py_XDECREF(result);
    PyGILState_Release(gil);
    if (raised) throw neox::python::Raised{};
  };
}
