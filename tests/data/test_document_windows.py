"""Windows whose documents do not see each other."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import TINY, Result
from gptlab.data.windows import DocumentWindows, EvalWindows, WindowDataset
from gptlab.objective.base import IGNORED
from gptlab.objective.next_token import NextToken
from same_run import summary
from tiny_gpt import tiny_gpt

EOT = 0
Command = Callable[..., Result]


def joined(documents: list[list[int]], *, leads: bool) -> list[int]:
    return [token for ids in documents for token in ([EOT, *ids] if leads else [*ids, EOT])]


@given(
    documents=st.lists(st.lists(st.integers(1, 19), min_size=1, max_size=6), min_size=1, max_size=5),
    leads=st.booleans(),
)
def test_a_row_of_documents_computes_what_each_does_alone(documents: list[list[int]], leads: bool) -> None:
    torch.manual_seed(0)
    tokens = [*joined(documents, leads=leads), EOT]
    model = tiny_gpt(context_length=len(tokens)).eval()
    windows = WindowDataset(np.array(tokens), context_length=len(tokens) - 1, stride=1)
    inputs, _, numbers = DocumentWindows(windows, eot=EOT, leads=leads, first_token_loss=True).batch(np.array([0]))
    with torch.no_grad():
        together = model(inputs, documents=numbers)[0]  # (T, V)
        alone = torch.cat([model(torch.tensor([joined([ids], leads=leads)]))[0] for ids in documents])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("leads", [True, False])
def test_first_tokens_are_no_targets_if_so_asked(leads: bool) -> None:
    documents = [[1, 2], [3], [4, 5, 6]]
    tokens = np.array(joined(documents, leads=leads))
    windows = EvalWindows(tokens, context_length=4, stride=4)
    found = DocumentWindows(windows, eot=EOT, leads=leads, first_token_loss=False)
    _, targets, _ = found.batch(np.arange(len(found)))
    first = {EOT} if leads else {ids[0] for ids in documents}
    expected = [token for token in tokens[1:].tolist() if token not in first]
    assert sorted(targets[targets != IGNORED].tolist()) == sorted(expected)


def test_a_rank_without_examples_has_a_row_that_does_not_count() -> None:
    windows = EvalWindows(np.arange(9), context_length=4, stride=4)
    batch = DocumentWindows(windows, eot=EOT, leads=False, first_token_loss=True).batch(np.array([], dtype=int))
    assert NextToken().count(batch) == 0


def test_a_run_masks_documents_and_a_vocabulary_without_an_end_is_refused(gptlab: Command, workplace: Path) -> None:
    words = [word for word in TINY if not word.startswith(("tokenizer", "data"))]
    (workplace / "poems").mkdir()
    for number, line in enumerate(200 * (workplace / "poem.txt").read_text().splitlines()[:3]):
        (workplace / "poems" / f"{number:03}.txt").write_text(line)
    result = gptlab(
        *("train", *words, "data=text", "data.path=poems", "tokenizer=bpe", "tokenizer.vocab_size=260"),
        *("data.document_mask=true", "run_dir=run"),
    )
    assert result.status == 0, result.err
    assert summary(workplace / "run")["steps"] == 6
    measured = gptlab("evaluate", "checkpoint=run")
    assert json.loads(measured.out)["loss"] == pytest.approx(summary(workplace / "run")["val_loss"], rel=1e-6)
    assert gptlab("compare", "run", "ngram=1", "to=picture.png").status == 0
    refused = gptlab("train", *TINY, "data.document_mask=true", "run_dir=other")
    assert refused.status == 2
    assert "CharTokenizer has no end-of-text token; use tokenizer=bpe or gpt2" in refused.err
    lonely = gptlab("train", *TINY, "data.first_token_loss=false", "run_dir=other")
    assert "first_token_loss=false is for document_mask=true" in lonely.err
