# Part of _core.pyx: a checkpoint's tensors as numpy arrays, for converters.

cdef class _Values:
    """What a numpy array of a tensor stands on: the mapped file that its reader keeps open, or a copy of its own."""

    cdef shared_ptr[neox.CheckpointReader] reader
    cdef neox.StoredTensor tensor

    @property
    def __array_interface__(self):
        return {
            "version": 3,
            "shape": tuple(self.tensor.shape),
            "typestr": {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int8": "|i1"}[self.tensor.dtype],
            "data": (<size_t>self.tensor.data, True),
        }


cdef class Checkpoint:
    cdef shared_ptr[neox.CheckpointReader] reader

    def __cinit__(self, path, str load_format="auto", str model_config=""):
        cdef neox.string c = fsencode(path), form = load_format, config = model_config
        cdef neox.CheckpointReader* made
        with nogil:
            made = new neox.CheckpointReader(c, form, config)
        self.reader.reset(made)

    def names(self):
        return self.reader.get().names()

    def shape(self, str name):
        return tuple(self.reader.get().shape(name))

    def dtype(self, str name):
        return self.reader.get().dtype(name)

    def read(self, str name):
        cdef _Values values = _Values()
        cdef neox.string c = name
        values.reader = self.reader
        with nogil:
            values.tensor = self.reader.get().read(c)
        return asarray(values)

    def same(self, str a, str b):
        cdef neox.string first = a, second = b
        cdef cpp_bool equal
        with nogil:
            equal = self.reader.get().same(first, second)
        return equal

    def done_with(self, str name):
        self.reader.get().done_with(name)


def quantize(str mode, group, weight):
    cdef neox.string c = mode, dtype = {"<f4": "float32", "<f2": "float16", "<u2": "bfloat16"}[weight.dtype.str]
    cdef const uint8_t[:, ::1] data = weight.view(uint8)
    cdef int64_t rows = weight.shape[0], cols = weight.shape[1]
    cdef int32_t columns = _int32("group", group)
    integers, scales = empty((rows, cols), int8), empty((rows, cols // columns if columns else 1), float32)
    cdef int8_t[:, ::1] q = integers
    cdef float[:, ::1] scale = scales
    cdef span[int8_t] to_q = span[int8_t](&q[0, 0] if rows else NULL, <size_t>(rows * cols))
    cdef span[float] to_scale = span[float](&scale[0, 0] if rows else NULL, <size_t>scale.size)
    cdef neox.QuantizationError error
    cdef const void* at = &data[0, 0] if rows else NULL
    with nogil:
        error = neox.quantize(c, columns, dtype, at, rows, cols, to_q, to_scale)
    return integers, scales, error.error, error.norm


def training_step(path):
    cdef neox.string c = fsencode(path), step
    with nogil:
        step = neox.training_step(c)
    return fsdecode(<bytes>PyBytes_FromStringAndSize(step.data(), <Py_ssize_t>step.size()))
