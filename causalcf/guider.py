"""A guidance rule as a diffusers guider, for denoising loops that are not causalcf's own.

diffusers' guiders combine the predictions of several passes; `LTX2Guidance` is the precedent for passes whose number depends on
the settings. Here one pass is one set of shown parents, as the rule plans it for the level.

diffusers, "Guiders", https://huggingface.co/docs/diffusers/api/modular_diffusers/guiders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput
from torch import Tensor

from causalcf.errors import DataError
from causalcf.guidance import Adjusted, Guidance, Shown, guidance_from_dict

__all__ = ["CausalGuider"]


def _check(rule: Guidance) -> None:
    """Raise a DataError unless the rule is one weighted sum of predictions for all rows, all that a guider can combine."""
    otherwise = "use it as the guidance of a Diffusion mechanism"
    if isinstance(rule, Adjusted):
        raise DataError(f"{type(rule).__name__} is no weighted sum of predictions and needs the noisy image too: {otherwise}.")
    if rule.by_moved:
        raise DataError(
            "the rule has groups='moved', which guides a row by the parents that moved in it, and a guider is told one `changed` "
            "for all rows. Take groups='graph' and rows in which the same parents moved, these as `changed`; "
            f"or keep the rule and {otherwise}."
        )
    if rule.by_row:
        raise DataError(
            "the rule has a weight a row, and a guider combines the predictions of all rows alike. Make a guider for each "
            f"weight, with one number; or keep the rule and {otherwise}."
        )


class CausalGuider(BaseGuidance):  # type: ignore[misc]
    """Decoupled guidance, or any other rule that is a weighted sum of masked predictions, as a diffusers guider.

    Args:
        parents: of the image, in the network's order.
        changed: those that the intervention moved, directly or through the graph; `graph.descendants(do)` has them.
        rule: as `Guidance.to_dict` gives it; `from_rule` takes the rule itself.
        start, stop, enabled: as of diffusers' other guiders: the share of the steps from which, and up to which, the rule holds;
            outside there is one plain pass.

    Raises:
        DataError: the rule is not a weighted sum of predictions (APG, CFG++, rescale), or not the same one for all rows
            (`groups="moved"`, a weight a row).

    Example:
        >>> from causalcf.guidance import Decoupled
        >>> guider = CausalGuider.from_rule(Decoupled(2.0, form="nested"), parents=["age", "sex"], changed=["sex"])
        >>> [sorted(shown) for shown in guider.passes()]
        [['age', 'sex'], ['age']]
    """

    _input_predictions: ClassVar[list[str]] = []  # diffusers wants a list; which predictions there are depends on the level

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        parents: Sequence[str],
        changed: Sequence[str],
        rule: Mapping[str, Any],
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
    ) -> None:
        super().__init__(start, stop, enabled)
        self.parents, self.changed = tuple(parents), frozenset(changed)
        if self.changed and not self.changed.intersection(self.parents):
            raise DataError(
                f"changed has {', '.join(sorted(self.changed))}, and none of that is a parent of the image. "
                f"Parents are: {', '.join(self.parents)}."
            )
        self.rule: Guidance = guidance_from_dict(rule)
        _check(self.rule)

    @classmethod
    def from_rule(cls, rule: Guidance, *, parents: Sequence[str], changed: Sequence[str], **settings: Any) -> CausalGuider:
        """A guider of a rule."""
        _check(rule)  # before it is made JSON, which has no weight a row
        guider: CausalGuider = cls(parents=list(parents), changed=sorted(changed), rule=rule.to_dict(), **settings)
        return guider

    def _terms(self) -> dict[Shown, Any]:
        steps, step = self._num_inference_steps, self._step
        inside = steps is None or int(self._start * steps) <= step < int(self._stop * steps)
        if not (self._enabled and inside):
            return {frozenset(self.parents): 1.0}
        timestep = 0 if self._timestep is None else int(torch.as_tensor(self._timestep).flatten()[0])
        return self.rule.terms(self.parents, self.changed, timestep)

    def passes(self) -> list[Shown]:
        """The parents that each pass shows, in the order of the predictions, at the level that `set_state` was told."""
        return list(self._terms())

    def shown(self) -> Tensor:
        """The same as (pass, parent), boolean: a row for each pass, to be repeated over the images."""
        return torch.tensor([[parent in shown for parent in self.parents] for shown in self.passes()], dtype=torch.bool)

    @property
    def num_conditions(self) -> int:
        return len(self._terms())

    @property
    def is_conditional(self) -> bool:
        return True  # every pass shows some parents; none is "the" conditional one

    def _batches(self, prepare: Any) -> list[Any]:
        """One block of inputs a pass, each with the parents that it shows."""
        batches = []
        for place, row in enumerate(self.shown()):
            batch = prepare(f"pass_{place}")
            batch.shown = row
            batches.append(batch)
        return batches

    def prepare_inputs(self, data: Mapping[str, Any]) -> list[Any]:
        """One block of inputs a pass: the given tensors, and `shown`, (parent,), boolean, which the denoiser takes."""
        return self._batches(lambda name: self._prepare_batch(data, 0, name))

    def prepare_inputs_from_block_state(self, data: Any, input_fields: Mapping[str, Any]) -> list[Any]:
        """The same from a pipeline's block state."""
        return self._batches(lambda name: self._prepare_batch_from_block_state(input_fields, data, 0, name))

    def forward(self, **predictions: Tensor) -> GuiderOutput:
        """The guided prediction.

        Args:
            predictions: `pass_0`, `pass_1`, ..., (batch, channel, height, width) each, in the order of `passes`.
        """
        total = torch.zeros(())
        for place, coefficient in enumerate(self._terms().values()):
            total = total + cast(float, coefficient) * predictions[f"pass_{place}"]
        return GuiderOutput(pred=total, pred_cond=None, pred_uncond=None)
