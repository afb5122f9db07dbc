"""Models and how they learn.

The modules of this room, each on top of those before it:

- ``config``: the settings.
- ``optim``: Adagrad, which touches only the rows of an embedding that a batch used.
- ``masking``: which weights a mask covers, and how they come back.
- ``online``: a model that predicts a batch and then learns from it.
- ``snapshots``: tensors and a learner's state as bytes, and the folder that workers share.
- ``trainer``: a model on its way along the stream; what decides on its masks and versions.
- ``models``, ``export``, ``river``, doors of their own: models by name, weights for use
  elsewhere, our learner as a classifier for River.
"""

from learner.config import LearnerConfig, MaskingConfig, ModelConfig
from learner.masking import ADAGRAD, FROZEN, MASK, UPDATER, Masking
from learner.online import ForwardPass, OnlineModel, with_prefix
from learner.snapshots import (
    LearnerState,
    SnapshotError,
    SnapshotStore,
    count_of,
    dump_tensors,
    from_parts,
    load_tensors,
    masks_of,
    restart_point,
)
from learner.trainer import (
    Answer,
    Continue,
    Gradients,
    LearnerStep,
    MaskSource,
    MaskUpdater,
    ModelRegistry,
    ModelVersion,
    NoModel,
    NonFiniteError,
    Ports,
    Publication,
    RollBackTo,
    StreamTrainer,
    SwitchTo,
    TrainerOptions,
)

__all__ = ["ADAGRAD", "FROZEN", "MASK", "UPDATER", "Answer", "Continue", "ForwardPass"]
__all__ += ["Gradients", "LearnerConfig", "LearnerState", "LearnerStep", "MaskSource"]
__all__ += ["MaskUpdater", "Masking", "MaskingConfig", "ModelConfig", "ModelRegistry"]
__all__ += ["ModelVersion", "NoModel", "NonFiniteError", "OnlineModel", "Ports", "Publication"]
__all__ += ["RollBackTo", "SnapshotError", "SnapshotStore", "StreamTrainer", "SwitchTo"]
__all__ += ["TrainerOptions", "count_of", "dump_tensors", "from_parts", "load_tensors"]
__all__ += ["masks_of", "restart_point", "with_prefix"]
