"""What the rest of gptlab asks of a model: the GPT in its smallest forms, and a model of a user's own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gptlab.evaluation.loss import running_loss
from gptlab.generation.decoding import generate
from gptlab.generation.preparation import prepare_for_inference
from gptlab.generation.sampling import greedy
from gptlab.model import GPT, LanguageModel
from gptlab.model.attention.fused import FusedAttention
from gptlab.model.attention.plain import PlainAttention
from gptlab.model.base import check_model, tied_parameters
from gptlab.model.positions.none import NoPositions
from gptlab.objective.next_token import NextToken
from tiny_gpt import Averaging, Bigram, tiny_gpt, tiny_ngram_gpt

MODELS = {
    "gpt": tiny_gpt,
    "neither blocks nor positions": lambda: tiny_gpt(n_layers=0, positions=NoPositions),
    "with n-grams": tiny_ngram_gpt,
    "not causal": lambda: tiny_gpt(attention=Averaging),
    "of one's own": lambda: Bigram(vocab_size=20, context_length=16, d_model=8),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(0)
    return MODELS[request.param]()


def test_every_model_trains_saves_and_is_looked_into(model: LanguageModel) -> None:
    check_model(model)
    batch = (torch.randint(20, (4, 16)), torch.randint(20, (4, 16)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = NextToken()(model, batch)
        optimizer.zero_grad()
        loss.sum.backward()
        optimizer.step()
        losses.append(loss.sum.item())
    assert losses[-1] < losses[0]
    last = list(running_loss(model.eval(), [batch]))[-1]
    assert last.sum == pytest.approx(NextToken()(model, batch).sum.item(), rel=1e-5)
    model.load_state_dict(model.state_dict())
    captured = model.capture(batch[0][:1])
    torch.testing.assert_close(model.head(captured.hidden[-1]), model(batch[0])[0])
    assert model.sizes["vocab_size"] == 20


@pytest.mark.parametrize("prepared", [False, True])
def test_every_model_generates_what_one_pass_predicts(model: LanguageModel, prepared: bool) -> None:
    model.eval()
    prompts = [[1, 2, 3], [4], [5, 6, 7]]
    expected = []
    for prompt in prompts:
        text = list(prompt)
        for _ in range(6):
            text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
        expected.append(text[len(prompt) :])
    if prepared:
        prepare_for_inference(model, device="cpu", precision="32", n_rows=3, compile=False)
    steps = list(generate(model, prompts, max_new_tokens=6, sampler=greedy))
    assert [list(row) for row in zip(*steps, strict=True)] == expected


def test_what_a_model_can_do() -> None:
    assert tiny_gpt().causal
    assert tiny_gpt().new_cache() is not None
    assert not tiny_gpt(attention=Averaging).causal
    assert tiny_gpt(attention=Averaging).new_cache() is None
    assert tiny_gpt(attention=Averaging).capture(torch.tensor([[1, 2]])).attention is None
    assert tiny_gpt(n_layers=0).new_cache() is None
    assert tied_parameters(tiny_gpt()) == {"head.weight": "trunk.token_embedding.weight"}
    assert tied_parameters(tiny_gpt(tie_head=False)) == {}


def test_reduce_gets_hidden_states_and_head_instead_of_logits(model: LanguageModel) -> None:
    tokens = torch.randint(20, (2, 5))
    last = model.eval()(tokens, reduce=lambda hidden, head: head(hidden[:, -1]))
    torch.testing.assert_close(last, model(tokens)[:, -1])


@pytest.mark.parametrize("make", [tiny_gpt, tiny_ngram_gpt])
@pytest.mark.parametrize("attention", [PlainAttention, FusedAttention, Averaging])
def test_a_packed_row_has_the_logits_of_each_document_alone(attention: type, make: Callable[..., GPT]) -> None:
    model = make(attention=attention).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    tokens = torch.randint(20, (2, 12))
    documents = torch.tensor([[1] * 5 + [2] + [3] * 4 + [0] * 2, [0, 0, 0, *[7] * 9]])
    packed = model(tokens, documents=documents)
    for row, document, columns in [(0, 1, slice(5)), (0, 2, slice(5, 6)), (0, 3, slice(6, 10)), (1, 7, slice(3, 12))]:
        assert (documents[row, columns] == document).all()
        alone = model(tokens[row : row + 1, columns])
        torch.testing.assert_close(packed[row, columns], alone[0], atol=1e-5, rtol=1e-5)
    assert packed.isfinite().all()
    changed = torch.where(documents == 0, (tokens + 1) % 20, tokens)
    assert torch.equal(model(changed, documents=documents)[documents > 0], packed[documents > 0])


@pytest.mark.parametrize("n", [1, 5])
def test_a_shorter_context_keeps_what_is_left_of_it(model: LanguageModel, n: int) -> None:
    tokens = torch.randint(20, (2, n))
    logits = model.eval()(tokens)
    model.shorten(n)
    assert model.context_length == n
    torch.testing.assert_close(model(tokens), logits)
    assert all(parameter.requires_grad for parameter in model.parameters())


def without(name: str) -> Bigram:
    model = Bigram(vocab_size=3, context_length=4, d_model=2)
    delattr(model, name)
    return model


class OldForward(Bigram):
    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]
        return tokens


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(2, 2), "Linear is no language model: it must subclass gptlab.model.LanguageModel"),
        (without("head"), "Bigram must set self.head, of the type Module"),
        (OldForward(vocab_size=3, context_length=4, d_model=2), "OldForward.forward must take the argument cache"),
    ],
)
def test_what_keeps_no_contract_is_refused_in_one_sentence(model: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_model(model)


class Undeclared(FusedAttention):
    uses_cache = None  # type: ignore[assignment]


class OldAttention(FusedAttention):
    def forward(self, x: Tensor, *, mask: Tensor | None = None, cache: object = None) -> Tensor:  # type: ignore[override]
        return x


def test_an_attention_of_ones_own_is_held_to_its_contract() -> None:
    with pytest.raises(ValueError, match="Undeclared must have the class attribute uses_cache: bool"):
        tiny_gpt(attention=Undeclared)
    with pytest.raises(ValueError, match=r"OldAttention\.forward must take the argument positions"):
        tiny_gpt(attention=OldAttention)


def test_an_n_gram_model_sees_as_many_tokens_before_each_as_it_has_tables() -> None:
    model = tiny_ngram_gpt(n_layers=0, positions=NoPositions).eval()
    tokens = torch.randint(20, (1, 8))
    for position in range(8):
        other = torch.where(torch.arange(8) == position, (tokens + 1) % 20, tokens)
        changed = (model(other) != model(tokens)).any(dim=-1)[0]
        assert changed.tolist() == [position <= place <= position + 3 for place in range(8)]
