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
            "typestr": {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}[self.tensor.dtype],
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
