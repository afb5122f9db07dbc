"""Tensors as safetensors bytes: equal input, equal bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

_METADATA = "__metadata__"
_LENGTH_BYTES = 8


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
    plain = safetensors.torch.save({n: t.detach().cpu().contiguous() for n, t in tensors.items()})
    return b"".join(_parts(plain, metadata or {}))


def digest(value: bytes, metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of the same tensors with other texts in the header.

    >>> value = dump({}, {"seed": "0"})
    >>> digest(value, {"seed": "1"}) == hashlib.sha256(dump({}, {"seed": "1"})).hexdigest()
    True
    """
    found = hashlib.sha256()
    for part in _parts(value, metadata):
        found.update(part)
    return found.hexdigest()


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


def _parts(value: bytes, metadata: Mapping[str, str]) -> tuple[bytes, memoryview]:
    """Make another header; the tensors' bytes, which may be many, are not copied."""
    header, body = _split(value)
    header.pop(_METADATA, None)
    if metadata:
        header = {_METADATA: dict(sorted(metadata.items())), **header}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text, body


def _split(value: bytes) -> tuple[dict[str, dict[str, str]], memoryview]:
    """Part the header from the tensors' bytes."""
    end = _LENGTH_BYTES + int.from_bytes(value[:_LENGTH_BYTES], "little")
    return json.loads(value[_LENGTH_BYTES:end]), memoryview(value)[end:]
