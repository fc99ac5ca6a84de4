# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's CUPTI through ctypes: which driver calls this process makes, and which kernels and copies the GPU runs, from start to stop."""

import ctypes
import sysconfig
from collections import Counter
from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_int, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from pathlib import Path

_DRIVER_API, _ENTER = 1, 0
_MEMCPY, _MEMSET, _CONCURRENT_KERNEL = 1, 2, 10
COPIES = {1: "HtoD", 2: "DtoH", 8: "DtoD", 9: "HtoH"}
_BUFFER = 8 << 20  # bytes
_DONE = 12  # CUPTI_ERROR_MAX_LIMIT_REACHED: a buffer has no more records

_OnCall = CFUNCTYPE(None, c_void_p, c_int, c_uint32, c_void_p)
_OnRequest = CFUNCTYPE(None, POINTER(c_void_p), POINTER(c_size_t), POINTER(c_size_t))
_OnComplete = CFUNCTYPE(None, c_void_p, c_uint32, c_void_p, c_size_t, c_size_t)


class _Call(ctypes.Structure):  # the beginning of CUpti_CallbackData
    _fields_ = [("site", c_int), ("function", c_char_p)]


class _Record(ctypes.Structure):  # what CUDA 13's CUpti_ActivityKernel10, Memcpy6 and Memset4 have in common, and the kernel's name
    _pack_ = 1
    _fields_ = [
        ("kind", c_uint32),
        ("copy_kind", c_uint8),
        ("_to_16", c_uint8 * 11),
        ("start", c_uint64),  # ns
        ("end", c_uint64),
        ("_to_104", c_uint8 * 72),
        ("name", c_char_p),
    ]


def _load():
    root = Path(sysconfig.get_path("purelib")) / "nvidia"
    folders = [Path("/usr/local/cuda/extras/CUPTI/lib64"), Path("/usr/local/cuda/lib64"), Path("/usr/local/cuda/lib"), root / "cu13/lib"]
    found = next((str(file) for folder in folders for file in folder.glob("libcupti.so.13")), "libcupti.so.13")
    library = ctypes.CDLL(found)
    version = c_uint32()
    library.cuptiGetVersion(byref(version))
    if version.value < 130000:
        raise RuntimeError(f"{found} is CUPTI {version.value}, expected 130000 (CUDA 13) or later")
    return library


class Trace:
    """calls: how often each function of the CUDA driver was called; work: (name, start, end) in ns of all that the GPU ran, in its order.

    Copies are named by their direction, as in COPIES, those inside graphs too. One Trace a process, in the thread that made the engine.
    It may be started again, and then begins anew.
    """

    def __init__(self):
        self.calls: Counter[str] = Counter()
        self.work: list[tuple[str, int, int]] = []
        self._library, self._driver = _load(), ctypes.CDLL("libcuda.so.1")
        self._buffers, self._complete = {}, []
        self._callbacks = _OnCall(self._on_call), _OnRequest(self._on_request), _OnComplete(self._on_complete)  # CUPTI holds no reference
        self._subscriber, self._registered = c_void_p(), False

    def _check(self, function, *arguments):
        error = getattr(self._library, function)(*arguments)
        if error:
            text = c_char_p()
            self._library.cuptiGetResultString(error, byref(text))
            raise RuntimeError(f"{function}: {(text.value or b'').decode()} ({error})")

    def _on_call(self, _, domain, number, data):
        call = ctypes.cast(data, POINTER(_Call)).contents
        if call.site == _ENTER:
            self.calls[call.function.decode()] += 1

    def _on_request(self, buffer, size, most_records):
        made = ctypes.create_string_buffer(_BUFFER + 8)
        address = (ctypes.addressof(made) + 7) // 8 * 8
        self._buffers[address] = made
        buffer[0], size[0], most_records[0] = address, _BUFFER, 0

    def _on_complete(self, context, stream, buffer, size, valid):
        self._complete.append((buffer, valid))

    def _finish_work(self):
        if error := self._driver.cuCtxSynchronize():
            raise RuntimeError(f"cuCtxSynchronize: error {error}")

    def start(self):
        """What was enqueued before is not in the trace."""
        self.calls.clear(), self.work.clear()
        self._finish_work()
        on_call, on_request, on_complete = self._callbacks
        self._check("cuptiSubscribe", byref(self._subscriber), on_call, None)
        if not self._registered:
            self._check("cuptiActivityRegisterCallbacks", on_request, on_complete)
            self._registered = True
        for kind in (_MEMCPY, _MEMSET, _CONCURRENT_KERNEL):
            self._check("cuptiActivityEnable", kind)
        self._check("cuptiEnableDomain", 1, self._subscriber, _DRIVER_API)

    def stop(self):
        """What was enqueued since start is in the trace to its end."""
        self._check("cuptiEnableDomain", 0, self._subscriber, _DRIVER_API)
        self._finish_work()
        self._check("cuptiActivityFlushAll", 1)
        for kind in (_MEMCPY, _MEMSET, _CONCURRENT_KERNEL):
            self._check("cuptiActivityDisable", kind)
        self._check("cuptiUnsubscribe", self._subscriber)
        for buffer, valid in self._complete:
            self._read(buffer, valid)
            del self._buffers[buffer]
        self._complete.clear()
        self.work.sort(key=lambda work: work[1])

    def _read(self, buffer, valid):
        record = c_void_p()
        while (error := self._library.cuptiActivityGetNextRecord(c_void_p(buffer), c_size_t(valid), byref(record))) == 0:
            r = ctypes.cast(record, POINTER(_Record)).contents
            if r.kind in (_MEMCPY, _MEMSET):  # shorter than a kernel's record
                name = COPIES.get(r.copy_kind, f"copy {r.copy_kind}") if r.kind == _MEMCPY else "memset"
            else:
                name = r.name.decode()
            self.work.append((name, r.start, r.end))
        if error != _DONE:
            raise RuntimeError(f"cuptiActivityGetNextRecord: error {error}")
