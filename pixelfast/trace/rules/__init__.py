"""Rules, by families of operators: how a call of each becomes nodes. Importing this registers all of them."""

from __future__ import annotations

from ..context import RULES
from . import attention, channels, layout, pointwise, pools, products, scans

__all__ = ["RULES", "attention", "channels", "layout", "pointwise", "pools", "products", "scans"]
