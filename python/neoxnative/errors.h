// SPDX-License-Identifier: Apache-2.0
// The one place where a C++ exception becomes a Python one.
#pragma once
#include <Python.h>

#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include "neox/error.h"

namespace neox::python {

/// Python raised in a callback, and its error is set.
struct Raised {};

/// A new reference to the exception type that a reader of `kind` expects, or null with a Python error set.
inline PyObject* exception_type(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::invalid: return Py_NewRef(PyExc_ValueError);
    case ErrorKind::not_found: return Py_NewRef(PyExc_FileNotFoundError);
    case ErrorKind::unsupported: return Py_NewRef(PyExc_NotImplementedError);
    case ErrorKind::memory: return Py_NewRef(PyExc_MemoryError);
    case ErrorKind::runtime: return Py_NewRef(PyExc_RuntimeError);
    case ErrorKind::numerical: break;
  }
  PyObject* module = PyImport_ImportModule("neoxnative._core");
  PyObject* type = module ? PyObject_GetAttrString(module, "NumericalError") : nullptr;
  Py_XDECREF(module);
  return type;
}

inline void set_error(PyObject* type, const char* what) {  // a message may quote bytes of a broken file
  PyObject* message = PyUnicode_DecodeUTF8(what, static_cast<Py_ssize_t>(std::strlen(what)), "replace");
  if (message) PyErr_SetObject(type, message);
  Py_XDECREF(message);
}

}  // namespace neox::python

/// Cython calls this inside its catch block, with the GIL held.
inline void raise_neox_error() {
  try {
    throw;
  } catch (const neox::python::Raised&) {
  } catch (const neox::Error& e) {
    PyObject* type = neox::python::exception_type(e.kind);
    if (type) neox::python::set_error(type, e.what());
    Py_XDECREF(type);
  } catch (const std::bad_alloc&) {  // whose what() says nothing
    PyErr_SetString(PyExc_MemoryError, "out of memory");
  } catch (const std::length_error& e) {  // a container asked for more than any memory has
    neox::python::set_error(PyExc_MemoryError, (std::string("out of memory: ") + e.what()).c_str());
  } catch (const std::exception& e) {  // of the standard library
    neox::python::set_error(PyExc_RuntimeError, e.what());
  } catch (...) {  // nothing of ours
    PyErr_SetString(PyExc_RuntimeError, "unknown C++ exception");
  }
}
