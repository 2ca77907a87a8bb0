"""Settings of the whole test suite."""

from __future__ import annotations

import torch

# The tensors of the tests are tiny: handing them to threads costs more than it gains.
torch.set_num_threads(1)
