"""The kinds of node, one a file: what each reads and computes, and its answers to the passes (`Operation`)."""

from .attention import CausalAttention
from .base import Operation, operations, verify
from .conv import TapConv
from .gather import Gather
from .input import Input
from .norm import ChannelNorm
from .pointwise import Leaf, Operand, Pointwise, Read
from .reduce import ChannelReduce
from .scan import Scan, StateTap

__all__ = [
    "CausalAttention", "ChannelNorm", "ChannelReduce", "Gather", "Input", "Leaf", "Operand", "Operation", "Pointwise", "Read",
    "Scan", "StateTap", "TapConv", "operations", "verify",
]  # fmt: skip
