"""Tensors as safetensors bytes: equal input, equal bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

_METADATA = "__metadata__"
_LENGTH_BYTES = 8

Kinds = tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]
"""Names, types and shapes of tensors."""


def dump(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Write tensors, with texts by name beside them in the header.

    The library writes metadata in an order that changes from run to run; here it is sorted.

    Examples
    --------
    >>> import torch
    >>> value = dump({"a": torch.ones(2)}, {"seed": "0"})
    >>> load(value)
    {'a': tensor([1., 1.])}
    >>> metadata(value)
    {'seed': '0'}
    """
    return b"".join(parts(tensors, metadata))


def parts(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> list[bytes | memoryview]:
    """Return what :func:`dump` joins: the header, and views of the tensors that are on the CPU.

    A model is copied every few seconds while it learns; views need no time and no interpreter lock.
    """
    kinds = tuple((name, t.dtype, tuple(t.shape)) for name, t in tensors.items())
    header = _layout(kinds)
    return [_header(header, metadata or {}), *(_bytes(tensors[name]) for name in header)]


def digest(parts: Iterable[bytes | memoryview]) -> str:
    """Return the SHA-256 of what these parts join to.

    >>> digest([b"a", b"b"]) == hashlib.sha256(b"ab").hexdigest()
    True
    """
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def with_metadata(value: bytes, metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """Return the parts of the same tensors with other texts in the header.

    >>> value = dump({}, {"seed": "0"})
    >>> b"".join(with_metadata(value, {"seed": "1"})) == dump({}, {"seed": "1"})
    True
    """
    header, body = _split(value)
    header.pop(_METADATA, None)
    return [_header(header, metadata), body]


def load(value: bytes) -> dict[str, Tensor]:
    """Read tensors back. Raises ``ValueError`` for bytes that are no safetensors.

    They may stand at any address: copy them into place before computing with them.
    """
    try:
        return safetensors.torch.load(value)
    except SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from error


def metadata(value: bytes) -> dict[str, str]:
    """Read the texts in the header; none where there are none."""
    found: dict[str, str] = _split(value)[0].get(_METADATA, {})
    return found


def metadata_of(path: Path) -> dict[str, str]:
    """Read the texts in the header of a file, and nothing else of it."""
    with path.open("rb") as file:
        length = file.read(_LENGTH_BYTES)
        return metadata(length + file.read(int.from_bytes(length, "little")))


@lru_cache(maxsize=16)
def _layout(kinds: Kinds) -> dict[str, dict[str, Any]]:
    """Let the library lay tensors out; what it says of each in the header, in their order."""
    blank = {name: torch.zeros(shape, dtype=dtype) for name, dtype, shape in kinds}
    header, _ = _split(safetensors.torch.save(blank))
    return dict(sorted(header.items(), key=lambda one: one[1]["data_offsets"]))


def _header(layout: Mapping[str, object], metadata: Mapping[str, str]) -> bytes:
    texts = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    text = json.dumps({**texts, **layout}, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _bytes(tensor: Tensor) -> memoryview:
    """View a tensor's bytes; a copy of those that do not stand together on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _split(value: bytes) -> tuple[dict[str, dict[str, Any]], memoryview]:
    """Split the header from the tensors' bytes."""
    end = _LENGTH_BYTES + int.from_bytes(value[:_LENGTH_BYTES], "little")
    return json.loads(value[_LENGTH_BYTES:end]), memoryview(value)[end:]
