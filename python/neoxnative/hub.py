"""Models by name: a folder that is here, or what `huggingface_hub` brings into its cache, under the environment variables it knows."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

_NAME = re.compile(r"(?!.*(--|\.\.)|.*[.-]$)[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_CONFIG, _TOKENIZER = "config.json", "tokenizer.json"
_TOKENIZER_FILES = (_TOKENIZER, "tokenizer_config.json", "spiece.model")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


def resolve_model(model: str | os.PathLike[str], revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder of a model: `model` itself where it is one, else that of the hub's repository of this name.

    Of a repository only what the engine reads is brought: config.json, generation_config.json, the tokenizer and the safetensors, and
    the latter only if `weights` asks for them and config.json is a GPT-NeoX's. A path object is a place and never a name.

    FileNotFoundError: neither a folder nor a repository; offline, and not in the cache. ValueError: an unknown revision, a repository
    without config.json or safetensors, a revision of a folder. RuntimeError: no access, no network, a download that broke off.
    """
    if _is_folder(model, "a HuggingFace folder"):
        if revision is not None:
            raise ValueError(f"revision is {revision!r}, but {model} is a folder: only a model of the hub has revisions")
        return Path(model)
    return _Repository(model, revision).bring(_CONFIG, ("generation_config.json", *_TOKENIZER_FILES), weights=weights)


def resolve_tokenizer(tokenizer: str | os.PathLike[str]) -> Path:
    """The file or folder of a tokenizer: `tokenizer` itself where it is one, else its files from the hub. Errors as `resolve_model`."""
    if Path(tokenizer).is_file() or _is_folder(tokenizer, "a tokenizer.json, its folder"):
        return Path(tokenizer)
    return _Repository(tokenizer, None).bring(_TOKENIZER, _TOKENIZER_FILES[1:], weights=False)


def _is_folder(path: str | os.PathLike[str], expected: str) -> bool:
    """Whether it is a folder. FileNotFoundError where it is none and cannot be a name either."""
    if Path(path).is_dir():
        return True
    if not isinstance(path, str) or not _NAME.fullmatch(path) or Path(path).exists():
        raise FileNotFoundError(f"{path} is not a folder: expected {expected}, or a name of the hub such as EleutherAI/pythia-160m")
    return False


class _Repository:
    """One revision of a model of the hub, of which the cache holds nothing, a part or all that is needed."""

    def __init__(self, name: str | os.PathLike[str], revision: str | None) -> None:
        from huggingface_hub import constants  # here, so that an engine on a folder starts without it

        self._name, self._revision = str(name), revision
        self._title = self._name if revision is None else f"{self._name} at revision {revision!r}"
        self._endpoint, self._cache, self._offline = constants.ENDPOINT, constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE
        self._timeout = constants.HF_HUB_ETAG_TIMEOUT

    def bring(self, required: str, optional: Sequence[str], *, weights: bool) -> Path:
        """Downloads what is not in the cache yet, and returns the folder there."""
        if self._offline:
            return self._cached(required, "HF_HUB_OFFLINE is set", weights=weights)
        files = self._list()
        if isinstance(files, Exception):
            return self._cached(required, files, weights=weights)
        if required not in files:
            raise ValueError(f"{self._title} has no {required}")
        folder = self._fetch(required, self._revision).parent  # by this the cache knows which commit the revision is
        weights = weights and _is_gpt_neox(folder / _CONFIG)  # where it is none, the engine will refuse it by config.json
        if weights and not files & {_INDEX, _WEIGHTS}:
            found = ", ".join(sorted(file for file in files if file.endswith((".bin", ".pt", ".safetensors")))) or "no weights at all"
            raise ValueError(f"{self._title} has neither {_WEIGHTS} nor {_INDEX}: expected one of them, found {found}")
        for file in optional:
            if file in files:
                self._fetch(file, folder.name)
        if weights:
            for file in _shards(self._fetch(_INDEX, folder.name)) if _INDEX in files else [_WEIGHTS]:
                if file in files:  # the engine says which of the index's files is missing
                    self._fetch(file, folder.name)
        return folder

    def _list(self) -> set[str] | Exception:
        """The repository's files, or why the hub does not answer."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        try:
            info = HfApi().model_info(self._name, revision=self._revision, timeout=self._timeout)
        except HfHubHTTPError as error:
            if error.response is not None and error.response.status_code in (429, 500, 502, 503, 504):
                return error
            self._refuse(error)
        except Exception as error:  # of requests or of httpx, by the version of huggingface_hub
            return error
        return {sibling.rfilename for sibling in info.siblings or []}

    def _cached(self, required: str, reason: str | Exception, *, weights: bool) -> Path:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            folder = Path(hf_hub_download(self._name, required, revision=self._revision, local_files_only=True)).parent
            weights = weights and _is_gpt_neox(folder / _CONFIG)
            missing = [file for file in _weight_files(folder) if not (folder / file).exists()] if weights else []
        except LocalEntryNotFoundError:
            missing = [required]
        if not missing:
            return folder
        what = f"{self._title} is no folder here, and {missing[0]} of it is not in the cache {self._cache}"
        if isinstance(reason, str):
            raise FileNotFoundError(f"{what}; {reason}: unset it to download, or give a folder")
        raise RuntimeError(f"{what}; {self._endpoint} does not answer ({_line(reason)}): check the network, or give a folder")

    def _fetch(self, file: str, revision: str | None) -> Path:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return Path(hf_hub_download(self._name, file, revision=revision))
        except HfHubHTTPError as error:
            self._refuse(error)
        except Exception as error:  # as in _list, and a full disk
            cause = error.__cause__ or error
            what = f"{self._title}: the download of {file} broke off ({_line(cause)})"
            raise RuntimeError(f"{what}: try again; files that are complete stay in the cache") from error

    def _refuse(self, error: Exception) -> NoReturn:
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        page = f"{self._endpoint}/{self._name}"
        if isinstance(error, GatedRepoError):  # before RepositoryNotFoundError, its base
            raise RuntimeError(f"{self._name} is gated: ask for access at {page}, and set HF_TOKEN to a token of that account") from error
        if isinstance(error, RepositoryNotFoundError):
            message = f"{self._name} is neither a folder here nor a model that {page} shows: check the name; a private one needs HF_TOKEN"
            raise FileNotFoundError(message) from error
        if isinstance(error, RevisionNotFoundError):
            raise ValueError(f"{self._name} has no revision {self._revision!r}: its branches are listed at {page}/tree/main") from error
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise RuntimeError(f"{self._endpoint} refuses access to {self._name} ({status}): check HF_TOKEN") from error
        raise RuntimeError(f"{self._title}: {_line(error)}") from error


def _is_gpt_neox(config: Path) -> bool:
    try:
        return bool(json.loads(config.read_text(encoding="utf-8"))["model_type"] == "gpt_neox")
    except (ValueError, TypeError, KeyError):
        return False


def _weight_files(folder: Path) -> list[str]:
    """The names of a folder's weight files, there or not."""
    index = folder / _INDEX
    return [_INDEX, *_shards(index)] if index.exists() else [_WEIGHTS]


def _shards(index: Path) -> list[str]:
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return sorted({file for file in files if isinstance(file, str)})
    except (ValueError, TypeError, KeyError, AttributeError):
        return []  # the engine says what is wrong with it


def _line(error: BaseException) -> str:
    """What an error says, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
