"""pixelfast: exact, fast sampling from any trained PixelCNN-family `nn.Module`.

    images = pixelfast.sample(model, n=64)

`pixelfast.data` reads images, `pixelfast.pictures` shows them, `pixelfast.models` are the architectures,
`pixelfast.debug` finds where a wrong image comes from.
"""

from pathlib import Path as _Path

if not (_Path(__file__).parent / "kernels").is_dir():
    # In a checkout the kernels lie beside the package; an installation has them inside it.
    __path__.append(str(_Path(__file__).parents[1]))

from . import data, debug, models, pictures
from .api import compile, sample
from .check import Report, check
from .distributions.base import Head
from .distributions.bernoulli import Bernoulli
from .distributions.categorical import Categorical
from .distributions.custom import CustomHead
from .distributions.gaussian import Gaussian, MixtureOfGaussians
from .distributions.mixture import MixtureOfLogistics
from .errors import (
    CheckpointError,
    CheckpointWarning,
    DataWarning,
    EncodingWarning,
    EngineUnavailable,
    InternalError,
    InvalidInput,
    NotAutoregressive,
    NumericalError,
    OutputError,
    PixelfastError,
    UnsupportedModel,
    VerificationError,
)
from .files.checkpoint import load, save
from .ops.recurrence import lstm_scan
from .sampler import Sampler
from .verify import Verification

__version__ = "0.1.0"

__all__ = [
    "Bernoulli",
    "Categorical",
    "CheckpointError",
    "CheckpointWarning",
    "CustomHead",
    "DataWarning",
    "EncodingWarning",
    "EngineUnavailable",
    "Gaussian",
    "Head",
    "InternalError",
    "InvalidInput",
    "MixtureOfGaussians",
    "MixtureOfLogistics",
    "NotAutoregressive",
    "NumericalError",
    "OutputError",
    "PixelfastError",
    "Report",
    "Sampler",
    "UnsupportedModel",
    "Verification",
    "VerificationError",
    "check",
    "compile",
    "data",
    "debug",
    "load",
    "lstm_scan",
    "models",
    "pictures",
    "sample",
    "save",
]


def __dir__() -> list[str]:
    """What is public, for completion and `dir`."""
    return [*__all__, "__version__"]
