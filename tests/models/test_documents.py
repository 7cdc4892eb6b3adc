"""Packing with attention kept within documents: a packed window is its documents one by one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.transformer import Transformer

Built = Callable[..., Transformer]
Tokens = Callable[..., Tensor]
KINDS: dict[str, dict[str, Any]] = {
    "mla": {},
    "mha": {"attention.kind": "mha"},
    "gqa": {"attention.kind": "gqa", "attention.n_heads": 6, "attention.n_kv_heads": 2},
    "mqa": {"attention.kind": "mqa"},
}
END, LENGTHS = 60, (5, 1, 7, 4)
"""The token that ends a document, and how long those of the packed window are; the last one is cut off."""


@pytest.fixture(params=["explicit products", "SDPA"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.attention.EXPLICIT_MAX_SCORES", 10**9 if request.param == "explicit products" else 0)


def documents(tokens: Tokens) -> list[Tensor]:
    """(1, length) each."""
    found = [tokens(1, length, seed=i) % END for i, length in enumerate(LENGTHS)]
    for document in found[:-1]:
        document[:, -1] = END
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_window_is_its_documents_one_by_one(built: Built, tokens: Tokens, kind: str, way: None) -> None:
    """Logits, those of the MTP modules too, as far as their tokens lie in the document; other rows pack otherwise."""
    changes = KINDS[kind] | {"mtp.depth": 2, "rope.scaling": "yarn", "rope.factor": 4.0, "rope.original_length": 16}
    model = built(changes)
    parts = documents(tokens)
    other = [parts[1], parts[2], parts[0], parts[3]]
    packed = torch.cat([torch.cat(parts, dim=1), torch.cat(other, dim=1)])
    with torch.no_grad():
        output = model(packed, mtp=True, document_end=END)
        for row, order in enumerate((parts, other)):
            start = 0
            for part in order:
                length = part.shape[1]
                alone = model(part, mtp=length > 2, document_end=END)
                torch.testing.assert_close(
                    output.logits[row, start : start + length], alone.logits[0], rtol=0, atol=1e-11
                )
                for k, logits in enumerate(alone.mtp_logits, start=1):
                    found = output.mtp_logits[k - 1][row, start : start + length - k]
                    torch.testing.assert_close(found, logits[0], rtol=0, atol=1e-11)
                start += length
        across = (model(packed).logits - output.logits).abs().amax(dim=-1)
    assert float(across[0, : LENGTHS[0]].max()) < 1e-12, "the first document has nothing before it"
    assert float(across[0, LENGTHS[0] :].min()) > 1e-4, "without the mask, every later one reads what came before"


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_do_not_cross_documents(built: Built, tokens: Tokens, kind: str, way: None) -> None:
    """From one document's logits to the embedded tokens of its own past alone: exactly 0 elsewhere."""
    model = built(KINDS[kind])
    packed = torch.cat(documents(tokens), dim=1)
    embedded: list[Tensor] = []

    def keep(module: object, inputs: object, out: Tensor) -> None:
        out.retain_grad()
        embedded.append(out)

    model.model.embed_tokens.register_forward_hook(keep)
    for end, first in ((END, 6), (None, 0)):
        fourth = model(packed, document_end=end).logits[0, 9]  # of the third document, which begins at 6
        fourth.square().sum().backward()
        gradient = embedded.pop().grad
        assert gradient is not None
        reached = gradient[0].abs().amax(dim=-1)
        assert reached.gt(0).nonzero().flatten().tolist() == list(range(first, 10))
        model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("kind", KINDS)
def test_within_documents_it_stays_causal(built: Built, tokens: Tokens, kind: str) -> None:
    model, batch = built(KINDS[kind]), torch.cat(documents(tokens), dim=1)
    changed = batch.clone()
    changed[0, 9] = (changed[0, 9] + 1) % END
    with torch.no_grad():
        now, before = (model(x, document_end=END).logits for x in (changed, batch))
        moved = (now - before)[0].abs().amax(dim=-1)
    assert moved.gt(1e-6).nonzero().flatten().tolist() == [9, 10, 11, 12]
    assert float(moved[:9].max()) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_without_an_end_in_it_a_window_is_one_document(built: Built, tokens: Tokens, kind: str) -> None:
    """With a token that never comes, the same up to rounding; and nothing of it stays behind."""
    model, batch = built(KINDS[kind]), tokens(2, 12) % END
    with torch.no_grad():
        plain = model(batch).logits
        torch.testing.assert_close(model(batch, document_end=END).logits, plain, rtol=0, atol=1e-12)
        assert torch.equal(model(batch).logits, plain)
