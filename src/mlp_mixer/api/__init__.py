"""The verbs of the command line as functions: `mm.train("digits", "runs/digits")`.

Each function does what the command of its name does, takes its options by name, and
returns values instead of printing them. `import mlp_mixer as mm` exports them.
"""

# No file here has the name of a verb: importing a file `train.py` would replace the
# function `train` by the module.

from .learn import SCRATCH, best_run, finetune, finetune_config, train
from .probing import Mean, Probe, probe
from .soup import Average, average
from .unlabelled import PRETRAINING, pretrain, pretrain_config
from .use import evaluate, export, predict

__all__ = [
    "PRETRAINING",
    "SCRATCH",
    "Average",
    "Mean",
    "Probe",
    "average",
    "best_run",
    "evaluate",
    "export",
    "finetune",
    "finetune_config",
    "predict",
    "pretrain",
    "pretrain_config",
    "probe",
    "train",
]
