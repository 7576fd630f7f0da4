"""Export a trained model as a folder that diffusers reads.

python train.py stage=export_diffusers name=mine
"""

import logging
from pathlib import Path

from gwm.convert import save_diffusers, without_conditions
from train.networks import load_dit

log = logging.getLogger(__name__)


def export_diffusers(weights: str, out: str) -> None:
    """Write the transformer of a bidirectional model with its voices and actions dropped.

    Raises:
        FileNotFoundError: the stage has not been run; the message has the command.
        ValueError: the model has parts that Wan does not have, for instance no text attention; all are listed.
    """
    model, _ = load_dit(weights, stage="bidirectional")
    save_diffusers(without_conditions(model), Path(out))
    log.info("%s: read it with diffusers.WanTransformer3DModel.from_pretrained", out)
