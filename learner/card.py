"""The model card: what a person finds beside the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from learner.online import ADAGRAD, FROZEN, MASK, own_tensors

_CARD = """\
---
library_name: resprout
pipeline_tag: tabular-classification
tags: [click-through-rate, online-learning, pruning]
---

# {name}

The {model} model, version {version}, after {events_seen} events, learned online in one pass by
Resprout {resprout_version} (seed {seed}). It predicts the chance that an impression is clicked.

## Data

Events 1 to {events_seen} of the stream that `config_json` in the header of the file describes; it
was learned from through {trained_through} (partition, offset, row).

## Weights

| tensor | shape | kept | sparsity |
|---|---|---:|---:|
{rows}

## Limits

It learned from one stream and goes stale as the stream drifts. Predictions were scored before
they were learned from; the scores stand in the `windows` log of the run.

## Load

```python
from safetensors.torch import load_file

tensors = load_file("model.safetensors")
own = {{n: t for n, t in tensors.items() if not n.startswith({prefixes})}}
module.load_state_dict(own)
```
"""


def card(name: str, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Write the card of a snapshot from its header and its tensors."""
    own = own_tensors(tensors)
    rows = "\n".join(_row(n, t, tensors.get(mask_of(n))) for n, t in own.items())
    return _CARD.format(name=name, rows=rows, prefixes=(ADAGRAD, FROZEN, MASK), **metadata)


def mask_of(weight: str) -> str:
    """Name the mask of a layer's weight.

    >>> mask_of("top.0.weight")
    'mask.top.0'
    """
    return MASK + weight.removesuffix(".weight")


def _row(name: str, tensor: Tensor, mask: Tensor | None) -> str:
    shape = " × ".join(str(size) for size in tensor.shape)
    kept = tensor.numel() if mask is None else int(torch.count_nonzero(mask))
    sparsity = 1 - kept / tensor.numel() if tensor.numel() else 0.0
    return f"| {name} | {shape} | {kept:,} | {sparsity:.1%} |"
