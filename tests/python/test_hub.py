# SPDX-License-Identifier: Apache-2.0
"""Models by name: from a cache that is there, and from a stand-in of the hub on this machine."""

import hashlib
import json
import os
import pty
import random
import shutil
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import hub_server
import models
from hub_server import Repository
from models import Model
from neoxnative.engine import DEMO_MODEL
from neoxnative.hub import resolve_model

TINY = Model(seed=6, heads=2, head_dim=16, max_positions=64)
NAME = "someone/tiny-neox"
RUN = """
import json, sys
import neoxnative.hub
call, arguments = sys.argv[1], json.loads(sys.argv[2])
try:
    print("ok", getattr(neoxnative.hub, call)(*arguments.pop("of"), **arguments))
except Exception as error:
    print(type(error).__name__, str(error))
"""
NEEDED = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
UNNEEDED = {
    "README.md": b"words",
    ".gitattributes": b"words",
    "pytorch_model.bin": b"pickle",
    "model.fp16.safetensors": b"other weights",
    "tf_model.h5": b"other weights",
    "special_tokens_map.json": b"{}",
    "onnx/model.onnx": b"other weights",
}


def files_of(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture(scope="module")
def files(folder_of):
    """What a repository of the tiny model holds: all that is needed, and more."""
    return UNNEEDED | {name: (DEMO_MODEL / name).read_bytes() for name in NEEDED} | files_of(folder_of(TINY))


@pytest.fixture
def serve(tmp_path):
    """serve(repositories) -> the hub; everything is shut down after the test."""
    with hub_server.serve({}) as hub:

        def start(**repositories):
            hub.repositories.update({NAME.replace("tiny-neox", name): repository for name, repository in repositories.items()})
            return hub

        yield start


@pytest.fixture
def environment(tmp_path):
    """An environment with an empty cache and no way to any hub."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    return kept | {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"}


def ask(environment, *of, call="resolve_model", cwd=None, **arguments):
    """(kind, text): what a call in a process of its own returned or raised."""
    command = [sys.executable, "-c", RUN, call, json.dumps({"of": of} | arguments)]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    kind, _, text = done.stdout.rstrip("\n").partition(" ")
    assert "\n" not in text
    return kind, text


def folder_from(environment, *of, **arguments):
    kind, text = ask(environment, *of, **arguments)
    assert kind == "ok", text
    return Path(text)


def fill_cache(environment, name, files, branch="main"):
    """The cache as huggingface_hub lays it out."""
    commit = hashlib.sha1(branch.encode()).hexdigest()
    repository = Path(environment["HF_HOME"], "hub", "models--" + name.replace("/", "--"))
    for folder in ("refs", "blobs", f"snapshots/{commit}"):
        (repository / folder).mkdir(parents=True, exist_ok=True)
    (repository / "refs" / branch).write_text(commit)
    for file, content in files.items():
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (repository / "snapshots" / commit / file).symlink_to(Path("../../blobs") / blob.name)
    return repository / "snapshots" / commit


def test_a_name_brings_the_files_that_are_needed_and_nothing_else(serve, environment, files):
    hub = serve(**{"tiny-neox": Repository({"main": files})})
    environment |= {"HF_ENDPOINT": hub.endpoint}
    folder = folder_from(environment, NAME)
    assert files_of(folder) == {name: files[name] for name in (*NEEDED, "model.safetensors")}
    assert hub.files() == {*NEEDED, "model.safetensors"}
    assert hub.files("HEAD") == hub.files()
    hub.log.clear()
    assert folder_from(environment, NAME) == folder
    assert hub.files() == set(), "what is in the cache is not downloaded again"
    hub.log.clear()
    assert folder_from(environment | {"HF_HUB_OFFLINE": "1"}, NAME) == folder
    assert hub.log == []
    hub.down = True
    assert folder_from(environment, NAME) == folder, "the cache serves while the hub does not"


def test_of_a_sharded_model_the_index_and_its_shards_come(serve, environment, tmp_path):
    sharded = files_of(models.write(TINY, tmp_path / "sharded", shards=3))
    more = {"model.safetensors": b"the same in one file", "model-00004-of-00004.safetensors": b"of another export"}
    hub = serve(**{"tiny-neox": Repository({"main": sharded | more})})
    folder = folder_from(environment | {"HF_ENDPOINT": hub.endpoint}, NAME)
    assert files_of(folder) == sharded
    assert hub.files() == set(sharded)


def test_a_revision_is_its_own_snapshot(serve, environment, files, tmp_path):
    old = {**files, "model.safetensors": (models.write(Model(seed=7, heads=2, head_dim=16), tmp_path) / "model.safetensors").read_bytes()}
    hub = serve(**{"tiny-neox": Repository({"main": files, "step3000": old, "refs/pr/1": old | {"config.json": b"{ }"}})})
    environment |= {"HF_ENDPOINT": hub.endpoint}
    newest, step = folder_from(environment, NAME), folder_from(environment, NAME, "step3000")
    assert (newest / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert (step / "model.safetensors").read_bytes() == old["model.safetensors"]
    assert (folder_from(environment, NAME, "refs/pr/1") / "config.json").read_bytes() == b"{ }"
    assert folder_from(environment, NAME, step.name) == step, "a commit is a revision too"
    assert folder_from(environment | {"HF_HUB_OFFLINE": "1"}, NAME, "step3000") == step


def test_a_download_that_breaks_off_is_resumed_where_it_was(serve, environment, files):
    weights = random.Random(1).randbytes(24 << 20)  # huggingface_hub writes pieces of 10 MiB
    hub = serve(**{"tiny-neox": Repository({"main": {**files, "model.safetensors": weights}})})
    hub.cuts["model.safetensors"] = 15 << 20
    environment |= {"HF_ENDPOINT": hub.endpoint}
    if ask(environment, NAME)[0] != "ok":  # by its version, huggingface_hub resumes in the same call or in the next one
        assert ask(environment, NAME)[0] == "ok"
    (resumed,) = hub.ranges("model.safetensors")
    assert 10 << 20 <= int(resumed.removeprefix("bytes=").split("-")[0]) <= 15 << 20
    assert (folder_from(environment, NAME) / "model.safetensors").read_bytes() == weights


def test_a_download_that_breaks_off_for_good_is_said_and_the_next_call_brings_the_rest(serve, environment, tmp_path):
    sharded = files_of(models.write(TINY, tmp_path / "sharded", shards=2))
    hub = serve(**{"tiny-neox": Repository({"main": sharded})})
    hub.cuts["model-00002-of-00002.safetensors"], hub.cut_again = 100, True
    environment |= {"HF_ENDPOINT": hub.endpoint}
    kind, text = ask(environment, NAME)
    assert kind == "RuntimeError"
    assert f"{NAME}: the download of model-00002-of-00002.safetensors broke off" in text
    assert "try again" in text
    hub.cuts.clear()
    hub.log.clear()
    assert files_of(folder_from(environment, NAME)) == sharded
    assert hub.files() == {"model-00002-of-00002.safetensors"}


def test_a_token_opens_a_private_repository_and_a_gated_one(serve, environment, files):
    hub = serve(**{"tiny-neox": Repository({"main": files}, token="good"), "gated": Repository({"main": files}, gated=True)})
    environment |= {"HF_ENDPOINT": hub.endpoint}
    kind, text = ask(environment, NAME)
    assert kind == "FileNotFoundError"
    assert text == (
        f"{NAME} is neither a folder here nor a model that {hub.endpoint}/{NAME} shows: check the name; a private one needs HF_TOKEN"
    )
    kind, text = ask(environment, "someone/gated")
    assert kind == "RuntimeError"
    assert text == f"someone/gated is gated: ask for access at {hub.endpoint}/someone/gated, and set HF_TOKEN to a token of that account"
    kind, text = ask(environment | {"HF_TOKEN": "wrong"}, NAME)
    assert kind == "RuntimeError"
    assert text == f"{hub.endpoint} refuses access to {NAME} (401): check HF_TOKEN"
    assert hub.files() == set()
    for name in (NAME, "someone/gated"):
        assert folder_from(environment | {"HF_TOKEN": "good"}, name).is_dir()
    assert {entry[4] for entry in hub.log if entry[0] == "GET" and entry[1] == "resolve"} == {"Bearer good"}


def test_pytorch_model_bin_comes_where_there_are_no_safetensors(serve, environment, files):
    index = json.dumps({"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}}).encode()
    whole = {name: content for name, content in files.items() if name != "model.safetensors"}
    shards = {"pytorch_model-1.bin": b"a", "pytorch_model-2.bin": b"b", "pytorch_model.bin.index.json": index}
    hub = serve(old=Repository({"main": whole}), large=Repository({"main": {**whole, **shards}}))
    environment |= {"HF_ENDPOINT": hub.endpoint}
    assert set(files_of(folder_from(environment, "someone/old"))) == {*NEEDED, "pytorch_model.bin"}
    assert set(files_of(folder_from(environment, "someone/large"))) == {*NEEDED, *shards}
    environment |= {"HF_HUB_OFFLINE": "1"}
    assert set(files_of(folder_from(environment, "someone/large"))) == {*NEEDED, *shards}


def test_what_the_hub_does_not_have_is_said(serve, environment, files):
    other = {name: content for name, content in files.items() if name not in ("model.safetensors", "pytorch_model.bin")}
    bare = {"README.md": b"words"}
    hub = serve(**{"tiny-neox": Repository({"main": files}), "other": Repository({"main": other}), "bare": Repository({"main": bare})})
    environment |= {"HF_ENDPOINT": hub.endpoint}
    kind, text = ask(environment, NAME, "step9")
    assert (kind, text) == ("ValueError", f"{NAME} has no revision 'step9': its branches are listed at {hub.endpoint}/{NAME}/tree/main")
    kind, text = ask(environment, "someone/other", "main")
    assert kind == "ValueError"
    assert text == (
        "someone/other at revision 'main' has neither model.safetensors nor pytorch_model.bin, whole or in shards: "
        "expected one of them, found model.fp16.safetensors"
    )
    assert hub.files() == {"config.json"}
    assert ask(environment, "someone/bare") == ("ValueError", "someone/bare has no config.json")
    assert ask(environment, "someone/bare", call="resolve_tokenizer") == ("ValueError", "someone/bare has no tokenizer.json")
    hub.down = True
    kind, text = ask(environment, "someone/else")
    assert kind == "RuntimeError"
    assert f"{hub.endpoint} does not answer" in text


def test_without_a_network_only_the_cache_serves(environment, files):
    cache = Path(environment["HF_HOME"], "hub")
    for name in (NAME, "single"):
        kind, text = ask(environment, name)
        assert kind == "RuntimeError"
        assert text.startswith(f"{name} is no folder here, and config.json of it is not in the cache {cache}; http://127.0.0.1:9 does not ")
        assert text.endswith("check the network, or give a folder")
    assert not cache.exists()
    cached = fill_cache(environment, NAME, {name: files[name] for name in (*NEEDED, "model.safetensors")})
    assert folder_from(environment, NAME) == cached


def test_offline_the_cache_serves_and_what_is_not_in_it_is_named(environment, files, tmp_path):
    environment |= {"HF_HUB_OFFLINE": "1"}
    cache = Path(environment["HF_HOME"], "hub")
    kind, text = ask(environment, NAME)
    assert kind == "FileNotFoundError"
    assert text == (
        f"{NAME} is no folder here, and config.json of it is not in the cache {cache}; HF_HUB_OFFLINE is set: "
        "unset it to download, or give a folder"
    )
    cached = fill_cache(environment, NAME, {name: files[name] for name in (*NEEDED, "model.safetensors")})
    assert folder_from(environment, NAME) == cached
    assert folder_from(environment, NAME, call="resolve_tokenizer") == cached
    kind, text = ask(environment, NAME, "step3000")
    assert kind == "FileNotFoundError"
    assert f"{NAME} at revision 'step3000' is no folder here" in text
    sharded = files_of(models.write(TINY, tmp_path / "sharded", shards=3))
    del sharded["model-00002-of-00003.safetensors"]
    fill_cache(environment, "someone/partly", sharded)
    assert "model-00002-of-00003.safetensors of it is not in the cache" in ask(environment, "someone/partly")[1]
    assert folder_from(environment, "someone/partly", weights=False).is_dir()


def test_a_folder_wins_over_a_name_and_has_no_revisions(serve, environment, files, folder_of, tmp_path):
    hub = serve(**{"tiny-neox": Repository({"main": files})})
    environment |= {"HF_ENDPOINT": hub.endpoint}
    shutil.copytree(folder_of(TINY), tmp_path / NAME)
    assert folder_from(environment, NAME, cwd=tmp_path) == Path(NAME)
    kind, text = ask(environment, NAME, "main", cwd=tmp_path)
    assert (kind, text) == ("ValueError", f"revision is 'main', but {NAME} is a folder: only a model of the hub has revisions")
    assert hub.log == []


PATHS = ["./here", "../here", "/no/where", "a/b/c", "~/x", "someone/", "a b", "a--b", "a..b", "a/b.", Path("someone/tiny-neox")]


@pytest.mark.parametrize("path", PATHS)
def test_what_can_only_be_a_path_is_not_looked_up(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a HuggingFace folder, or a name of the hub such as EleutherAI/pythia-160m"):
        resolve_model(path)


def test_a_file_is_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("weights.bin").touch()
    with pytest.raises(FileNotFoundError, match="weights.bin is not a folder"):
        resolve_model("weights.bin")


def test_weights_that_will_not_be_read_do_not_come(serve, environment, files):
    llama = {**files, "config.json": b'{"model_type": "llama"}'}
    hub = serve(**{"tiny-neox": Repository({"main": files}), "llama": Repository({"main": llama})})
    environment |= {"HF_ENDPOINT": hub.endpoint}
    folder_from(environment, NAME, weights=False)
    folder_from(environment, "someone/llama")
    folder_from(environment, NAME, call="resolve_tokenizer")
    assert hub.files() == NEEDED


def test_the_command_line_takes_names(serve, environment, files, folder_of, run_cli):
    hub = serve(**{"tiny-neox": Repository({"main": files, "step3000": files})})
    environment |= {"HF_ENDPOINT": hub.endpoint}
    named = ["--model", NAME, "--revision", "step3000", "--tokenizer", NAME, "--max-tokens", "5", "--temperature", "0"]
    printed = run_cli("generate", "a", *named, env=environment)
    assert printed.stderr == "", "no progress where nobody looks"
    here = ["--model", folder_of(TINY), "--tokenizer", str(DEMO_MODEL), "--max-tokens", "5", "--temperature", "0"]
    assert printed.stdout == run_cli("generate", "a", *here, env=environment).stdout
    for command in (["info"], ["score", "a"], ["bench"], ["generate", "a"]):
        failed = run_cli(*command, "--model", "someone/nothing", env=environment, check=False)
        assert failed.returncode == 1
        assert failed.stderr.startswith("neoxnative: error: ")
        assert failed.stderr.count("\n") == 1


def test_a_download_shows_its_progress_on_a_terminal(serve, environment, files):
    hub = serve(**{"tiny-neox": Repository({"main": files})})
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    code = f"from neoxnative.hub import resolve_model; resolve_model({NAME!r})"
    subprocess.run([sys.executable, "-c", code], env=environment | {"HF_ENDPOINT": hub.endpoint}, stderr=theirs, check=True, timeout=100)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert b"model.safetensors" in shown
