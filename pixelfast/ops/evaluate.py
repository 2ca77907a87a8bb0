"""What a graph computes on finished images, node by node, in float64: the definition of every kind of node.

Letters: N images, H rows, W columns, C channels, F features of a node.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..ir.graph import FieldSpec, Node
from .base import operation
from .evaluation import Evaluation
from .times import elements


def evaluate_nodes(
    nodes: Sequence[Node], specs: Sequence[FieldSpec], fields: Sequence[np.ndarray], images: Tensor
) -> list[Tensor]:
    """The features of every node: float64 (N, rows, cols, F) over its rectangle, 0 off its lattice.

    Args:
        nodes, specs: of a graph (`pixelfast.ir.graph.Graph`).
        fields: the numbers of every field, (N or 1, rows or 1, cols or 1, F).
        images: integers (N, H, W, C).
    """
    evaluation = Evaluation(specs, [torch.from_numpy(field).double() for field in fields], images.long())
    with torch.no_grad():
        for node in map(operation, nodes):
            value = node.evaluated(evaluation)
            evaluation.found.append(torch.where(torch.from_numpy(elements(node))[..., None], value, 0.0))
            evaluation.domains.append(node.domain)
    return evaluation.found
