"""Perplexities by document: against lm-eval's own values, and intervals that hold what they promise."""

import math
from typing import Any

import numpy as np
import pytest
from lm_eval.api.metrics import perplexity as their_perplexity
from lm_eval.api.metrics import weighted_perplexity

from tasks.evals.perplexities import LEAST, UNITS, by_document, interval, perplexity


def texts(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nats and bytes of documents whose lengths are as different as a corpus' are, long ones a little easier."""
    sizes = np.exp(rng.normal(7, 0.7, count)).round()
    return sizes * (1.3 - 0.03 * np.log(sizes)) * np.exp(rng.normal(0, 0.15, count)), sizes


def samples(count: int = 24, **more: Any) -> list[dict[str, Any]]:
    nats, sizes = texts(np.random.default_rng(3), count)
    rows = []
    for x, size in zip(nats, sizes, strict=True):
        bytes_, words = (-float(x), int(size)), (-float(x), int(size) // 5)
        rows.append({"doc": {}, "byte_perplexity": bytes_, "bits_per_byte": bytes_, "word_perplexity": words, **more})
    return rows


def test_values_are_lm_evals_and_lie_within_their_intervals() -> None:
    rows = samples()
    found = by_document(rows)
    documents = found["documents"]
    assert sorted(documents) == ["bytes", "nats", "words"] and {len(c) for c in documents.values()} == {24}
    for metric in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        expected = weighted_perplexity([row[metric] for row in rows])
        if metric == "bits_per_byte":
            expected = math.log2(expected)
        value = perplexity(metric, sum(documents["nats"]), sum(documents[UNITS[metric]]))
        assert value == pytest.approx(expected, rel=1e-12)
        low, high = found[f"{metric}_interval"]
        assert low < value < high
    words, bytes_ = (found[f"{metric}_interval"] for metric in ("byte_perplexity", "bits_per_byte"))
    assert np.log2(words) == pytest.approx(bytes_), "the same draws, in another unit"
    assert by_document(rows) == found


def test_an_answer_is_one_unit_of_a_perplexity() -> None:
    rows = [{"doc": {}, "perplexity": -x, "acc": 1} for x in np.linspace(1, 4, 30)]
    found = by_document(rows)
    assert found["documents"]["answers"] == [1] * 30
    low, high = found["perplexity_interval"]
    assert low < their_perplexity([row["perplexity"] for row in rows]) < high
    assert by_document([{"doc": {}, "acc": 1}]) == {}


def test_pieces_of_one_document_are_one() -> None:
    rows = samples(60)
    for i, row in enumerate(rows):
        row["doc"] = {"document": f"file {i // 2}"}
    alone, together = by_document(samples(60)), by_document(rows)
    assert len(together["documents"]["bytes"]) == 30
    assert sum(together["documents"]["bytes"]) == sum(alone["documents"]["bytes"])
    repeated = [row for row in samples(30) for _ in range(4)]
    for i, row in enumerate(repeated):
        repeated[i] = {**row, "doc": {"document": i // 4}}
    assert by_document(repeated)["bits_per_byte_interval"] == pytest.approx(
        by_document(samples(30))["bits_per_byte_interval"]
    ), "four copies of a document tell no more than one"


@pytest.mark.parametrize(
    ("nats", "units"),
    [([1.0] * (LEAST - 1), range(1, LEAST)), ([1.0] * 30, [2] * 30), ([math.inf, *[1.0] * 29], range(1, 31))],
)
def test_no_interval_where_there_is_none(nats: list[float], units: Any) -> None:
    assert interval("bits_per_byte", nats, list(units)) is None
    rows = [{"doc": {}, "bits_per_byte": (-x, unit)} for x, unit in zip(nats, units, strict=True)]
    found = by_document(rows)
    assert "bits_per_byte_interval" not in found
    assert found["documents"]["nats"] == [x if math.isfinite(x) else None for x in nats], "JSON has no infinity"


def test_intervals_hold_other_documents_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    nats, sizes = texts(rng, 1_000_000)
    truth = perplexity("bits_per_byte", nats.sum(), sizes.sum())
    held = 0
    for _ in range(200):
        found = interval("bits_per_byte", *(list(column) for column in texts(rng, 25)))
        assert found is not None
        held += found[0] <= truth <= found[1]
    assert 0.91 <= held / 200 <= 0.98
