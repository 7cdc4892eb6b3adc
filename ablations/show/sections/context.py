"""What arms make of a long context, as tables: by position, by length, and what a length costs."""

import itertools

from ablations import numbers
from ablations.judge.result import Result
from ablations.show.table import Table, difference_cells
from models.base.typed import build
from models.config import ModelConfig
from models.cost import cost


def positions_table(result: Result) -> Table:
    """Empty where no context was measured."""
    ends = result.indices("loss_to_<i>")
    rows = []
    for arm in result.arms.values():
        cells = [numbers.fixed(arm.mean(f"loss_to_{end}"), 4) for end in ends]
        far = difference_cells(result.usual(arm, f"loss_to_{ends[-1]}"), 4)[:2] if ends else []
        rows.append([arm.name, *cells, *far])
    columns = ["arm", *(f"{begin + 1} to {end}" for begin, end in itertools.pairwise([0, *ends]))]
    note = (
        "Loss in nats per token by how many tokens stand before the one that is predicted, in contexts of the greatest "
        "length; the difference is that of the last column."
    )
    return Table("Loss by position", [*columns, "difference", "95 % interval"], rows if ends else [], note)


def contexts_table(result: Result) -> Table:
    """Passkeys and recall; empty where no context was measured."""
    lengths = result.indices("passkey_margin_<i>")
    rows = [
        [
            arm.name,
            *(numbers.fixed(arm.mean(f"passkey_margin_{length}"), 3) for length in lengths),
            *(numbers.fixed(arm.mean(f"recall_nats_{length}"), 3) for length in lengths),
        ]
        for arm in result.arms.values()
    ]
    columns = ["arm", *(f"passkey, {length}" for length in lengths), *(f"read twice, {length}" for length in lengths)]
    note = (
        "By the length of the context. Passkey: by how many nats a token of a passkey, hidden in test text and asked "
        "for at its end, is likelier than another drawn token, a mean over depths; 0 where none is found. Read twice: "
        "nats per token of a half of the context that is its other half once more; near the loss where that is not "
        "noticed."
    )
    return Table("Passkeys and recall by length", columns, rows if lengths else [], note)


def context_costs_table(result: Result) -> Table:
    """What each length costs, of every arm that costs something else; empty where no context was measured."""
    lengths, costs = result.indices("passkey_margin_<i>"), dict[tuple[str, ...], list[str]]()
    for arm in result.arms.values() if lengths else ():
        record = next((arm.records[seed] for seed in arm.of_status("complete")), None)
        if record is not None:
            model = build(ModelConfig, record.config["model"])
            found = [cost(model, length) for length in lengths]
            cells = [numbers.count(one.flops_per_token) for one in found]
            cells += [numbers.count(one.kv_bytes * length) for one, length in zip(found, lengths, strict=True)]
            costs.setdefault(tuple(cells), []).append(arm.name)
    every = len(costs) == 1
    rows = [["all" if every else ", ".join(names), *cells] for cells, names in costs.items()]
    columns = ["arm", *(f"FLOPs per token, {length}" for length in lengths)]
    columns += [f"cache bytes, {length}" for length in lengths]
    note = "Of training on contexts of a length (models/cost.py), and what the whole of one keeps in the cache."
    return Table("What a context costs", columns, rows, note, words=(0,))
