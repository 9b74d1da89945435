"""What happens at a step whose loss or gradient is no number any more."""

import logging
import math

from gptlab.training.stops import NonFiniteError

log = logging.getLogger("gptlab")

MOST_SKIPPED = 10
"""Steps in a row: an odd batch is one, broken weights are all that follow."""


class NonFiniteGuard:
    """Ends the run, or lets it leave the step out, up to a bound.

    Args:
        on_nonfinite: "stop" or "skip".

    Attributes:
        n_skipped: steps that were left out so far.
    """

    def __init__(self, on_nonfinite: str) -> None:
        self._stops = on_nonfinite == "stop"
        self._in_a_row = 0
        self.n_skipped = 0

    def lets_pass(self, step: int, *, loss: float, gradient_norm: float) -> bool:
        """Whether a step may be taken; `step` is how many are done, which is also the number of its batch.

        Raises:
            NonFiniteError: where it may not, and the run ends.
        """
        if math.isfinite(loss) and math.isfinite(gradient_norm):
            self._in_a_row = 0
            return True
        what = f"the gradient norm is {gradient_norm}" if math.isfinite(loss) else f"the loss is {loss}"
        if self._stops:
            raise NonFiniteError(f"{what} in step {step + 1} (batch {step} of the run)")
        self.n_skipped += 1
        self._in_a_row += 1
        if self._in_a_row > MOST_SKIPPED:
            raise NonFiniteError(f"{what} in step {step + 1}, and {MOST_SKIPPED} steps before it were skipped for that")
        log.warning("step %d is skipped: %s", step + 1, what)
        return False
