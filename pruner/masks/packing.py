"""Masks as bytes: bit-packed, and named by what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from stream.messages import Layer

_LENGTH_BYTES = 4


class MaskDamagedError(ValueError):
    """Bytes are not those of the masks they are said to be."""


def pack(masks: Mapping[str, Tensor]) -> bytes:
    r"""Write masks, 8 weights a byte; equal masks give equal bytes, in whatever order they come.

    The length of a JSON header (4 bytes, big-endian), the header with names and shapes, the bits.

    Parameters
    ----------
    masks
        By layer, bool, shape (out, in).

    Examples
    --------
    >>> packed = pack({"top": torch.tensor([[True, False, True]])})
    >>> packed
    b'\x00\x00\x00\x0f[["top",[1,3]]]\xa0'
    """
    names = sorted(masks)
    shapes = [[name, list(masks[name].shape)] for name in names]
    header = json.dumps(shapes, separators=(",", ":")).encode()
    flats = [masks[name].detach().cpu().numpy().reshape(-1) for name in names]
    bits = np.packbits(np.concatenate(flats) if flats else np.empty(0, np.bool_))
    return len(header).to_bytes(_LENGTH_BYTES, "big") + header + bits.tobytes()


def unpack(packed: bytes) -> dict[str, Tensor]:
    """Read back what :func:`pack` wrote.

    Raises :class:`MaskDamagedError` for bytes that it cannot have written.

    >>> unpack(pack({"top": torch.tensor([[True, False, True]])}))
    {'top': tensor([[ True, False,  True]])}
    """
    begin = _LENGTH_BYTES + int.from_bytes(packed[:_LENGTH_BYTES], "big")
    try:
        shapes = {name: tuple(shape) for name, shape in json.loads(packed[_LENGTH_BYTES:begin])}
    except ValueError as error:
        raise MaskDamagedError(f"masks of {len(packed)} bytes have no header: {error}") from None
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    bits = np.frombuffer(packed, np.uint8, offset=min(begin, len(packed)))
    if len(bits) != -(-sum(sizes) // 8):
        raise MaskDamagedError(f"masks of {sum(sizes)} weights have {len(bits)} bytes of bits")
    flat = torch.from_numpy(np.unpackbits(bits, count=sum(sizes)).astype(np.bool_))
    parts = torch.split(flat, sizes)
    return {n: part.reshape(shapes[n]).clone() for n, part in zip(shapes, parts, strict=True)}


def content_hash(packed: bytes) -> str:
    """Name packed masks by their content: 32 hexadecimal digits of their SHA-256.

    >>> content_hash(pack({"top": torch.tensor([[True]])}))
    'd32172defc9c76d1f4189bdae0ebb4be'
    """
    return hashlib.sha256(packed).hexdigest()[:32]


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """Return the share of weights that masks remove, over all layers.

    >>> sparsity({"top": torch.tensor([[True, False, False, False]])})
    0.75
    """
    weights = sum(mask.numel() for mask in masks.values())
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / weights


def overlap(mask: Tensor, before: Tensor) -> float:
    """Return the share of the weights kept now that were kept before too.

    >>> overlap(torch.tensor([[True, True, False]]), torch.tensor([[True, False, True]]))
    0.5
    """
    return int((mask & before).sum()) / int(mask.sum())


def describe(
    masks: Mapping[str, Tensor], before: Mapping[str, Tensor] | None = None
) -> dict[str, Layer]:
    """Sum up masks layer by layer, for the ledger.

    Parameters
    ----------
    masks
        By layer; each keeps at least one weight.
    before
        The masks of the version before; None for the first.

    Examples
    --------
    >>> describe({"top": torch.tensor([[True, False]])})
    {'top': Layer(weights=2, kept=1, sparsity=0.5, overlap=None)}
    """
    return {
        name: Layer(
            weights=mask.numel(),
            kept=int(mask.sum()),
            sparsity=sparsity({name: mask}),
            overlap=None if before is None else overlap(mask, before[name]),
        )
        for name, mask in masks.items()
    }
