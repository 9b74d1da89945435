"""Classifiers out and in: transformers' GPT2ForSequenceClassification is the judge."""

import json
from pathlib import Path

import pytest
import torch

import gptlab
from conftest import POEM
from gptlab.checkpoint.export import export
from gptlab.checkpoint.loaded import Loaded
from gptlab.errors import UserError
from gptlab.model.classifier import GPTClassifier
from gptlab.tokenizer.bpe import BPETokenizer
from tiny_gpt import tiny_classifier

BPE = BPETokenizer.train([POEM], vocab_size=270)
TEXTS = ["The fog", "comes on little cat feet", "i"]


def made(pool: str = "last") -> Loaded:
    model = tiny_classifier(vocab_size=BPE.vocab_size, context_length=32, pool=pool)
    return Loaded(model, BPE, {"model": {}}, Path("checkpoints", "best.ckpt"), "a-run", {}, prompt="The fog")


def test_transformers_gives_the_same_logits_to_padded_texts(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    loaded = made()
    assert export(loaded, str(tmp_path / "out"), address="a/b") == []
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    encoded = AutoTokenizer.from_pretrained(tmp_path / "out")(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = theirs(**encoded).logits
        ours = loaded.model(encoded["input_ids"], lengths=encoded["attention_mask"].sum(dim=1))
    assert type(theirs).__name__ == "GPT2ForSequenceClassification"
    assert (logits - ours).abs().max() < 1e-5
    assert theirs.config.id2label == {0: "ham", 1: "spam", 2: "news"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "gptlab classify checkpoint=a/b text='The fog'" in card


def test_it_loads_back_bit_for_bit(tmp_path: Path) -> None:
    loaded = made()
    export(loaded, str(tmp_path / "out"), address="out")
    back = gptlab.load(tmp_path / "out")
    ours, theirs = loaded.model.state_dict(), back.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert back.classify(TEXTS) == loaded.classify(TEXTS)


@pytest.mark.parametrize("labels", [None, ["ham", "spam", "news"]])
def test_what_transformers_has_saved_opens(tmp_path: Path, labels: list[str] | None) -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    names = {"id2label": dict(enumerate(labels)), "label2id": {x: k for k, x in enumerate(labels)}} if labels else {}
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24, "vocab_size": 61, "pad_token_id": 60}
    torch.manual_seed(0)
    theirs = GPT2ForSequenceClassification(GPT2Config(**sizes, **names)).eval()
    theirs.save_pretrained(tmp_path)
    model = gptlab.load(tmp_path).model
    assert isinstance(model, GPTClassifier)
    assert model.labels == (labels or ["LABEL_0", "LABEL_1"])
    tokens, lengths = torch.randint(60, (3, 9)), torch.tensor([9, 4, 1])
    tokens[torch.arange(9) >= lengths[:, None]] = 60
    with torch.no_grad():
        assert (theirs(tokens).logits - model(tokens, lengths=lengths)).abs().max() < 1e-5


def test_what_transformers_cannot_express_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a-run cannot be exported: pool=mean: .* reads the last token"):
        export(made("mean"), str(tmp_path / "out"), address="out")


def test_a_directory_says_which_labels_it_has_only_if_it_is_a_classifier(tmp_path: Path) -> None:
    export(made(), str(tmp_path / "out"), address="out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2LMHeadModel"]}))
    with pytest.raises(UserError, match=r"lm_head\.weight is missing|score\.weight is none of a GPT-2"):
        gptlab.load(tmp_path / "out")
