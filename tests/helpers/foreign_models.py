"""All modules in other people's idioms by name: each of these files registers its own when it is imported."""

from __future__ import annotations

import foreign_attention  # noqa: F401
import foreign_inputs  # noqa: F401
import foreign_outputs  # noqa: F401
import foreign_strided  # noqa: F401
from foreign import FOREIGN

__all__ = ["FOREIGN"]
