"""Files and folders that are not what a command takes them for: the rows of tests/ablations/bad_inputs.py name them."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

DEEP = "[" * 100_000
BYTES = bytes(range(256))


def make(place: Path, published: Path, runs: Path) -> dict[str, str]:
    """Under the folder `place`; returns what stands for what in a row."""
    (place / "sweeps").mkdir(parents=True)
    for name, content in FILES.items():
        put(place / name, content)
    for folder in ("empty_folder", "folder.svg", "sweeps/folder.yaml"):
        (place / folder).mkdir()
    (place / "loop.txt").symlink_to(place / "loop.txt")
    (place / "sweeps" / "link.yaml").symlink_to("/nowhere/at/all.yaml")
    put(place / "sweeps" / "big.yaml", f"question: {'x' * 2_000_000}\n")
    _archives(place)
    _checkpoints(place)
    places = {"in": place, "runs": runs, "published": published}
    places |= {name: place / name for name in ("broken", "ckpt", "hf")}
    return {name: str(path) for name, path in places.items()} | {"deep": "[" * 3000}


FILES: dict[str, str | bytes] = {
    "corpus.txt": "def f(): pass\n" * 2000,
    "rows.csv": "a,b\n1,2\n",
    "task_bad.yaml": "task: [x\n",
    "empty.yaml": "",
    "task_list.yaml": "- a\n- b\n",
    "binary.yaml": b"\xff\xfe\x00",
    "task_tag.yaml": "task: !!python/object/apply:os.getcwd []\n",
    "task_include.yaml": "include: nothing_there.yaml\ntask: mine\n",
    "sweeps/notes.yaml": "Just a note.\n",
    "sweeps/empty.yaml": "",
    "sweeps/binary.yaml": BYTES,
    "empty.zip": "",
    **{f"deep/{name}.json": DEEP for name in ("manifest", "plan", "state")},
    "broken/broken_plan/cpu/plan.json": "{",
    "broken/deep_plan/cpu/plan.json": DEEP,
    "broken/nan_plan/cpu/plan.json": '{"sweep": NaN}',
}


def put(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _archives(place: Path) -> None:
    def made(name: str, entries: list[str], method: int = zipfile.ZIP_STORED) -> bytes:
        with zipfile.ZipFile(place / name, "w", method) as archive:
            for entry in entries:
                archive.writestr(entry, "{}")
        return (place / name).read_bytes()

    made("slip.zip", ["../../plan.json", "/etc/x"])
    made("two.zip", ["a/plan.json", "b/plan.json"])
    put(place / "badname.zip", made("badname.zip", ["a/plan.jsé"]).replace("é".encode(), b"\xff\xfe"))
    packed = bytearray(made("lzma.zip", ["plan.json"], zipfile.ZIP_LZMA))
    packed[45:52] = b"\xff" * 7
    put(place / "lzma.zip", bytes(packed))


def _checkpoints(place: Path) -> None:
    import torch
    from safetensors.torch import save

    from models.config import ModelConfig
    from models.published import hf_config

    weights = save({"a": torch.zeros(1)})
    own = {"format": 2, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    configs: dict[str, str | bytes] = {
        "deep": DEEP,
        "list": "[]",
        "number": "9" * 5000,
        "binary": BYTES,
        "emptyconfig": "",
        "nan": '{"format": NaN, "model": {}}',
        "cut": json.dumps(own | {"model": {}}),
        "huge": json.dumps(own | {"model": {"d_model": 10_000_000, "n_layers": 1000}}),
    }
    for name, config in configs.items():
        put(place / "ckpt" / name / "config.json", config)
        put(place / "ckpt" / name / "model.safetensors", weights if name == "huge" else "cut")
        put(place / "ckpt" / name / "tokenizer.json", "{}")
    for name, content in (("config.json", "{}"), ("pytorch_model.bin", "x"), ("tokenizer.json", "{}")):
        put(place / "ckpt" / "pickle" / name, content)
    put(place / "other.safetensors", weights)
    theirs: dict[str, dict[str, Any]] = {
        "slip": {}, "absolute": {}, "cut": {},
        "hugelayers": {"num_hidden_layers": 10**7},
        "hugewidth": {"hidden_size": 10**7},
        "strings": {"hidden_size": "128"},
        "nan": {"rms_norm_eps": float("nan")},
    }  # fmt: skip
    shards = {"slip": "../other.safetensors", "absolute": str(place / "other.safetensors")}
    for name, changes in theirs.items():
        put(place / "hf" / name / "config.json", json.dumps(hf_config(ModelConfig()) | changes))
        if name in shards:
            index = {"weight_map": {"a": shards[name]}}
            put(place / "hf" / name / "model.safetensors.index.json", json.dumps(index))
        else:
            put(place / "hf" / name / "model.safetensors", "cut" if name == "cut" else weights)
