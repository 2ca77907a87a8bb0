"""A random case, tried: what is drawn for it is judged by the user's own module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from oracle import NATIVE, PARAMETERS, Traced, judge, snapshot, spread_error, trace
from random_cases import CHANGES, Call, Case, reason_of
from random_models import Config, arranged, build, head_of

import pixelfast
from pixelfast import InvalidInput, UnsupportedModel
from pixelfast.distributions import noise
from pixelfast.engines import reference, registry
from pixelfast.engines.base import Request, reordered, restored
from pixelfast.engines.naive import NaiveEngine
from pixelfast.inputs.conditions import Conditions
from pixelfast.ir.scan_order import ORDERS
from pixelfast.pipeline import evaluate_fields
from pixelfast.trace.capture import frozen_copy
from pixelfast.trace.output import OutputLayout
from pixelfast.verify import OWN_ROUNDING, own_rounding

IMAGES = 2


LOOPED = 16
"""Sub-pixels of an image that is drawn by the naive loop itself, too."""


POISONED = 64
"""Sub-pixels of an image that the interpreter draws as well, with what is not computed yet as NaN."""


def check(case: Case) -> tuple[int, str | None]:
    """Samples from a module as its users do, and judges by the module alone; returns the ties, and why it was refused."""
    try:
        return Trial(case).run(), None
    except UnsupportedModel as error:
        return 0, reason_of(error)


class Trial:
    """A case on its way: the module, its head, and what samples from it."""

    def __init__(self, case: Case) -> None:
        self.case, self.config = case, case.config
        self.module = build(self.config)
        self.head = head_of(self.config, self.config.layout if self.config.explicit else None)
        engine = "cpu" if NATIVE and "cpu" not in registry.refusals(self.head) else "reference"
        self.options: dict[str, Any] = {"shape": self.config.shape, "order": self.config.order, "engine": engine}

    def run(self) -> int:
        before = snapshot(self.module)
        cond, _ = self.case.calls[0].conditions(self.config)
        if self.case.door == "compile":
            sampler = self.asked_for_layout(lambda: pixelfast.compile(self.module, head=self.head, cond=cond, **self.options))
            check_layout(sampler.prepare(cond).analysis.layout, self.config)
            ties = sum(self.sampled(call, sampler.sample) for call in self.case.calls)
            self.poisoned(sampler.prepare(cond))
        else:
            self.asked_for_layout(lambda: self.front_door(self.case.calls[0].images, cond=cond))
            ties = sum(self.sampled(call, self.front_door) for call in self.case.calls)
        assert snapshot(self.module) == before, "the user's module was changed"
        if self.case.door != "compile":
            CHANGES[self.case.door](self.module)
            if self.case.door == "head":
                self.head = head_of(replace(self.config, inputs=other_inputs(self.config)), self.config.layout)
            # A changed model may be autoregressive in more than one layout.
            ties += self.asked_for_layout(lambda: self.sampled(self.case.calls[0], self.front_door))
        return ties

    def front_door(self, n: int, **options: Any) -> Any:
        return pixelfast.sample(self.module, n, head=self.head, **self.options, **options)

    def asked_for_layout(self, action: Callable[[], Any]) -> Any:
        """Where the layout is ambiguous it is asked for, and then one of those named is right."""
        try:
            return action()
        except InvalidInput as error:
            message = str(error)
        named = [text.split('"')[0] for text in message.split('layout="')[1:]]
        assert any(same_numbers(text, self.config) for text in named), message
        self.head = head_of(self.config, self.config.layout)
        return action()

    def request(self, call: Call) -> Request:
        given = call.given(self.config)
        return Request(
            noise.uniforms(call.seed, call.first, call.images, self.config.shape),
            None if given is None else np.ascontiguousarray(given.permute(0, 2, 3, 1).numpy()), (), call.temperature,
            want_log_prob=True, want_parameters=True, head=self.head,
        )  # fmt: skip

    @property
    def oracle(self) -> NaiveEngine:
        """The naive loop over a copy of the module as it is now."""
        channels, height, width = self.config.shape
        layout = OutputLayout(self.config.layout, channels, height, width, self.config.parameters)
        return NaiveEngine(frozen_copy(self.module), self.head, layout, ORDERS[self.config.order])

    def sampled(self, call: Call, sample: Callable[..., Any]) -> int:
        """One call, judged by one forward of the module on its images; returns the ties."""
        cond, by_name = call.conditions(self.config)
        images, log_prob = sample(
            call.images, seed=call.seed, cond=cond, temperature=call.temperature, given=call.given(self.config),
            first=call.first, batch_size=call.batch_size, threads=call.threads, return_log_prob=True,
        )  # fmt: skip
        assert images.dtype == (torch.uint8 if self.config.levels <= 256 else torch.int32)
        values, request = images.permute(0, 2, 3, 1).to(torch.int32).numpy(), self.request(call)
        ties = judge(self.oracle, request, Conditions.parse(by_name), values, log_prob.numpy(), "sample")
        if not ties and values[0].size <= LOOPED:
            looped = self.oracle.run(request, Conditions.parse(by_name))
            np.testing.assert_array_equal(values, looped.values, err_msg="the naive loop draws other images")
        return ties

    def poisoned(self, compiled: Any) -> None:
        """The interpreter on the first call: a wrong schedule shows as NaN, and parameters are those of the module."""
        call = self.case.calls[0]
        if int(np.prod(self.config.shape)) > POISONED:
            return
        cond, by_name = call.conditions(self.config)
        request, order = self.request(call), ORDERS[self.config.order]
        fields = evaluate_fields(compiled, Conditions.parse(cond).readings(call.images)[0], call.images)
        found = restored(reference.run(compiled.program, reordered(replace(request, fields=fields), order), poison=True), order)
        assert found.log_prob is not None
        assert found.parameters is not None
        given = Conditions.parse(by_name)
        judge(self.oracle, request, given, found.values, found.log_prob, "reference")
        images = torch.from_numpy(found.values).long()
        forced = self.oracle.parameters(images, given)
        if (error := spread_error(found.parameters, forced.numpy())) > PARAMETERS:
            error /= 1 + own_rounding(self.oracle, images, forced, given) * OWN_ROUNDING / PARAMETERS
        assert error <= PARAMETERS, "reference: parameters differ from one forward's"


def other_inputs(config: Config) -> str:
    """Another encoding of the same type and number of planes."""
    return {"symmetric": "unit", "unit": "affine", "affine": "table", "table": "unit"}.get(config.inputs, config.inputs)


def traced_model(config: Config, cond: Any) -> Traced:
    """The model through the pipeline. The layout is asked for where it is ambiguous, and then one of those named."""
    module = build(config)
    try:
        return trace(module, config.shape, head_of(config, config.layout if config.explicit else None), cond, config.order)
    except InvalidInput as error:
        message = str(error)
    assert "layout=" in message, message
    return trace(module, config.shape, head_of(config, config.layout), cond, config.order)


def same_numbers(text: str, config: Config) -> bool:
    return torch.equal(read_positions(text, config), read_positions(config.layout, config))


def read_positions(text: str, config: Config) -> torch.Tensor:
    """Where a layout reads the parameters of each sub-pixel in the model's output."""
    channels, height, width = config.shape
    output = arranged(torch.zeros(IMAGES, config.parameters, channels, height, width), config.layout)
    return OutputLayout(text, channels, height, width, config.parameters).read(
        torch.arange(output.numel()).view(output.shape), IMAGES
    )


def check_layout(found: OutputLayout, config: Config) -> None:
    """The layout that was found reads the parameters that the model meant."""
    channels, height, width = config.shape
    planes = torch.arange(IMAGES * config.parameters * channels * height * width)
    planes = planes.view(IMAGES, config.parameters, channels, height, width)
    meant = planes[:, :, :1].expand_as(planes) if config.shared else planes
    assert torch.equal(found.read(arranged(planes, config.layout), IMAGES), meant.permute(0, 3, 4, 2, 1)), found.text
