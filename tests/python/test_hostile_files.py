# SPDX-License-Identifier: Apache-2.0
"""Files of torch.save that somebody else made up: an error that says what is wrong, nothing executed, and no memory or time lost."""

import io
import os
import pickle
import struct
import time
import zipfile

import pytest

from neoxnative import _core


class Call:
    """Pickles as a call of anything with anything."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


class Nested:
    def __init__(self, depth, inner):
        self.depth, self.inner = depth, inner

    def __reduce__(self):
        return list, ([Nested(self.depth - 1, self.inner) if self.depth else self.inner],)


# Pickles by hand, in the opcodes of pickletools


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def text(value):
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def number(value):
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


def tensor(shape, strides, offset=0, elements=4, storage="FloatStorage", key="0"):
    persistent = tuple_of(text("storage"), name("torch", storage), text(key), text("cpu"), number(elements)) + b"Q"
    sizes = tuple_of(*map(number, shape)), tuple_of(*map(number, strides))
    hooks = b"\x89" + name("collections", "OrderedDict") + b")R"
    return name("torch._utils", "_rebuild_tensor_v2") + tuple_of(persistent, number(offset), *sizes, hooks) + b"R"


def whole(value):
    return b"\x80\x02" + value + b"."


def state(**tensors):
    return whole(b"}" + b"".join(text(key) + value + b"s" for key, value in tensors.items()))


GOOD = state(w=tensor([2, 2], [2, 1]))


def archive(pickled=GOOD, storage=bytes(16), compression=zipfile.ZIP_STORED, **more):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for entry, content in {"archive/data.pkl": pickled, "archive/data/0": storage, **more}.items():
            file.writestr(entry, content)
    return out.getvalue()


FOUR_ZEROS = (4).to_bytes(8, "little") + bytes(16)


def legacy(pickled=GOOD, keys=("0",), storage=FOUR_ZEROS, machine=None):
    head = [0x1950A86A20F9469CFC6C, 1001, machine or {"protocol_version": 1001, "little_endian": True}]
    return b"".join(pickle.dumps(part, 2) for part in head) + pickled + pickle.dumps(list(keys), 2) + storage


def read(content, tmp_path):
    """All tensors of the file."""
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(content)
    checkpoint = _core.Checkpoint(file)
    return {key: checkpoint.read(key) for key in checkpoint.names()}


def refused(error, message, content, tmp_path):
    with pytest.raises(error, match=message) as caught:
        read(content, tmp_path)
    assert "pytorch_model.bin" in str(caught.value) and len(str(caught.value)) < 600


def test_the_files_made_here_are_read(tmp_path):
    for content in (archive(), legacy()):
        assert {key: value.shape for key, value in read(content, tmp_path).items()} == {"w": (2, 2)}


@pytest.mark.parametrize("form", (archive, legacy), ids=("zip", "legacy"))
@pytest.mark.parametrize("protocol", range(6))
def test_a_call_in_a_pickle_is_refused_by_name_and_not_made(protocol, form, tmp_path):
    mark = tmp_path / "executed"
    for function, arguments, told in (
        (os.system, (f"touch {mark}",), "posix.system"),
        (exec, (f"open({str(mark)!r}, 'w')",), "exec"),
        (open, (str(mark), "w"), "io.open"),
        (os.mkdir, (str(mark),), "posix.mkdir"),
    ):
        call = Call(function, *arguments)
        for value in (call, {"w": call}, [{"a": (call,)}], Nested(20, call)):
            pickled = pickle.dumps(value, protocol)
            with pytest.raises(ValueError) as caught:
                read(form(pickled), tmp_path)
            assert not mark.exists()
            if protocol >= 2 and not isinstance(value, Nested):
                assert f"{told}, which is not part of a checkpoint's tensors: refused, and nothing of it was executed" in str(caught.value)


BAD_PICKLES = {
    "another_module": (whole(name("torch.hub", "load")), "names torch.hub.load, which is not part"),
    "almost_a_name": (whole(name("torch._utils", "_rebuild_tensor_v2.__globals__")), r"_rebuild_tensor_v2\.__globals__, which is not part"),
    "almost_a_storage": (whole(name("torch", "EvilStorage")), "names torch.EvilStorage, which is not part"),
    "a_class_in_the_old_way": (whole(b"(" + text("x") + b"ios\nsystem\n"), "names os.system, which is not part"),
    "a_name_on_the_stack": (b"\x80\x04" + b"\x8c\x02os\x8c\x06system\x93.", "names os.system, which is not part"),
    "a_name_without_end": (whole(b"c" + b"x" * 5000), "a name of more than 256 bytes, or without an end"),
    "bytes_in_a_name": (whole(b"c\x1b[2J\nx\n"), r"names \\x1b\[2J\.x, which is not part"),
    "an_extension": (whole(b"\x82\x01"), "opcode 130 .*which no checkpoint has"),
    "nothing": (b"", "needs 1 more bytes, but ends after 0"),
    "no_end": (b"\x80\x02}", "needs 1 more bytes, but ends after 0"),
    "a_long_text": (b"\x80\x02X\xff\xff\xff\xffabc.", "needs 4294967295 more bytes, but ends after 4"),
    "a_longer_text": (b"\x80\x04\x8d" + b"\xff" * 8 + b"abc.", "needs 18446744073709551615 more bytes"),
    "protocol": (b"\x80\x06N.", "protocol 6, expected at most 5"),
    "an_empty_stack": (whole(b"0"), "its stack is empty"),
    "no_mark": (whole(b"t"), "there is no mark"),
    "a_memo_that_is_not_there": (whole(b"j\xff\xff\xff\xff"), "memo 4294967295 was never stored"),
    "a_key_without_a_value": (whole(b"}(K\x01u"), "a key without a value"),
    "appending_to_a_number": (whole(b"K\x01K\x02a"), "expected a list to put something into"),
    "a_call_of_a_number": (whole(b"K\x01)R"), "a call of something that is no global"),
    "state_of_a_tensor": (whole(tensor([4], [1]) + b"}b"), "expected a dict to put something into"),
    "a_filled_ordered_dict": (whole(name("collections", "OrderedDict") + tuple_of(b"]") + b"R"), "an OrderedDict made with arguments"),
    "names_that_are_no_text": (state(**{"a\0b": tensor([4], [1])}), r"'a\\x00b' in '' is no name: expected UTF-8"),
    "surrogates": (whole(b"}X\x03\0\0\0\xed\xa0\x80" + tensor([4], [1]) + b"s"), "is no name: expected UTF-8"),
    "a_name_twice": (whole(b"}" + 2 * (text("w") + tensor([4], [1]) + b"s")), "w is there twice"),
    "a_tensor_without_storage": (
        whole(name("torch._utils", "_rebuild_tensor_v2") + tuple_of(b"N", number(0), b")", b")") + b"R"),
        "tensor has no storage",
    ),
    "a_tensor_of_two_parts": (whole(name("torch._utils", "_rebuild_tensor_v2") + tuple_of(b"N", b"N") + b"R"), "is a tensor of 2 parts"),
    "another_persistent_id": (state(w=tensor([4], [1]).replace(b"storage", b"module_")), "begins with 'module_', expected 'storage'"),
    "a_storage_that_is_not_there": (state(w=tensor([4], [1], key="1")), "w is in storage 1, which is not there"),
    "a_large_storage": (state(w=tensor([4], [1], elements=5)), "storage 0 of w holds 16 bytes, expected 5 elements of 4"),
    "a_negative_storage": (state(w=tensor([4], [1], elements=-1)), "a storage's size is not a number from 0 on"),
    "past_the_end": (state(w=tensor([5], [1])), r"w of shape \[5\] and strides \[1\] .*goes past the end of its storage of 4"),
    "an_offset_past_the_end": (state(w=tensor([1], [1], 4)), r"w of shape \[1\] .*past the end of its storage of 4"),
    "a_huge_offset": (state(w=tensor([], [], 2**62)), "w of shape .* begins at element 4611686018427387904 of a storage of 4"),
    "a_negative_offset": (state(w=tensor([2], [1], -1)), "a tensor's offset is not a number from 0 on"),
    "a_negative_stride": (state(w=tensor([2], [-1], 1)), "a shape or stride is not a number from 0 on"),
    "a_huge_stride": (state(w=tensor([2, 2], [2**62, 2**62])), "goes past the end of its storage of 4"),
    "a_huge_shape": (state(w=tensor([2**62, 2**62, 2**62], [1, 1, 1])), "goes past the end of its storage of 4"),
    "a_shape_for_other_strides": (state(w=tensor([2, 2], [1])), "w has 2 dimensions and 1 strides"),
    "many_dimensions": (state(w=tensor([1] * 65, [1] * 65)), "or more than 64 dimensions"),
}


@pytest.mark.parametrize("case", BAD_PICKLES)
def test_a_broken_pickle_is_told_by_what_is_wrong_in_it(case, tmp_path):
    content, message = BAD_PICKLES[case]
    refused(ValueError, message, archive(content), tmp_path)


def test_an_expanded_view_is_not_blown_up(tmp_path):
    (tmp_path / "x.pt").write_bytes(archive(state(w=tensor([2**40, 2**20], [0, 0]))))
    checkpoint = _core.Checkpoint(tmp_path / "x.pt")
    assert checkpoint.names() == []
    with pytest.raises(ValueError, match="w has .* elements, more than its storage, which holds 4: expected no expanded view"):
        checkpoint.read("w")


BOMBS = {  # what they would become if a memo were copied instead of named
    "laughs": (
        b"]q\0" + b"".join(b"]" + bytes([0x68, i, 0x61]) * 10 + bytes([0x71, i + 1]) for i in range(12)),
        "more than 1048576 values on the way",
    ),
    "a_list_of_itself": (b"]q\0h\0a", "nested more than 16 deep"),
    "deep": (b"](" * 100_000 + b"N" + b"e" * 100_000, "nested more than 16 deep"),
    "many_values": (b"(" + b"N" * 3_000_000 + b"t", "more than 2097152 values"),
    "copies_of_one": (b"(N" + b"2" * 5_000_000 + b"t", "more than 1048576 values on the way"),
    "memos": (b"N" + b"".join(b"r" + struct.pack("<I", 4294967295 - i) for i in range(300_000)), None),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_ends_in_an_error_soon_and_small(case, tmp_path):
    content, message = BOMBS[case]
    started = time.process_time()
    if message is None:
        assert read(archive(whole(content)), tmp_path) == {}
    else:
        refused(ValueError, message, archive(whole(content)), tmp_path)
    assert time.process_time() - started < 5


# Archives


def patched(content, signature, offset, layout, *values):
    """The archive with fields changed behind the last record of this signature."""
    at = content.rindex(signature) + offset
    return content[:at] + struct.pack(layout, *values) + content[at + struct.calcsize(layout) :]


def duplicate():
    with pytest.warns(UserWarning, match="Duplicate"):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as file:
            for _ in range(2):
                file.writestr("archive/data.pkl", GOOD)
    return out.getvalue()


CENTRAL, LOCAL, END = b"PK\1\2", b"PK\3\4", b"PK\5\6"
BAD_ARCHIVES = {
    "deflated": (lambda: archive(compression=zipfile.ZIP_DEFLATED), NotImplementedError, r"'archive/data\.pkl' is compressed \(method 8\)"),
    "no_pickle": (lambda: archive().replace(b"data.pkl", b"data.txt"), ValueError, "a zip archive without a data.pkl"),
    "big_endian": (lambda: archive(**{"archive/byteorder": "big"}), NotImplementedError, "its numbers are 'big'-endian, expected little"),
    "twice": (duplicate, ValueError, r"'archive/data\.pkl' is there twice"),
    "cut_in_half": (lambda: archive()[:200], ValueError, "no directory at its end .*is it truncated"),
    "cut_at_the_end": (lambda: archive()[:-1], ValueError, "no directory at its end .*is it truncated"),
    "signature_only": (lambda: LOCAL, ValueError, "no directory at its end .4 bytes."),
    "encrypted": (lambda: patched(archive(), CENTRAL, 8, "<H", 1), ValueError, "'archive/data/0' is encrypted"),
    "outside": (lambda: patched(archive(), CENTRAL, 42, "<I", 10**9), ValueError, "archive/data/0 is at bytes 1000000000 to"),
    "too_long": (lambda: patched(archive(), CENTRAL, 20, "<II", 10**6, 10**6), ValueError, "archive/data/0 is at bytes .*the file holds"),
    "elsewhere": (lambda: patched(archive(), CENTRAL, 42, "<I", 1), ValueError, "'archive/data/0' is not at byte 1, where the directory"),
    "another_name": (lambda: patched(archive(), CENTRAL, 42, "<I", 0), ValueError, "'archive/data/0' has another name where its bytes are"),
    "overlapping": (lambda: patched(archive(), CENTRAL, 20, "<II", 60, 60), ValueError, "two entries overlap at byte .*'archive/data/0'"),
    "two_sizes": (lambda: patched(archive(), CENTRAL, 20, "<I", 5), ValueError, "takes 5 bytes in the archive, expected its size, 16"),
    "zip64_without_a_field": (lambda: patched(archive(), CENTRAL, 20, "<II", 2**32 - 1, 2**32 - 1), ValueError, "takes|is at bytes"),
    "many_entries": (lambda: patched(archive(), END, 8, "<HH", 9999, 9999), ValueError, "is too short for its 9999 entries"),
    "directory_outside": (lambda: patched(archive(), END, 12, "<I", 10**9), ValueError, "the directory is at bytes .*the file holds"),
    "directory_elsewhere": (lambda: patched(archive(), END, 16, "<I", 3), ValueError, "no directory entry at byte 3, where one is due"),
    "short_storage": (lambda: archive(storage=bytes(15)), ValueError, "storage 0 of w holds 15 bytes, expected 4 elements of 4"),
    "a_pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid x", ValueError, "is a pointer of Git LFS, .*git lfs pull"),
    "a_page": (lambda: b"<!doctype html>", ValueError, "beginning with '<!doctype html>'. is not a file of torch.save"),
    "empty": (lambda: b"", ValueError, "0 bytes, .* is not a file of torch.save"),
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_a_broken_archive_is_told_by_entry(case, tmp_path):
    make, error, message = BAD_ARCHIVES[case]
    refused(error, message, make(), tmp_path)


def test_archives_of_more_than_four_gigabytes_are_read(tmp_path):
    """Sparse: a storage of 5 GB before the one that is read, and the directory behind both, in zip64."""
    file, large = tmp_path / "large.pt", 5 << 30
    pickled = state(w=tensor([2, 2], [2, 1], elements=large // 4), v=tensor([1], [1], large // 4 - 1, large // 4))
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("archive/data.pkl", pickled)
    with open(file, "r+b") as out:
        whole_file = out.read()
        at = whole_file.index(CENTRAL)
        entry = b"archive/data/0"
        out.truncate(at)
        out.seek(at)
        out.write(LOCAL + struct.pack("<HHHHHIIIHH", 45, 0, 0, 0, 0, 0, 2**32 - 1, 2**32 - 1, len(entry), 20) + entry)
        out.write(struct.pack("<HHQQ", 1, 16, large, large))
        end = out.seek(large, os.SEEK_CUR)
        out.seek(-4, os.SEEK_CUR)
        out.write(struct.pack("<f", 2.5))
        first = whole_file[at : at + 46 + len("archive/data.pkl")]
        fields = struct.pack("<HHHHHHIIIHHHHHII", 45, 45, 0, 0, 0, 0, 0, 2**32 - 1, 2**32 - 1, len(entry), 20, 0, 0, 0, 0, at)
        directory = first + CENTRAL + fields + entry + struct.pack("<HHQQ", 1, 16, large, large)
        out.write(directory)
        tail = struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 2, 2, len(directory), end)
        out.write(b"PK\6\6" + tail + b"PK\6\7" + struct.pack("<IQI", 0, end + len(directory), 1))
        out.write(END + struct.pack("<HHHHIIH", 0, 0, 2, 2, len(directory), 2**32 - 1, 0))
    checkpoint = _core.Checkpoint(file)
    assert checkpoint.shape("w") == (2, 2) and checkpoint.read("w").sum() == 0 and checkpoint.read("v")[0] == 2.5


BAD_LEGACY = {
    "another_pickle": (pickle.dumps({"a": 1}, 2), ValueError, "is a pickle, but not one of torch.save: expected its magic number first"),
    "protocol": (legacy().replace(pickle.dumps(1001, 2), pickle.dumps(1002, 2), 1), ValueError, "torch's protocol 1002, expected 1001"),
    "big_endian": (legacy(machine={"little_endian": False}), NotImplementedError, "its numbers are big-endian"),
    "unknown_storage": (legacy(keys=["0", "1"]), ValueError, "storage '1' is listed, but no tensor names it"),
    "missing_storage": (legacy(keys=[]), ValueError, "w is in storage 0, which is not there"),
    "no_size": (legacy(storage=b"\4\0"), ValueError, "the size of storage 0 is cut off: is it truncated"),
    "huge_size": (legacy(storage=b"\xff" * 8), ValueError, "storage 0 has 18446744073709551615 elements of 4 bytes, but the file holds 0"),
    "cut_off": (legacy()[:-1], ValueError, "storage 0 has 4 elements of 4 bytes, but the file holds 15 more: is it truncated"),
    "short": (legacy(storage=(3).to_bytes(8, "little") + bytes(12)), ValueError, "storage 0 of w holds 12 bytes, expected 4 elements of 4"),
    "two_sizes": (
        legacy(state(w=tensor([1], [1]), v=tensor([1], [1], elements=3))),
        ValueError,
        "storage 0 is named with two sizes",
    ),
}


@pytest.mark.parametrize("case", BAD_LEGACY)
def test_a_broken_file_of_the_format_before_zip_is_told(case, tmp_path):
    content, error, message = BAD_LEGACY[case]
    refused(error, message, content, tmp_path)
