"""Export: a snapshot as a folder that scores clicks without Resprout, and as ONNX.

- ``model``: copied into the folder; loads it, encodes events and gives the chance of a click.
- ``score``: copied into the folder; the same as a command, for lines of JSON.
"""

from __future__ import annotations

import io
import json
import logging
import runpy
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from learner.export.model import FORMAT
from learner.online import check_tensors, masks_in, own_tensors
from learner.snapshots import LearnerState, card, dump_tensors, dump_weights
from stream import FeatureSchema
from stream.state import write_atomic

__all__ = [
    "ExportOptions",
    "Exported",
    "Footprint",
    "check_folder",
    "computation",
    "export",
    "footprint",
    "is_export",
]

TOLERANCE = 1e-4
"""How far logits of the ONNX model may be from torch's."""
CHECKED_EVENTS = 256
"""Random events on which what is written is compared with the model."""
HASH = (
    "XXH3-64, seed 0, of 'feature=value' in UTF-8; the bucket is 2 + hash modulo (buckets - 2), "
    "1 where the value is missing, 0 where a column is not used"
)

Kind = Literal["embedding", "fully connected", "other"]


@dataclass(frozen=True, slots=True)
class TensorSize:
    """What a parameter of a model takes."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    """Of the layer that it belongs to."""
    kept: int
    """Elements that are not pruned."""
    dense_multiply_adds: int = 0
    """An event, without pruning; of weights only."""

    @property
    def elements(self) -> int:
        """All elements, pruned or not."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def dense_bytes(self) -> int:
        """As float32, pruned or not."""
        return 4 * self.elements

    @property
    def bytes(self) -> int:
        """As it is written: whole, or as a bitmap and the kept values where that is smaller."""
        return min(self.dense_bytes, 4 * self.kept + -(-self.elements // 8))

    @property
    def is_packed(self) -> bool:
        """Tell whether a bitmap and the kept values are smaller than the whole."""
        return self.bytes < self.dense_bytes

    @property
    def multiply_adds(self) -> int:
        """An event, those with kept weights."""
        return round(self.dense_multiply_adds * self.kept / self.elements) if self.elements else 0


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model takes, and what of it pruning saves.

    Bytes are saved in files and on the wire. Multiply-adds are counted; they are saved in time only
    by kernels that skip pruned weights, which torch's dense products do not.
    """

    tensors: tuple[TensorSize, ...]
    """Its parameters, in their order."""
    other_multiply_adds: int
    """An event, those that no parameter of a layer takes part in, such as dot products."""

    def table(self) -> list[tuple[str, ...]]:
        """Return rows of cells for people: by kind of layer, and of all.

        The header comes first. A column shows what is left and, where that is less, of how much.
        """
        header = ("", "parameters", "bytes", "multiply-adds an event")
        kinds: tuple[Kind, ...] = ("fully connected", "embedding", "other")
        rows: list[tuple[str, ...]] = [header]
        for kind in kinds:
            chosen = tuple(one for one in self.tensors if one.kind == kind)
            more = self.other_multiply_adds if kind == "other" else 0
            if chosen or more:
                rows.append((_LABELS[kind], *_cells(chosen, more)))
        return [*rows, ("all", *_cells(self.tensors, self.other_multiply_adds))]

    def layers(self) -> list[tuple[str, ...]]:
        """Return rows of cells for people: each parameter, the header first."""
        rows: list[tuple[str, ...]] = [("tensor", "shape", "parameters", "bytes")]
        for one in self.tensors:
            shape = " × ".join(map(str, one.shape))
            parameters, size, _ = _cells((one,), 0)
            rows.append((one.name, shape, parameters, size))
        return rows


_LABELS = {"fully connected": "fully connected layers", "embedding": "embeddings", "other": "other"}


def _cells(tensors: tuple[TensorSize, ...], more: int) -> tuple[str, str, str]:
    def sums(now: str, before: str, more: int = 0) -> str:
        left, of = (more + sum(getattr(t, name) for t in tensors) for name in (now, before))
        return f"{left:,}" if left == of else f"{left:,} of {of:,} ({left / of:.1%})"

    return (
        sums("kept", "elements"),
        sums("bytes", "dense_bytes"),
        sums("multiply_adds", "dense_multiply_adds", more),
    )


def footprint(module: nn.Module, schema: FeatureSchema, kept: Mapping[str, int]) -> Footprint:
    """Say what a model takes.

    Multiply-adds are those that torch counts in the products of matrices of one event; all weights
    of a layer take part in them equally often. Sums, means and products with a vector are not
    counted.

    Parameters
    ----------
    module
        The model; its values do not matter.
    schema
        The features.
    kept
        Weights that are kept, by pruned layer.

    Examples
    --------
    >>> from learner.models import build
    >>> from stream import CategoricalFeature, NumericFeature
    >>> schema = FeatureSchema(
    ...     numeric=(NumericFeature(name="price"),),
    ...     categorical=(CategoricalFeature(name="site", buckets=10),),
    ... )
    >>> options = {"embedding_dim": 4, "bottom": [], "top": [8]}
    >>> found = footprint(build("dlrm", schema, options, 0), schema, {"top.0": 10})
    >>> [(one.name, one.kept, one.multiply_adds) for one in found.tensors if one.shape[1:]]
    [('embedding.weight', 40, 0), ('bottom.0.weight', 4, 4), ('top.0.weight', 10, 10),
    ('top.2.weight', 8, 8)]
    >>> for row in found.table():
    ...     print(row)
    ('', 'parameters', 'bytes', 'multiply-adds an event')
    ('fully connected layers', '35 of 65 (53.8%)', '145 of 260 (55.8%)', '22 of 52 (42.3%)')
    ('embeddings', '40', '160', '0')
    ('other', '0', '0', '16')
    ('all', '75 of 105 (71.4%)', '305 of 420 (72.6%)', '38 of 68 (55.9%)')
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    device = next((one.device for one in module.parameters()), torch.device("cpu"))
    with counter, torch.no_grad():
        module(*(one.to(device) for one in random_inputs(schema, 1)))
    # Torch counts a multiplication and an addition as two, and names modules after the class.
    found = {
        name.partition(".")[2]: sum(counts.values()) // 2
        for name, counts in counter.get_flop_counts().items()
    }
    sizes, of_layers = [], 0
    layers = dict(module.named_modules())
    for name, parameter in module.named_parameters():
        at, _, own = name.rpartition(".")
        adds = found.get(at, 0) if own == "weight" and isinstance(layers[at], nn.Linear) else 0
        shape = tuple(parameter.shape)
        left = kept.get(at, parameter.numel()) if own == "weight" else parameter.numel()
        sizes.append(TensorSize(name, shape, _kind(layers[at]), left, adds))
        of_layers += adds
    return Footprint(tuple(sizes), counter.get_total_flops() // 2 - of_layers)


def _kind(layer: nn.Module) -> Kind:
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    return "fully connected" if isinstance(layer, nn.Linear) else "other"


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What an export writes beside weights, features and options."""

    dense: bool = False
    """Write pruned weights as zeros, so that ``model.safetensors`` is a plain state dict."""
    score: bool = True
    """Write ``model.py``, ``score.py`` and what they need."""
    onnx: bool = False
    """Write ONNX too, which needs the extra ``resprout[onnx]``."""
    force: bool = False
    """Write into a folder that holds other files too, and replace those of the same names."""


SPARSE_FORM = ExportOptions()


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    weights: Path
    """``model.safetensors``: effective weights, pruned ones left out or zero."""
    footprint: Footprint
    score: Path | None = None
    score_difference: float | None = None
    """The greatest difference of a chance between ``model.py`` and torch, on random events."""
    onnx: Path | None = None
    onnx_difference: float | None = None
    """The greatest difference of a logit between onnxruntime and torch, on random events."""


def export(
    snapshot: LearnerState,
    module: nn.Module,
    schema: FeatureSchema,
    folder: Path,
    options: ExportOptions = SPARSE_FORM,
) -> Exported:
    """Write a snapshot as a folder that is used without Resprout.

    ::

        model.safetensors      effective weights; a pruned tensor as a bitmap and its kept values
        config.json            the features and their hashing, the model and its options
        README.md              the model card
        model.py               loads the folder; the chance of a click: torch, numpy and xxhash
        score.py               the same as a command, for events as lines of JSON
        forward.py             the computation, as torch.export wrote it down
        constants.safetensors  tensors of the computation that are no weights
        model.onnx             where asked for; its metadata has config.json, as ``resprout``

    ``model.py`` and ONNX are run and compared with the model before anything is in the folder.

    Parameters
    ----------
    snapshot
        Of any model, dense or sparse.
    module
        Built as the snapshot's model was; not changed.
    schema
        The features of the run.
    folder
        Made if need be. What an earlier export left there is replaced or deleted.
    options
        What to write.

    Raises
    ------
    ValueError
        Where the snapshot is of another model, or torch cannot write the computation down, or the
        folder holds files and no earlier export.
    ImportError
        Where ONNX is asked for, and the packages of the extra are not installed.
    """
    earlier = is_export(folder)
    if not options.force:
        check_folder(folder)
    own = own_tensors(snapshot.tensors)
    check_tensors(own, module.state_dict())
    plain = deepcopy(module).cpu().eval()
    plain.load_state_dict(own)
    masks = masks_in(snapshot.tensors)
    sizes = footprint(plain, schema, {name: int(mask.sum()) for name, mask in masks.items()})
    about = _about(snapshot, schema)
    packed = () if options.dense else [one.name for one in sizes.tensors if one.is_packed]
    texts = snapshot.metadata | {"format": FORMAT}
    files = {WEIGHTS: dump_weights(own, masks, packed, texts)}
    of_score = of_onnx = None
    if options.score:
        about["inputs"], computed = computation(plain, schema)
        files |= computed | {n: Path(__file__).with_name(n).read_bytes() for n in (MODEL, SCORE)}
    files[CONFIG] = json.dumps(about, indent=1).encode()
    files[CARD] = _card(snapshot, schema, sizes, options).encode()
    if options.score:
        of_score = _score_difference(files, plain, schema)
    if options.onnx:
        files[ONNX] = to_onnx(plain, schema, {"resprout": files[CONFIG].decode()})
        of_onnx = onnx_difference(files[ONNX], plain, schema)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        if name in files:
            write_atomic(folder / name, files[name])
        elif earlier:
            (folder / name).unlink(missing_ok=True)
    return Exported(
        folder / WEIGHTS,
        sizes,
        folder / SCORE if options.score else None,
        of_score,
        folder / ONNX if options.onnx else None,
        of_onnx,
    )


WEIGHTS, CONFIG, CARD, ONNX = "model.safetensors", "config.json", "README.md", "model.onnx"
MODEL, SCORE, FORWARD, CONSTANTS = "model.py", "score.py", "forward.py", "constants.safetensors"
_WRITTEN = {WEIGHTS, CONFIG, CARD, MODEL, SCORE, FORWARD, CONSTANTS, ONNX}
_FILES = sorted(_WRITTEN | {"encode.py"})
"""All that an export may have left, of earlier versions too."""


def is_export(folder: Path) -> bool:
    """Tell whether a folder holds what :func:`export` wrote, by its ``config.json``."""
    try:
        about = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(about, dict) and about.get("format") == FORMAT


def check_folder(folder: Path) -> None:
    """Raise ``ValueError`` for a folder that holds files and no earlier export."""
    if is_export(folder) or not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder")
    there = sorted(path.name for path in folder.iterdir())
    if there:
        more = f" and {len(there) - 1:,} more" if there[1:] else ""
        same = ", ".join(sorted(_WRITTEN & {*there}))
        replaces = f", which replaces {same}" if same else ""
        raise ValueError(
            f"{folder} holds {there[0]!r}{more}, and no earlier export; name another folder, or "
            f"write into it with --force{replaces}"
        )


def _about(snapshot: LearnerState, schema: FeatureSchema) -> dict[str, Any]:
    """Say what a model is, as JSON knows it."""
    config = json.loads(snapshot.config_json).get("model", {})
    return {
        "format": FORMAT,
        "resprout_version": snapshot.metadata["resprout_version"],
        "torch_version": str(torch.__version__),
        "model": {
            "name": snapshot.model,
            "version": snapshot.version,
            "events_seen": snapshot.count,
            "architecture": config.get("name"),
            "options": config.get("options", {}),
        },
        "schema": {
            "hash": HASH,
            "digest": schema.digest,
            **schema.model_dump(mode="json", include={"numeric", "categorical"}),
        },
    }


_FORWARD = '''"""What the model computes, as torch {version} wrote it down.

The arguments after ``self``, which is not used, are the tensors that ``inputs`` of config.json
names, then the features: (n, d) float32 and (n, c) int32. It returns the logits, (n,), in a tuple.
"""

import torch
from torch import device, inf, nan

{code}'''


def computation(module: nn.Module, schema: FeatureSchema) -> tuple[list[str], dict[str, bytes]]:
    """Write down what a module computes: the tensors that it takes, and files by name.

    Raises ``ValueError`` where torch cannot, as where the way depends on values.
    """
    # It takes a while to load, and only an export needs it.
    from torch.export.graph_signature import InputKind

    events = torch.export.Dim("n")
    try:
        with torch.no_grad(), _silent():
            program = torch.export.export(
                module, random_inputs(schema, 2), dynamic_shapes=({0: events}, {0: events})
            )
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"torch cannot write down what the model computes, which model.py needs: {first}; "
            "export without it (--no-score)"
        ) from error
    calls = {node.op for node in program.graph.nodes}
    if not calls <= {"placeholder", "call_function", "output"}:
        raise ValueError(
            f"the model computes with parts of its own ({', '.join(sorted(calls))}), which "
            "model.py cannot have; export without it (--no-score)"
        )
    names = [
        str(one.target)
        for one in program.graph_signature.input_specs
        if one.kind is not InputKind.USER_INPUT
    ]
    state = module.state_dict()
    constants = {name: program.constants[name] for name in names if name not in state}
    code = program.graph.python_code("self").src.strip() + "\n"
    return names, {
        FORWARD: _FORWARD.format(version=torch.__version__, code=code).encode(),
        CONSTANTS: dump_tensors(constants),
    }


def _score_difference(
    files: Mapping[str, bytes], module: nn.Module, schema: FeatureSchema
) -> float:
    """Run ``model.py``, and return how far its chances are from the model's, at most."""
    difference = 0.0
    with tempfile.TemporaryDirectory(prefix="resprout-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        predict = runpy.run_path(f"{folder}/{MODEL}")["load"]().predict_encoded
        for events in (CHECKED_EVENTS, 1):
            dense, categorical = random_inputs(schema, events)
            found = predict(dense.numpy(), categorical.numpy())
            with torch.no_grad():
                expected = torch.sigmoid(module(dense, categorical).double()).numpy()
            difference = max(difference, float(np.abs(found - expected).max()))
    if not difference <= TOLERANCE:
        raise ValueError(
            f"the chances of model.py differ from the model's by up to {difference:g}, more than "
            f"{TOLERANCE:g}; export without it (--no-score)"
        )
    return difference


_SCORE_USE = """
```python
from model import load

model = load("served")  # this folder; once, and threads may share it
model.predict([{EXAMPLE}])
```

returns the chance of a click of each event. An event that the learner would not have taken raises
`ValueError`, which names the event, the feature and the value. `model.py` needs torch, numpy and
xxhash (for events that are encoded already, torch and numpy); a service may have a copy of it among
its own code. `forward.py` is what the model computes.

```sh
python score.py < events.jsonl   # or a file: an event a line, as above
```

prints the chance of a click of each line. A line that cannot be scored is `null`, and standard
error says what is wrong with it; the others are scored, and the exit code is 1.
"""
_DENSE_USE = """
```python
from safetensors.torch import load_file

module.load_state_dict(load_file("model.safetensors"))
```
"""
_SPARSE_USE = """
Of a pruned tensor, `model.safetensors` holds a bitmap and the values that it keeps, row by row; its
shape is in the header, as `pruned`. `resprout run --init-from model.safetensors` takes it as it is.
"""


def _card(
    snapshot: LearnerState, schema: FeatureSchema, sizes: Footprint, options: ExportOptions
) -> str:
    """Write the model card."""
    name = f"{snapshot.model}, {snapshot.count:,} events"
    text = card(name, snapshot.metadata, snapshot.tensors).partition("## Load\n")[0]
    header, *rows = sizes.table()
    lines = [header, ("---", *["---:"] * (len(header) - 1)), *rows]
    pruned = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    use = _SCORE_USE.replace("EXAMPLE", _example(schema)) if options.score else ""
    use += _DENSE_USE if options.dense else _SPARSE_USE
    return f"{text}## What it takes\n\n{pruned}\n\n## Use\n{use}"


def _example(schema: FeatureSchema) -> str:
    """Write one event with the first feature of each kind."""
    numeric = [f'"numeric": {{{json.dumps(one.name)}: 9.5}}' for one in schema.numeric[:1]]
    categorical = [
        f'"categorical": {{{json.dumps(one.name)}: "a"}}' for one in schema.categorical[:1]
    ]
    return ", ".join([*numeric, *categorical])


def to_onnx(
    module: nn.Module, schema: FeatureSchema, texts: Mapping[str, str] | None = None
) -> bytes:
    """Turn a module into an ONNX model for batches of any size, with texts in its metadata.

    Raises ``ImportError`` where the packages of the extra are not installed.
    """
    packages = ("onnx", "onnxruntime", "onnxscript")
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX needs {', '.join(missing)}: pip install 'resprout[onnx]'")
    events = torch.export.Dim("n")
    with torch.no_grad(), _silent():
        program = torch.onnx.export(
            module,
            random_inputs(schema, 2),
            dynamo=True,
            verbose=False,
            opset_version=18,
            input_names=["dense", "categorical"],
            output_names=["logits"],
            dynamic_shapes=({0: events}, {0: events}),
        )
    proto = cast(torch.onnx.ONNXProgram, program).model_proto
    for name, text in (texts or {}).items():
        proto.metadata_props.add(key=name, value=text)
    content: bytes = proto.SerializeToString()
    return content


@contextmanager
def _silent() -> Iterator[None]:
    """Keep back what torch's exporters say about themselves, which is not for users."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def onnx_difference(program: bytes, module: nn.Module, schema: FeatureSchema) -> float:
    """Run an ONNX model and return how far its logits are from torch's, at most.

    Raises ``ValueError`` where that is more than :data:`TOLERANCE`.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    dense, categorical = random_inputs(schema, CHECKED_EVENTS)
    given = {"dense": dense.numpy(), "categorical": categorical.numpy()}
    wanted = {one.name for one in session.get_inputs()}
    (found,) = session.run(None, {name: value for name, value in given.items() if name in wanted})
    with torch.no_grad():
        expected = module(dense, categorical).numpy()
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"the ONNX model's logits differ from torch's by up to {difference:g}, more than "
            f"{TOLERANCE:g}; export without onnx, or look for operations that torch cannot export"
        )
    return difference


def random_inputs(schema: FeatureSchema, events: int) -> tuple[Tensor, Tensor]:
    """Draw events from all over the schema, always the same: (n, d) float32 and (n, c) int32."""
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((events, schema.numeric_count), dtype=np.float32)
    categorical = rng.integers(0, schema.column_buckets, (events, schema.column_count))
    return torch.from_numpy(dense), torch.from_numpy(categorical.astype(np.int32))
