"""Simplify: from a graph to a smaller graph that computes the same outputs."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np

from ..ir.geometry import EVERYWHERE, Lattice, Rect
from ..ir.graph import Edge, Graph, Node
from ..ops import Pointwise, operations, verify
from ..ops.base import Demand, Needs
from .absorb import absorb
from .drop_unread import drop_unread
from .fuse import fuse

EMPTY = Rect(0, 0, 0, 0)


def simplify(graph: Graph) -> Graph:
    """Prune, keep crops apart, absorb what is linear, and fuse what is pointwise."""
    graph = prune(graph)
    graph = separate_crops(graph)
    graph = prune(absorb(graph))
    graph = fuse(graph)
    verify(graph)
    return graph


def intersect(a: Rect, b: Rect) -> Rect:
    rect = Rect(max(a.row0, b.row0), min(a.row1, b.row1), max(a.col0, b.col0), min(a.col1, b.col1))
    return EMPTY if rect.empty else rect


def reached(source: Node, edge: Edge, reader: Rect, lattice: Lattice) -> Rect:
    """The elements of `source` that an edge reads, from a rectangle of readers on a lattice: their hull."""
    if not lattice.shifted(edge.row, edge.col).meets(source.lattice):
        return EMPTY
    return source.lattice.within(intersect(reader.shifted(edge.row, edge.col), edge.rect))


def prune(graph: Graph) -> Graph:
    """Drop nodes, channels, edges, rows and columns that no output depends on."""
    graph = drop_unread(graph)
    nodes = operations(graph)
    kept = [np.zeros(node.features, dtype=bool) for node in nodes]
    domains = [EMPTY for _ in nodes]

    def need(edge: Edge, demand: Demand) -> None:
        rect = reached(nodes[edge.source], edge, demand.rect, demand.lattice)
        if rect.empty or not len(demand.channels):
            return
        kept[edge.source][demand.channels] = True
        domains[edge.source] = domains[edge.source].hull(rect)

    drawn = [[(edge, Demand(edge.channels, graph.image, EVERYWHERE)) for edge in edges] for edges in graph.outputs]
    for edge, demand in chain(*drawn):
        need(edge, demand)
    needs: dict[int, Needs] = {}
    for index in reversed(range(len(nodes))):
        if kept[index].any():
            needs[index] = found = nodes[index].needs(kept[index], domains[index])
            kept[index], domains[index] = found.kept, found.domain
            for edge, demand in zip(nodes[index].edges, found.demands, strict=True):
                need(edge, demand)

    positions = [np.cumsum(those) - 1 for those in kept]
    renumbered: dict[int, int] = {}

    def moved(edge: Edge, demand: Demand) -> Edge | None:
        rect = intersect(edge.rect, domains[edge.source])
        if not len(demand.channels):
            return None
        if reached(nodes[edge.source], replace(edge, rect=rect), demand.rect, demand.lattice).empty:
            return None
        return Edge(renumbered[edge.source], edge.row, edge.col, positions[edge.source][demand.channels], rect)

    found_nodes: list[Node] = []
    for index, node in enumerate(nodes):
        if index in needs:
            edges = [moved(edge, demand) for edge, demand in zip(node.edges, needs[index].demands, strict=True)]
            renumbered[index] = len(found_nodes)
            found_nodes.append(node.restricted(kept[index], domains[index], edges))
    outputs = tuple(tuple(there for read in reads if (there := moved(*read)) is not None) for reads in drawn)
    return replace(graph, nodes=tuple(found_nodes), outputs=outputs)


def separate_crops(graph: Graph) -> Graph:
    """Give each edge that crops elements which its source computes for others a copy of just the cropped part.

    Afterwards an edge reads its source's whole rectangle, and zero outside of it.
    """
    nodes: list[Node] = []
    renumbered: dict[int, int] = {}
    copies: dict[tuple[int, Rect], int] = {}

    def cropped(edge: Edge, reader: Rect) -> Edge:
        source = graph.nodes[edge.source]
        reads = source.lattice.within(intersect(reader.shifted(edge.row, edge.col), source.domain))
        if edge.rect.contains(reads):
            return replace(edge, source=renumbered[edge.source], rect=source.domain)
        rect, lattice = source.lattice.within(edge.rect), source.lattice
        key = (edge.source, rect)
        if key not in copies:
            whole = Edge(renumbered[edge.source], 0, 0, np.arange(source.features), source.domain)
            copy = Pointwise.of(f"{source.name}_crop", source.layer, source.features, rect, (whole,), (), lattice)
            copies[key] = len(nodes)
            nodes.append(copy)
        return replace(edge, source=copies[key], rect=rect)

    for index, node in enumerate(graph.nodes):
        moved = node.with_edges([cropped(edge, node.domain) for edge in node.edges])
        renumbered[index] = len(nodes)
        nodes.append(moved)
    outputs = tuple(tuple(cropped(edge, graph.image) for edge in edges) for edges in graph.outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs)
