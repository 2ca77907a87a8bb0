"""The report of `trained_runs.py`: a table of bits/dim, the commands, and a picture of samples of every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pixelfast
from learning.patch_codes import decode
from learning.trainings import CODES
from pixelfast import data, pictures
from pixelfast.errors import UnsupportedModel
from pixelfast.files import checkpoint

HEAD = """# Short trainings of every architecture

{machine}; {versions}; {date}; trained at commit {trained_at}.

| run | given | weights | images | epochs | processor s | bits/dim trained on | held out | misled | independent | uniform |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""

NOTES = """
Bits/dim: -log2 p(image) / (C H W), averaged over images, in the first → the last epoch. "Trained on" is measured on the way, by
the weights of each step (with dropout, where there is any); "held out" after the epoch, by the averaged weights. "Independent"
pixels have the frequencies of the values at each place of the trained images, and know nothing of each other; "uniform" is
log2 K. Processor seconds are those of the whole command, held-out images and files included, on one thread; the clock would
have told how busy the machine was.

What is given counts as known: with the code of the image itself, as in an auto-encoder, the number is no likelihood of images.
"Misled" is held out again, given the next label or the codes of another image: if it were no higher, what is given would be of
no use. Models are small, runs short and data few: these numbers say that an architecture learns, and compare with nothing
published.

"""


def write_report(
    folder: Path, facts: Mapping[str, str], results: Sequence[Mapping[str, Any]], runs: Path, samples: int
) -> None:
    """Write `report.md`, and `samples.png` if samples are wanted."""
    trained_at = ", ".join(dict.fromkeys(result["commit"] for result in results))
    lines = [HEAD.format(**facts, trained_at=trained_at), *(row(result) for result in results), NOTES, "```bash\n"]
    lines += [result["command"] + "\n" for result in results]
    lines.append("```\n")
    if any(result["data"].startswith(CODES) for result in results):
        lines.append("\nCodes are those of `python benchmarks/learning/patch_codes.py fashion5k.npz --out fashion-codes`.\n")
    if samples:
        drawn, checks = [], []
        for result in results:
            if result["name"] == "autoencoder":
                drawn.append(("held-out images, whose codes follow", scaled(held_out(result, samples), result["levels"])))
            images, check = draw(result, runs, samples)
            drawn.append((result["name"], images))
            checks.append(f"| {result['name']} | {check} |\n")
        picture(drawn).save(folder / "samples.png")
        lines.append("\n![Samples of each model](samples.png)\n\nThe first samples of seed 0, none chosen; codes as the ")
        lines.append("patches that they stand for. Lower codes are drawn given the upper codes of held-out images.\n")
        lines += ["\n| samples of | engine | verified |\n| --- | --- | --- |\n", *checks]
    (folder / "report.md").write_text("".join(lines), encoding="utf-8")


def row(result: Mapping[str, Any]) -> str:
    """One line of the table."""
    first, last = result["history"][0], result["history"][-1]
    shape = "×".join(map(str, result["shape"]))
    cells = [
        result["name"],
        result["given"] or "nothing",
        f"{result['weights']:,}",
        f"{result['images']:,} and {result['held_out']:,} held out of {result['data']}, {shape}, {result['levels']} levels",
        str(last["epoch"]),
        f"{result['processor_seconds']:.0f}",
        f"{first['train_bits']:.3f} → {last['train_bits']:.3f}",
        f"{first['test_bits']:.3f} → **{last['test_bits']:.3f}**",
        "" if result["wrong_condition"] is None else f"{result['wrong_condition']:.3f}",
        f"{result['independent_pixels']:.3f}",
        f"{result['uniform']:.3f}",
    ]
    return "| " + " | ".join(cells) + " |\n"


def draw(result: Mapping[str, Any], runs: Path, n: int) -> tuple[np.ndarray, str]:
    """Samples as grey values or colours, uint8 (n, C, H, W), codes as patches again; the engine, and what the check says."""
    codes = runs / CODES
    model = checkpoint.load(runs / result["name"].replace(" ", "-"))
    cond: Any = torch.arange(n) % model.classes if getattr(model, "classes", 0) else None
    if hasattr(model, "reconstruct"):
        cond = model.encode(model.head.encode_images(held_out(result, n))).detach()
    lower = result["data"].endswith("lower.npz")
    if lower:
        cond = {"s": torch.from_numpy(np.load(codes / "lower.npz")["s_test"][:n].astype(np.int64)).unsqueeze(1)}
    found, check = sample(model, n, cond)
    if not result["data"].startswith(CODES):
        return scaled(found, result["levels"]), check
    books = np.load(codes / "books.npz")
    parts = [cond["s"], found] if lower else [found]
    images = decode([part[:, 0].numpy().astype(np.int64) for part in parts], [books[name] for name in ("upper", "lower")])
    return images.clip(0, 255).astype(np.uint8)[:, None], check


def held_out(result: Mapping[str, Any], n: int) -> Tensor:
    """The first n held-out images of the run, integers (n, C, H, W)."""
    return data.load(result["file"], result["levels"], source_levels=result["source_levels"]).test_images[:n]


def sample(model: torch.nn.Module, n: int, cond: Any) -> tuple[Tensor, str]:
    """The first n images of seed 0, by the fast engines where they take the model, by the usual loop where not; verified."""
    try:
        sampler = pixelfast.compile(model, cond=cond)
    except UnsupportedModel:
        sampler = pixelfast.compile(model, cond=cond, engine="naive")
    images = sampler.sample(n, seed=0, cond=cond)
    return images, f"{sampler.engine} | {sampler.verify(images, seed=0, cond=cond)}"


def scaled(images: Tensor, levels: int) -> np.ndarray:
    """Integers 0 .. K-1 as bytes of the whole range."""
    return (images.numpy().astype(np.int64) * 255 // (levels - 1)).astype(np.uint8)


def picture(rows: Sequence[tuple[str, np.ndarray]]) -> Any:
    """One line of images for each model, its name above it."""
    lines = [pictures.grid(images, 256, columns=len(images)) for _, images in rows]
    size = max(line.width for line in lines), sum(line.height + 16 for line in lines)
    sheet = pictures.pillow().Image.new("RGB", size, "white")
    pen, top = pictures.pillow().ImageDraw.Draw(sheet), 0
    for (name, _), line in zip(rows, lines, strict=True):
        pen.text((4, top + 2), name, fill=pictures.INK)
        sheet.paste(line, (0, top + 16))
        top += line.height + 16
    return sheet
