"""Settings of the whole test suite."""

from __future__ import annotations

import logging

import torch

# The tensors of the tests are tiny: handing them to threads costs more than it gains.
torch.set_num_threads(1)

# torch.export logs every step of a trace at the lowest level; pytest would keep all of it.
logging.getLogger("torch.__trace").setLevel(logging.CRITICAL)
