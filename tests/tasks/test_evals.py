"""lm-eval through our own LM: against loops written by hand, and items whose answer only the context gives away."""

import itertools
import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from models.base.typed import ConfigError
from tasks.config import EvalConfig
from tasks.evals import items, known, score
from tasks.evals.answers import answers
from tasks.evals.lm import HarnessLM
from tasks.evals.ways import Ways
from tasks.text.splits import Document

torch.set_num_threads(1)
VOCAB = 300


def code(n_documents: int, lines: int = 120, seed: int = 0) -> list[Document]:
    """Python-like text; `return self` and its like are as frequent as in real code."""
    rng = random.Random(seed)
    words = ["alpha", "beta", "gamma", "delta", "value", "index", "matrix", "vector", "symbol", "factor"]
    common = [
        "return self.value.simplify(deep)",
        "raise ValueError('not a symbol')",
        "result = matrix.expand(factor, x)",
    ]
    documents = []
    for number in range(n_documents):
        text = ["import math  # long enough to be the context of what follows"]
        text += ['"""A module', "documented = over several lines", '"""', "import cmath  # second"]
        while len(text) < lines:
            name = f"{rng.choice(words)}_{rng.choice(words)}{rng.randrange(40)}"
            text += ["", f"def {name}({rng.choice(words)}, {rng.choice(words)}):"]
            text += ["    # a comment that is long enough to be asked for"]
            for _ in range(rng.randrange(2, 7)):
                fresh = f"{rng.choice(words)}{rng.randrange(90)} = {name}.{rng.choice(words)}({rng.choice(words)})"
                text.append("    " + (rng.choice(common) if rng.random() < 0.3 else fresh))
        documents.append(Document(f"package/module_{number}.py", "\n".join(text) + "\n"))
    return documents


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return code(40)


@pytest.fixture(scope="module")
def tokenizer(documents: list[Document]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([document.text for document in documents], trainer)
    return tokenizer


def causal_model(seed: int = 0, width: int = 8) -> Any:
    """Logits that depend on every token to the left, and on none to the right."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(VOCAB, width, generator=generator)
    head = torch.randn(width, VOCAB, generator=generator)

    def logits(tokens_BT: torch.Tensor) -> torch.Tensor:
        decay_T = 0.9 ** torch.arange(tokens_BT.shape[1] - 1, -1, -1.0)
        states = (embedding[tokens_BT] * decay_T[:, None]).cumsum(1) / decay_T[:, None]
        return states @ head * 0.3

    return logits


class Data:
    """What `score` needs of tasks.text.batches.PackedData."""

    seq_len = 32

    def __init__(self, tokenizer: Tokenizer, documents: list[Document], name: str) -> None:
        self.tokenizer, self.text, self.fingerprint, self.read = tokenizer, documents, {"name": name}, list[str]()

    def documents(self, split: str) -> list[Document]:
        self.read.append(split)
        return self.text


def ask(*arguments: Any) -> Instance:
    return Instance("loglikelihood", {}, arguments, 0)


def by_hand(logits: Any, context: list[int], targets: list[int]) -> tuple[float, bool]:
    """Log-probability of `targets` after `context`, one token at a time, without padding."""
    total, greedy, tokens = 0.0, True, list(context)
    for target in targets:
        log_probability = logits(torch.tensor([tokens]))[0, -1].double().log_softmax(-1)
        total += float(log_probability[target])
        greedy &= int(log_probability.argmax()) == target
        tokens.append(target)
    return total, greedy


def test_loglikelihood_matches_a_loop_without_batches(tokenizer: Tokenizer) -> None:
    logits = causal_model()
    pairs = [("def alpha(", "value):"), ("x", " = gamma"), ("", "return"), ("import math\n", "import vector_matrix")]
    lm = HarnessLM(logits, tokenizer, max_length=64)
    scores = lm.loglikelihood([ask(*pair) for pair in pairs])
    for (context, continuation), (log_probability, greedy) in zip(pairs, scores, strict=True):
        moved = context[len(context.rstrip()) :]  # lm-eval scores trailing whitespace with the continuation
        before = tokenizer.encode(context.rstrip()).ids or [0]
        expected = by_hand(logits, before, tokenizer.encode(moved + continuation).ids)
        assert log_probability == pytest.approx(expected[0], abs=1e-4)
        assert greedy == expected[1]


def test_greedy_is_true_for_the_argmax_continuation(tokenizer: Tokenizer) -> None:
    logits = causal_model()
    context = tokenizer.encode("def alpha").ids
    best = int(logits(torch.tensor([context]))[0, -1].argmax())
    lm = HarnessLM(logits, tokenizer, max_length=64)
    answers = lm._loglikelihood_tokens([(("", ""), context, [best]), (("", ""), context, [(best + 1) % VOCAB])])
    assert [greedy for _, greedy in answers] == [True, False]


def test_of_equally_likely_tokens_the_first_would_be_written(tokenizer: Tokenizer) -> None:
    tied = torch.zeros(VOCAB)
    tied[[5, 9]] = 1.0
    lm = HarnessLM(lambda tokens: tied.expand(*tokens.shape, VOCAB), tokenizer, max_length=64)
    answers = lm._loglikelihood_tokens([(("", ""), [1, 2], [target]) for target in (5, 9, 4)])
    assert [greedy for _, greedy in answers] == [True, False, False]


def test_result_does_not_depend_on_batching(tokenizer: Tokenizer, documents: list[Document]) -> None:
    rng = random.Random(1)
    text = documents[0].text
    requests = [ask(text[a : a + rng.randrange(1, 300)], text[a + 300 : a + 310]) for a in range(0, 1500, 50)]
    rolling = [ask(text[a : a + rng.randrange(5, 900)]) for a in range(0, 1500, 100)]
    alone = HarnessLM(causal_model(), tokenizer, max_length=32, batch_tokens=1)
    together = HarnessLM(causal_model(), tokenizer, max_length=32, batch_tokens=500)
    assert together.loglikelihood_rolling(rolling) == pytest.approx(alone.loglikelihood_rolling(rolling), abs=1e-3)
    for one, other in zip(alone.loglikelihood(requests), together.loglikelihood(requests), strict=True):
        assert one[0] == pytest.approx(other[0], abs=1e-4)
        assert one[1] == other[1]


def test_batches_stay_within_the_token_budget(tokenizer: Tokenizer, documents: list[Document]) -> None:
    shapes = []

    def logits(tokens_BT: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(tokens_BT.shape))
        return causal_model()(tokens_BT)

    lm = HarnessLM(logits, tokenizer, max_length=32, batch_tokens=200)
    lm.loglikelihood_rolling([ask(document.text[:400]) for document in documents[:5]])
    assert max(rows * length for rows, length in shapes) <= 200
    assert max(rows for rows, _ in shapes) > 1
    assert max(length for _, length in shapes) == 32


def test_long_context_loses_its_beginning(tokenizer: Tokenizer, documents: list[Document]) -> None:
    logits = causal_model()
    context, continuation = tokenizer.encode(documents[0].text[:400]).ids, [5, 6, 7]
    lm = HarnessLM(logits, tokenizer, max_length=16)
    # 16 inputs: the last target is only predicted, so 14 tokens of context remain before the two fed targets.
    expected, _ = by_hand(logits, context[-14:], continuation)
    assert lm._loglikelihood_tokens([(("", ""), context, continuation)])[0][0] == pytest.approx(expected, abs=1e-4)


def hand_windows(tokens: list[int], prefix: int, length: int) -> list[tuple[list[int], list[int]]]:
    """Every token predicted once; the last window reaches back so that it is as long as the others."""
    windows = []
    for start in range(0, len(tokens), length):
        targets = tokens[start : start + length]
        back = ([prefix] + tokens)[: start + 1]
        windows.append((back[-(length - len(targets) + 1) :], targets))
    return windows


def test_continuation_longer_than_the_model_is_scored_whole(tokenizer: Tokenizer, documents: list[Document]) -> None:
    logits = causal_model()
    context, continuation = [9, 8, 7], tokenizer.encode(documents[0].text[:200]).ids
    assert len(continuation) > 32
    lm = HarnessLM(logits, tokenizer, max_length=16)
    expected = sum(by_hand(logits, *window)[0] for window in hand_windows(continuation, 7, 16))
    answer = lm._loglikelihood_tokens([(("", ""), context, continuation)])[0]
    assert answer[0] == pytest.approx(expected, abs=1e-3)


def test_generation_is_greedy_stops_and_does_not_depend_on_batching(tokenizer: Tokenizer) -> None:
    logits = causal_model(seed=3)
    contexts = ["def alpha(", "x", "import math and much more than that", ""]

    def generate(batch_tokens: int, **arguments: Any) -> list[str]:
        lm = HarnessLM(logits, tokenizer, max_length=16, batch_tokens=batch_tokens)
        return lm.generate_until([Instance("generate_until", {}, (c, arguments), 0) for c in contexts])

    texts = generate(64, max_gen_toks=12)
    assert texts == generate(1, max_gen_toks=12)
    for context, text in zip(contexts, texts, strict=True):
        tokens = (tokenizer.encode(context).ids or [0])[-4:]  # the rest of 16 is for what is new
        new = list[int]()
        for _ in range(12):
            token = int(logits(torch.tensor([tokens + new]))[0, -1].argmax())
            if token == 0:
                break
            new.append(token)
        assert text == tokenizer.decode(new)
    stop = texts[0][3:5]
    assert generate(64, max_gen_toks=12, until=[stop])[0] == texts[0][: texts[0].index(stop)]
    assert generate(64, max_gen_toks=12, until=stop) == generate(64, max_gen_toks=12, until=[stop])
    with pytest.raises(ConfigError, match="do_sample"):
        generate(64, do_sample=True)


def test_generation_ends_at_the_end_token(tokenizer: Tokenizer) -> None:
    table = torch.zeros(VOCAB, VOCAB)
    table[5, 6] = table[6, 7] = table[7, 0] = table[0, 9] = 1.0
    lm = HarnessLM(lambda tokens: table[tokens], tokenizer, max_length=16)
    context = tokenizer.decode([5])
    assert tokenizer.encode(context).ids == [5]
    assert lm.generate_until([ask(context, {"max_gen_toks": 10})]) == [tokenizer.decode([6, 7])]


def test_cloze_items_are_real_continuations_with_matched_distractors(documents: list[Document]) -> None:
    found = items.cloze(documents)
    assert len(found) >= 1000
    lines = {document.name: document.text.split("\n") for document in documents}
    everywhere = {line for text in lines.values() for line in text}
    for item in found:
        here, number = lines[item["document"]], item["line"]
        gold = item["choices"][item["gold"]]
        context = item["context"].split("\n")[:-1]
        assert gold == here[number]
        assert context == here[number - len(context) : number]
        assert 40 <= len(item["context"]) <= 96
        assert len(set(item["choices"])) == 4
        assert set(item["choices"]) <= everywhere
        lengths = [len(choice.lstrip()) for choice in item["choices"]]
        assert max(lengths) <= 1.25 * min(lengths)
        assert len({len(choice) - len(choice.lstrip()) for choice in item["choices"]}) == 1
        for choice in item["choices"]:
            assert len("".join(choice.split())) >= 8
            assert not choice.lstrip().startswith("#")
            assert '"""' not in choice
            assert choice != "documented = over several lines"
    positions = Counter(item["gold"] for item in found)
    assert all(abs(positions[p] - len(found) / 4) < 4 * math.sqrt(len(found) * 3 / 16) for p in range(4))


def test_without_the_context_no_cue_finds_the_gold_line(documents: list[Document]) -> None:
    """Neither frequency nor length of a line may beat chance: accuracies lie within 4 SE of it."""
    found = items.cloze(documents)
    frequency = Counter(line for document in documents for line in document.text.split("\n"))
    cues = {
        "frequent": lambda choice: (frequency[choice], hash(choice)),
        "rare": lambda choice: (-frequency[choice], hash(choice)),
        "long": lambda choice: (len(choice), hash(choice)),
        "short": lambda choice: (-len(choice), hash(choice)),
    }
    for name, cue in cues.items():
        hits = sum(max(range(4), key=lambda i: cue(item["choices"][i])) == item["gold"] for item in found)
        assert abs(hits / len(found) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / len(found)), name


def test_items_depend_on_the_documents_alone(documents: list[Document], tmp_path: Path) -> None:
    first = items.write_items("python_cloze", documents, tmp_path / "a")
    again = items.write_items("python_cloze", documents, tmp_path / "b")
    other = items.write_items("python_cloze", documents[1:], tmp_path / "b")
    assert (first.name, first.read_bytes()) == (again.name, again.read_bytes())
    assert other.name != first.name
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == sorted([again.name, other.name])
    stamp = first.stat().st_mtime_ns
    assert items.write_items("python_cloze", documents, tmp_path / "a").stat().st_mtime_ns == stamp


def test_items_that_are_not_as_they_were_written_are_made_again(documents: list[Document], tmp_path: Path) -> None:
    whole = items.write_items("python_cloze", documents, tmp_path)
    content = whole.read_bytes()
    for damaged in (content[: len(content) // 2], content.replace(b"0", b"1"), b""):
        whole.write_bytes(damaged)
        assert items.write_items("python_cloze", documents, tmp_path) == whole and whole.read_bytes() == content
    rows = [{"context": "a", "answer": "b"}]
    given = items.write_given("skill_answers", rows, tmp_path)
    given.write_text("{}")
    assert items.write_given("skill_answers", rows, tmp_path) == given and items.read_items(given) == rows


def test_excerpts_are_bounded_disjoint_and_spread(documents: list[Document]) -> None:
    found = items.excerpts(documents)
    by_name = {document.name: document.text.encode() for document in documents}
    assert len(found) == 64
    assert len({item["document"] for item in found}) > 20
    for item in found:
        size = len(item["text"].encode())
        assert 256 <= size <= 2048
        assert by_name[item["document"]][item["offset"] : item["offset"] + size] == item["text"].encode()
        assert item["text"].endswith("\n")
    spans = sorted((item["document"], item["offset"], len(item["text"].encode())) for item in found)
    assert all(a[0] != b[0] or a[1] + a[2] <= b[1] for a, b in itertools.pairwise(spans))


def test_bits_per_byte_equals_a_loop_by_hand(tokenizer: Tokenizer, documents: list[Document], tmp_path: Path) -> None:
    logits, data = causal_model(), Data(tokenizer, documents, "bits")
    config = EvalConfig(tasks=["python_bits_per_byte"], items=4)
    row = score.score(logits, data, config, tmp_path)["python_bits_per_byte"]
    nats = size = 0.0
    for item in items.excerpts(documents)[:4]:
        for context, targets in hand_windows(tokenizer.encode(item["text"]).ids, 0, data.seq_len):
            log_T = logits(torch.tensor([context + targets[:-1]]))[0].double().log_softmax(-1)[-len(targets) :]
            nats -= float(log_T.gather(-1, torch.tensor(targets)[:, None]).sum())
        size += len(item["text"].encode())
    assert row["bits_per_byte"] == pytest.approx(nats / size / math.log(2), rel=1e-6)
    assert row["n"] == 4
    assert row["bits_per_byte_stderr"] is None


def test_cloze_rewards_a_model_that_knows_the_text(
    tokenizer: Tokenizer, documents: list[Document], tmp_path: Path
) -> None:
    counts = torch.full((VOCAB, VOCAB), 0.1)
    for document in documents:
        tokens = torch.tensor(tokenizer.encode(document.text).ids)
        counts.index_put_((tokens[:-1], tokens[1:]), torch.tensor(1.0), accumulate=True)
    bigram = counts.log()
    data = Data(tokenizer, documents, "knows")
    config = EvalConfig(tasks=["python_cloze"], items=300)
    informed = score.score(lambda tokens: bigram[tokens], data, config, tmp_path)["python_cloze"]
    flat = score.score(lambda tokens: torch.zeros(*tokens.shape, VOCAB), data, config, tmp_path)["python_cloze"]
    assert informed["chance"] == flat["chance"] == 0.25
    assert informed["n"] == 300
    assert len(informed["items"]) == 300
    assert informed["items"].count("1") / 300 == pytest.approx(informed["acc"])
    assert informed["acc_stderr"] == pytest.approx(math.sqrt(informed["acc"] * (1 - informed["acc"]) / 299))
    assert abs(flat["acc"] - 0.25) < 0.1
    assert informed["answer_bits_per_byte"] < flat["answer_bits_per_byte"]
    assert informed["answer_margin"] > flat["answer_margin"]
    assert data.read == ["test"]  # the second call reads no documents


def test_an_answers_bits_and_its_margin_are_those_worked_out_by_hand() -> None:
    nats = [-2 * math.log(2), -3 * math.log(2), -8 * math.log(2)]
    item = {"target": 1, "arguments": [("q", "a"), ("q", "bc"), ("q", "dé")], "filtered_resps": [(x, 0) for x in nats]}
    assert answers([item]) == pytest.approx({"answer_bits_per_byte": 1.5, "answer_margin": 2 - 1.5})  # é is two bytes
    wrong = {**item, "target": 2}
    assert answers([wrong])["answer_margin"] == pytest.approx(1.5 - 8 / 3)
    assert answers([item, wrong])["answer_bits_per_byte"] == pytest.approx((1.5 + 8 / 3) / 2)
    assert answers([{**item, "target": [0, 1]}]) == answers([{**item, "target": "b"}]) == {}


def test_scores_of_a_model_that_gives_no_numbers_are_json_too(
    tokenizer: Tokenizer, documents: list[Document], tmp_path: Path
) -> None:
    data = Data(tokenizer, documents, "nothing")
    found = score.score(
        lambda tokens: torch.full((*tokens.shape, tokenizer.get_vocab_size()), math.nan),
        data,
        EvalConfig(items=20),
        tmp_path,
    )
    json.dumps(found, allow_nan=False)
    assert found["python_cloze"]["answer_margin"] is None and found["python_bits_per_byte"]["bits_per_byte"] is None


def test_scores_are_json_deterministic_and_quiet(
    tokenizer: Tokenizer,
    documents: list[Document],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: Any,
) -> None:
    def no_index() -> None:
        raise AssertionError("our own tasks must not build lm-eval's index of all tasks")

    monkeypatch.setattr(known, "_standard_tasks", no_index)
    data = Data(tokenizer, documents, "quiet")
    config = EvalConfig(items=20)
    capfd.readouterr()
    first = score.score(causal_model(), data, config, tmp_path)
    second = score.score(causal_model(), data, config, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert list(first) == ["python_bits_per_byte", "python_cloze"]
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)
    other_split = score.score(causal_model(), data, EvalConfig(items=20, split="validation"), tmp_path)
    assert data.read == ["test", "validation"]
    assert other_split == first


def test_a_task_file_of_ones_own(
    tokenizer: Tokenizer, documents: list[Document], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [{"q": "1 + 1 =", "options": ["2", "3", "4"], "answer": i % 3, "text": "2"} for i in range(6)]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    head = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {questions}}}}}\ntest_split: test\n"
    choice = "output_type: multiple_choice\ndoc_to_text: q\ndoc_to_choice: options\ndoc_to_target: answer\n"
    (tmp_path / "choice.yaml").write_text("task: my_choice\n" + head + choice)
    generate = (
        "output_type: generate_until\ndoc_to_text: q\ndoc_to_target: text\ngeneration_kwargs: {max_gen_toks: 3}\n"
    )
    metric = "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    (tmp_path / "generate.yaml").write_text("task: my_generation\n" + head + generate + metric)
    config = EvalConfig(tasks=[str(tmp_path / "choice.yaml"), str(tmp_path / "generate.yaml")], items=None)
    capfd.readouterr()
    scores = score.score(causal_model(), Data(tokenizer, documents, "own"), config, tmp_path / "cache")
    assert capfd.readouterr() == ("", "")
    assert scores["my_choice"]["chance"] == pytest.approx(1 / 3)
    assert scores["my_choice"]["acc"] == pytest.approx(1 / 3)  # the same question, each option right twice
    assert len(scores["my_choice"]["items"]) == 6
    assert {"answer_bits_per_byte", "answer_margin"} <= scores["my_choice"].keys()
    assert "answer_margin" not in scores["my_generation"]
    assert scores["my_generation"]["n"] == 6
    assert "chance" not in scores["my_generation"]
    assert any((tmp_path / "cache" / "huggingface" / "datasets").iterdir())
    questions.write_text("not json")
    broken = tmp_path / "broken.yaml"
    broken.write_text("task: my_broken\n" + head.replace("questions", "absent") + choice)
    with pytest.raises(ConfigError, match=r"broken.yaml: cannot be loaded with its data"):
        score.score(causal_model(), Data(tokenizer, documents, "own"), EvalConfig(tasks=[str(broken)]), tmp_path)


def test_our_own_tasks_are_not_scored_in_trees(tokenizer: Tokenizer, documents: list[Document], tmp_path: Path) -> None:
    """Published scores of theirs are of texts read one by one; other tasks may read once what texts share."""
    rows = [{"q": "1 + 1 =", "options": ["2", "3"], "answer": 0}] * 3
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: q\n"
        "doc_to_choice: options\ndoc_to_target: answer\n"
    )
    asked = []

    def trees(tokens: torch.Tensor, depths: Any, sees: Any, rows_N: torch.Tensor, columns_N: torch.Tensor) -> Any:
        asked.append(len(rows_N))
        return torch.zeros(len(rows_N), VOCAB).split(3)

    data, ours = Data(tokenizer, documents, "apart"), EvalConfig(items=5)
    plain = score.score(causal_model(), data, ours, tmp_path)
    assert score.score(causal_model(), data, ours, tmp_path, Ways(tree_logits=trees)) == plain and not asked
    both = EvalConfig(items=5, tasks=[str(mine), *ours.tasks])
    found = score.score(causal_model(), data, both, tmp_path, Ways(tree_logits=trees))
    assert asked and found["mine"]["n"] == 3 and {name: found[name] for name in plain} == plain
