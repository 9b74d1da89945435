"""What a step costs, counted without computing it, beside what the literature's formulas and the tensors say."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gptlab.errors import UserError
from gptlab.model import LanguageModel
from gptlab.model.attention.plain import PlainAttention
from gptlab.objective import Batch, Objective
from gptlab.objective.classification import Classification
from gptlab.objective.dpo import DPO
from gptlab.objective.next_token import NextToken
from gptlab.training.cost import flops_per_token, step_memory
from gptlab.training.devices import Hardware
from gptlab.training.optimizers import adamw
from gptlab.training.rank_cost import bytes_sent, memory_of_rank
from tiny_gpt import Bigram, tiny_classifier, tiny_gpt

TOKENS = torch.zeros(4, 16, dtype=torch.long)
BATCH = (TOKENS, TOKENS)


def memory(make: Any = tiny_gpt, *, batch: Batch = BATCH, objective: Any = None, **changes: Any) -> dict[str, int]:
    how = {"precision": "32-true", "accumulates": False, **changes}
    hardware = Hardware("cpu", 1, how.pop("precision"))
    return step_memory(
        make,
        NextToken() if objective is None else objective,
        lambda model: adamw(model, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1),
        batch,
        hardware=hardware,
        **how,
    )


def on_meta(make: Any, **changes: Any) -> Any:
    with torch.device("meta"):
        return make(**changes)


@pytest.mark.parametrize("attention", [None, PlainAttention])
@pytest.mark.parametrize("n_rows", [1, 3])
def test_operations_of_a_gpt_are_the_formula_s(attention: Any, n_rows: int) -> None:
    """Six for each weight of a product, and 12 T C in each layer (arXiv:2204.02311, appendix B)."""
    model = on_meta(tiny_gpt, **({} if attention is None else {"attention": attention}))
    matrices = {p for m in model.modules() if isinstance(m, nn.Linear) for p in [m.weight]}
    expected = 6 * sum(matrix.numel() for matrix in matrices) + 12 * 2 * 16 * 16
    assert flops_per_token(model, NextToken(), tuple(part[:n_rows] for part in BATCH)) == expected


def test_a_frozen_trunk_needs_no_backward_pass() -> None:
    model = on_meta(tiny_gpt, tie_head=False)
    everything = flops_per_token(model, NextToken(), BATCH)
    model.tune("last_block")
    assert flops_per_token(model, NextToken(), BATCH) < 0.8 * everything


def test_a_model_of_a_user_s_own_is_counted() -> None:
    sizes = {"vocab_size": 30, "context_length": 16, "d_model": 8}
    assert flops_per_token(on_meta(Bigram, **sizes), NextToken(), BATCH) == 6 * 30 * 8
    counted = memory(lambda: Bigram(**sizes))
    assert counted["weights"] == 4 * (30 * 8 + 30 * 8 + 30)


@pytest.mark.parametrize(
    ("make", "objective", "batch"),
    [
        (tiny_classifier, Classification(best="loss"), (TOKENS, TOKENS[:, 0], TOKENS[:, 0])),
        (tiny_gpt, DPO(beta=0.1, average=False), (TOKENS.view(2, 2, 16), TOKENS.view(2, 2, 16), torch.zeros(2, 2))),
        (tiny_gpt, NextToken(), (TOKENS, TOKENS, TOKENS)),
    ],
    ids=["classification", "dpo", "packed"],
)
def test_other_objectives_are_counted(make: Any, objective: Objective, batch: Batch) -> None:
    model = on_meta(make)
    assert flops_per_token(model, objective, batch) > 4 * sum(p.numel() for p in model.trunk.blocks.parameters())
    assert memory(make, objective=objective, batch=batch)["activations"] > 0


def test_memory_by_kind_is_that_of_the_tensors() -> None:
    n = sum(p.numel() for p in tiny_gpt().parameters())
    counted = memory()
    assert counted["weights"] == counted["gradients"] == 4 * n
    assert counted["optimizer"] == pytest.approx(2 * 4 * n, rel=0.02)  # and a step count for each parameter
    one, four = (memory(batch=tuple(part[:rows] for part in BATCH)) for rows in (1, 4))
    assert four["activations"] == pytest.approx(4 * one["activations"], rel=0.02)
    assert four["loss"] >= 4 * 16 * 20 * 4, "a row of logits for each token"
    parts = counted["weights"] + counted["optimizer"] + counted["activations"] + counted["loss"]
    assert counted["all"] >= parts


def test_what_makes_a_step_larger_and_smaller() -> None:
    usual = memory()
    assert memory(accumulates=True)["all"] > usual["all"]
    model, two = tiny_gpt(), {"n_ranks": 2, "model": tiny_gpt()}
    whole, sharded = (memory_of_rank(usual, **two, is_sharded=value) for value in (False, True))
    assert whole["all"] == usual["all"] + usual["gradients"], "the copy that DDP sends"
    assert sharded["weights"] == usual["weights"] / 2
    assert sharded["gathered"] < 3 * sum(p.nbytes for p in model.parameters())
    half = memory(precision="bf16-true")
    assert half["weights"] == usual["weights"] / 2
    assert memory(precision="bf16-mixed")["weights"] == usual["weights"]

    def frozen() -> Any:
        model = tiny_gpt(tie_head=False)
        model.tune("head")
        return model

    assert memory(frozen)["gradients"] == 4 * 20 * 16
    assert memory(frozen)["activations"] < usual["activations"] / 2


def test_a_fused_kernel_keeps_no_scores_unless_it_drops_some() -> None:
    """On a CPU dropout takes torch's slow path, which keeps all T x T of them."""
    plain, fused = (memory(lambda parts=parts: tiny_gpt(**parts)) for parts in ({"attention": PlainAttention}, {}))
    assert plain["activations"] > fused["activations"]
    assert memory(lambda: tiny_gpt(dropout=0.1))["activations"] > fused["activations"] + 2 * 4 * 2 * 16 * 16 * 4


def test_a_model_that_looks_at_values_cannot_be_counted() -> None:
    class Looking(Bigram):
        def forward(self, tokens: Tensor, **context: Any) -> Any:  # type: ignore[override]
            assert len(tokens[tokens > 0]) < self.vocab_size
            return super().forward(tokens, **context)

    def looking() -> LanguageModel:
        return Looking(vocab_size=30, context_length=16, d_model=8)

    for count in (
        lambda: flops_per_token(on_meta(looking), NextToken(), BATCH),
        lambda: memory(looking),
    ):
        with pytest.raises(UserError, match="Looking with NextToken cannot be counted without computing it: "):
            count()


def test_bytes_sent_are_those_of_the_collectives() -> None:
    """Of R ranks each sends (R - 1) / R of what is gathered or scattered, and twice that of a sum."""
    model = tiny_gpt()
    n, blocks = (sum(p.nbytes for p in part.parameters()) for part in (model, model.trunk.blocks))
    assert bytes_sent(model, n_ranks=4, is_sharded=False, n_micro_batches=3) == 2 * n * 3 // 4
    assert bytes_sent(model, n_ranks=4, is_sharded=True, n_micro_batches=3) == 3 * (2 * n + blocks) * 3 // 4
    model.tune("head")
    assert bytes_sent(model, n_ranks=4, is_sharded=False, n_micro_batches=1) < n / 2
