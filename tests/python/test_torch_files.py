# SPDX-License-Identifier: Apache-2.0
"""Files of torch.save are read without torch: both formats, all types of weights, any view."""

import json
from collections import OrderedDict

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import models  # noqa: E402
from models import Model  # noqa: E402
from neoxnative import Engine, _core  # noqa: E402

MODEL = Model(seed=2, heads=2, head_dim=16, max_positions=64)
IDS = models.prompt(3, 20, MODEL.vocab)[None]
MATRIX = torch.from_numpy(np.random.RandomState(5).randn(6, 8).astype(np.float32))
# Name -> what is saved; what is read is the same in C order.
VIEWS = {
    "whole": MATRIX,
    "again": MATRIX,  # one storage
    "half": MATRIX.half(),
    "brain": MATRIX.bfloat16(),
    "double": MATRIX.double(),
    "transposed": MATRIX.T,
    "steps": MATRIX[1:5:2, 2:7],
    "double_steps": MATRIX.double().T[::3],
    "row": MATRIX[3],
    "column": MATRIX[:, 3],
    "turned": torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
    "parameter": torch.nn.Parameter(MATRIX[2:4]),
    "scalar": torch.tensor(3.5),
    "nothing": torch.zeros(0, 4),
}
OTHERS = {"integers": torch.arange(5), "mask": torch.ones(2, dtype=torch.bool), "expanded": torch.ones(1).expand(5, 5)}


def values(tensor):
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(np.uint16)
    return (tensor.float() if tensor.dtype == torch.float64 else tensor).numpy()


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
@pytest.mark.parametrize("zipped", (True, False), ids=("zip", "legacy"))
def test_every_view_is_read_as_torch_sees_it(zipped, protocol, tmp_path):
    nested = {"a": {"b": [MATRIX + 1, (MATRIX + 2,)]}, 7: MATRIX + 3, "step": 5, "name": "x", "none": None, "size": torch.Size([2])}
    file = tmp_path / "file.pt"
    saved = OrderedDict(VIEWS | OTHERS | {"nested": nested})
    torch.save(saved, file, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    checkpoint = _core.Checkpoint(file)
    want = VIEWS | {"nested.a.b.0": MATRIX + 1, "nested.a.b.1.0": MATRIX + 2, "nested.7": MATRIX + 3}
    assert checkpoint.names() == sorted(want)
    for name, tensor in want.items():
        got = checkpoint.read(name)
        assert got.shape == checkpoint.shape(name) == tuple(tensor.shape)
        assert np.array_equal(got, values(tensor)), name
        assert checkpoint.dtype(name) == {torch.float16: "float16", torch.bfloat16: "bfloat16"}.get(tensor.dtype, "float32")
        checkpoint.done_with(name)
    assert checkpoint.same("whole", "again") and not checkpoint.same("whole", "half") and not checkpoint.same("row", "column")
    for name, message in {"integers": "is of type torch.LongStorage, expected float32", "expanded": "expected no expanded view"}.items():
        with pytest.raises(ValueError, match=f"{name} .*{message}"):
            checkpoint.read(name)


def test_contiguous_tensors_are_views_of_the_mapped_file_and_outlive_their_reader(tmp_path):
    torch.save({"a": MATRIX, "b": MATRIX}, tmp_path / "file.pt")
    checkpoint = _core.Checkpoint(tmp_path / "file.pt")
    a, b = checkpoint.read("a"), checkpoint.read("b")
    assert a.ctypes.data == b.ctypes.data and not a.flags.writeable
    checkpoint.done_with("a")
    del checkpoint
    assert np.array_equal(a, MATRIX.numpy())


def test_a_tensor_alone_is_called_tensor(tmp_path):
    torch.save(MATRIX, tmp_path / "prompt.weight.bin")
    assert np.array_equal(_core.Checkpoint(tmp_path / "prompt.weight.bin").read("tensor"), MATRIX.numpy())


def write(folder, dtype, shards=1, zipped=True):
    """The model as transformers wrote it before it wrote safetensors."""
    models.write(MODEL, folder, dtype=str(dtype).removeprefix("torch."))
    (folder / "model.safetensors").unlink()
    named = {name: torch.from_numpy(value).to(dtype) for name, value in models.tensors(MODEL).items()}
    named["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
    named["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
    if shards == 1:
        torch.save(named, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        return
    weight_map = {}
    for i in range(shards):
        file = f"pytorch_model-{i + 1:05d}-of-{shards:05d}.bin"
        part = {name: named[name] for name in list(named)[i::shards]}
        torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize("how", ({}, {"shards": 3}, {"zipped": False}), ids=("one_file", "shards", "legacy"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16), ids=str)
def test_pytorch_model_bin_gives_the_bits_that_safetensors_give(dtype, how, tmp_path):
    name = str(dtype).removeprefix("torch.")
    write(tmp_path / "bin", dtype, **how)
    models.write(MODEL, tmp_path / "safe", dtype=name)
    engine, peer = (Engine(tmp_path / kind, device="cpu", num_threads=1) for kind in ("bin", "safe"))
    assert engine.info.dtype == name and engine.info.warnings == []
    assert np.array_equal(engine.forward(IDS), peer.forward(IDS))


def test_safetensors_are_preferred_unless_told_otherwise(tmp_path):
    write(tmp_path, torch.float32)
    models.write(MODEL, tmp_path, named={name: 2 * value for name, value in models.tensors(MODEL).items()})

    def embedding(load_format):
        return _core.Checkpoint(tmp_path, load_format).read("gpt_neox.embed_in.weight")

    assert np.array_equal(embedding("auto"), embedding("safetensors")) and np.array_equal(embedding("auto"), 2 * embedding("pt"))


def test_tied_weights_lie_in_the_file_once(tmp_path):
    tied = Model(seed=2, heads=2, head_dim=16, max_positions=64, tied=True)
    models.write(tied, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "kept")
    named = {name: torch.from_numpy(value) for name, value in models.tensors(tied).items()}
    named["embed_out.weight"] = named["gpt_neox.embed_in.weight"]
    torch.save(named, tmp_path / "pytorch_model.bin")
    engine = Engine(tmp_path, device="cpu", num_threads=1)
    (tmp_path / "kept").rename(tmp_path / "model.safetensors")
    assert np.array_equal(engine.forward(IDS), Engine(tmp_path, device="cpu", num_threads=1).forward(IDS))
    checkpoint = _core.Checkpoint(tmp_path / "pytorch_model.bin")
    assert checkpoint.read("embed_out.weight").ctypes.data == checkpoint.read("gpt_neox.embed_in.weight").ctypes.data


def test_two_shards_with_one_tensor_are_an_error(tmp_path):
    write(tmp_path, torch.float32, shards=3)
    first, second = sorted(tmp_path.glob("*.bin"))[:2]
    second.write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=r"pytorch_model-00002-of-00003\.bin: .* is also in another shard"):
        Engine(tmp_path)
