"""Why a run stops before its last step."""

import logging
import math

log = logging.getLogger("gptlab")

MOST_SKIPPED = 10
"""Steps in a row. One odd batch costs one step; broken weights cost every step that follows."""


class Interrupted(Exception):  # noqa: N818 (it is no error)
    """A signal asked the run to stop. The last step is complete on all ranks."""


class Pruned(Interrupted):
    """The sweep ends this trial early."""


class NonFiniteError(Exception):
    """A loss or a gradient is nan or infinite. The step is not taken."""


class NonFiniteGuard:
    """Decides what happens at a step whose loss or gradient norm is not finite.

    Args:
        on_nonfinite: "stop" ends the run; "skip" leaves the step out, and ends the run after too many in a row.

    Attributes:
        n_skipped: skipped steps so far.
        in_a_row: skipped since the last step that was taken.
    """

    def __init__(self, on_nonfinite: str) -> None:
        self.skips = on_nonfinite == "skip"
        self.n_skipped = self.in_a_row = 0

    def allows(self, step: int, *, loss: float, gradient_norm: float) -> bool:
        """Whether the optimizer may step. `step` is the number of steps done, which is also the number of the batch.

        Raises:
            NonFiniteError: if the run must end.
        """
        if math.isfinite(loss) and math.isfinite(gradient_norm):
            self.in_a_row = 0
            return True
        what = f"the gradient norm is {gradient_norm}" if math.isfinite(loss) else f"the loss is {loss}"
        if not self.skips:
            raise NonFiniteError(f"{what} in step {step + 1} (batch {step} of the run)")
        self.n_skipped += 1
        self.in_a_row += 1
        if self.in_a_row > MOST_SKIPPED:
            raise NonFiniteError(f"{what} in step {step + 1}, and the {MOST_SKIPPED} steps before it were skipped too")
        log.warning("step %d is skipped: %s", step + 1, what)
        return False
