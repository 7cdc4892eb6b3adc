"""To and from the Hugging Face checkpoint format of DeepSeek-V3, `deepseek_v3`, as it was published.

    python -m models.convert to-hf CHECKPOINT OUT     our checkpoint -> such a folder, with all that their tools read
    python -m models.convert from-hf DIR OUT          such a folder, sharded or not -> our checkpoint

Tensors keep their bits (BF16 and FP16 become FP32 master weights, which is exact). MTP modules are the layers after the
last one, each with its copy of the shared embedding and head; where a folder holds none of their tensors, they are
dropped, whatever its config says (transformers saves it so). A router without a bias is written with a bias of zeros.
What `deepseek_v3` has no field for (balance, MTP weights, compute type, ...; data keys) rides along under
`v3_ablations` in config.json; a folder without it gets our defaults, its MTP modules the hidden state that published
ones need (`model.mtp.hidden`), and its own length as `data.seq_len`. How a model is asked (`chat_template`, of one that
has learned a problem) goes to tokenizer_config.json. A model that the format cannot hold is refused.
"""

import argparse
import dataclasses
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from models.base.files import whole_folder
from models.base.streams import obeyed, spoken
from models.base.typed import ConfigError, build
from models.beside import check_kinds, without_places
from models.checkpoint import OWN, load_checkpoint, save_checkpoint
from models.config import BalanceConfig, ModelConfig
from models.cost import cost
from models.published import check_held, hf_config, model_config, positions
from models.rules import validate
from models.sizes import size
from models.transformer import Transformer
from models.vocabulary import (
    END_OF_TEXT,
    NO_END,
    TOKENIZER_FILES,
    end_of_text,
    named_token,
    read_json,
    require_markers,
    token_ids,
    tokenizer_config,
)

EXPERTS: dict[str, dict[str, int | None]] = {
    "gate_up_proj": {"gate_proj": 0, "up_proj": 1},
    "down_proj": {"down_proj": None},
}
"""Our matrices of all experts -> each expert's own, and which half of the rows that is."""

MTP_COPIES = {"embed_tokens.weight": "model.embed_tokens.weight", "shared_head.head.weight": "lm_head.weight"}


class Entry(NamedTuple):
    theirs: str
    ours: str
    expert: tuple[int, int | None] | None = None
    """Of all experts' matrices: the expert, and which half of its rows."""
    copy: bool = False
    """True where they repeat a tensor that we keep once."""

    def view(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """What of our tensors is this one of theirs."""
        whole = tensors[self.ours]
        if self.expert is None:
            return whole
        matrix, half = whole[self.expert[0]], self.expert[1]
        return matrix if half is None else matrix.chunk(2)[half]


def layout(config: ModelConfig) -> tuple[dict[str, torch.Size], list[Entry]]:
    """The shapes of our tensors by name, with the bias that every published router has and the shared experts that it
    has even with width 0; and one entry per tensor of theirs."""
    biased = dataclasses.replace(config.moe, balance=BalanceConfig(kind="bias"))
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in Transformer(dataclasses.replace(config, moe=biased)).state_dict().items()}
    if not config.moe.n_shared_experts:
        for name in [name for name in shapes if name.endswith(".mlp.gate.weight")]:
            shared = name.replace("gate.weight", "shared_experts.{}.weight").format
            shapes |= {shared(matrix): torch.Size((0, config.d_model)) for matrix in ("gate_proj", "up_proj")}
            shapes[shared("down_proj")] = torch.Size((config.d_model, 0))

    def rename(match: re.Match[str]) -> str:
        part = {"norm.": "shared_head.norm.", "block.": ""}.get(match[2] or "", "")
        return f"model.layers.{config.n_layers + int(match[1])}.{part}"

    entries = []
    for ours, shape in shapes.items():
        theirs = re.sub(r"^mtp\.(\d+)\.(norm\.|block\.)?", rename, ours)
        folder, experts, matrix = theirs.rpartition(".experts.")
        if not experts:
            entries.append(Entry(theirs, ours))
            continue
        for e in range(shape[0]):
            entries += [
                Entry(f"{folder}.experts.{e}.{n}.weight", ours, (e, rows)) for n, rows in EXPERTS[matrix].items()
            ]
    for layer in range(config.n_layers, config.n_layers + config.mtp.depth):
        entries += [Entry(f"model.layers.{layer}.{n}", ours, copy=True) for n, ours in MTP_COPIES.items()]
    return shapes, entries


def to_hf(checkpoint: Path, out: Path) -> list[str]:
    """Write `checkpoint` as a folder that transformers, and other readers of DeepSeek-V3, load. Returns what they will
    not do as we do."""
    with _new_folder(out) as folder:
        model, saved = load_checkpoint(checkpoint)
        check_held(model.config)
        check_kinds(saved, f"{checkpoint}: config.json: ")
        ids = token_ids(checkpoint)  # of whose file is meant, before there is a copy
        _copy_tokenizer(checkpoint, folder)
        values = hf_config(model.config, (saved.get("data") or {}).get("seq_len"))
        values |= _write_tokens(folder, saved, values["max_position_embeddings"])
        rest = {key: value for key, value in saved.items() if key not in (*OWN, "chat_template")}
        if data := saved.get("data"):
            rest["data"] = without_places(data)
        rest["model"] = _difference(dataclasses.asdict(model.config), dataclasses.asdict(model_config(values)))
        shapes, entries = layout(model.config)
        ours = model.state_dict()
        ours |= {name: torch.zeros(shape) for name, shape in shapes.items() if name not in ours}
        tensors = {entry.theirs: entry.view(ours).clone() for entry in entries}
        # not save_file, which leaves a file that its owner alone may read
        (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
        _write_json(folder / "config.json", values | {"v3_ablations": rest})
    notes = [f"{checkpoint}: {NO_END}"] if values["eos_token_id"] is None and ids else []
    if not ids:
        notes.append(f"{checkpoint}: has no tokenizer.json; {out} has none, and others cannot read text with it")
    if model.config.mtp.depth and model.config.mtp.hidden == "before_norm":
        notes.append("model.mtp.hidden=before_norm: others feed MTP modules after_norm, so drafts will be worse there")
    return notes


def _write_tokens(folder: Path, saved: Mapping[str, Any], length: int) -> dict[str, int]:
    """Beside the tokenizer of `folder` what says how to use it. Returns config.json's part of that, which is nothing
    where no token ends a text. `saved`: our own config.json, whose `end_of_text` and `chat_template` it takes."""
    ids, end, template = token_ids(folder), saved.get("end_of_text") or END_OF_TEXT, saved.get("chat_template")
    if end not in ids:
        if saved.get("end_of_text") and ids:
            raise ConfigError(f"end_of_text={end}: no such token in tokenizer.json; name one of its own in config.json")
        return {}
    if not (folder / "tokenizer_config.json").exists():
        if template:
            require_markers(template, ids)
        _write_json(folder / "tokenizer_config.json", tokenizer_config(end, length, template))
    begin = named_token(folder, "bos_token") or end
    special = {"bos_token_id": ids.get(begin, ids[end]), "eos_token_id": ids[end]}
    _write_json(folder / "generation_config.json", {**special, "pad_token_id": ids[end]})
    return special


def from_hf(source: Path, out: Path) -> list[str]:
    """Read such a folder into our checkpoint format. Returns what the checkpoint lacks."""
    with _new_folder(out) as folder:
        values = read_json(source / "config.json")
        try:
            files = _files(source)
            config, rest = _resolve(values, files)
            model = _read_model(config, files)
        except SafetensorError as error:
            raise ConfigError(f"{source}: unreadable ({error}); it is truncated or not safetensors") from error
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error
        end = end_of_text(source, values)
        rest.pop("end_of_text", None)
        save_checkpoint(folder, model, rest if end in (None, END_OF_TEXT) else {**rest, "end_of_text": end})
        _copy_tokenizer(source, folder)
    return [f"{source}: {NO_END}"] if end is None and token_ids(source) else []


def _resolve(values: dict[str, Any], names: Mapping[str, Path]) -> tuple[ModelConfig, dict[str, Any]]:
    """The model's config, and what else rode along."""
    layers = values.get("num_hidden_layers", size("deepseek_v3")[0].n_layers)
    if not any(name.startswith(f"model.layers.{layers}.") for name in names):
        values = values | {"num_nextn_predict_layers": 0}
    config = base = model_config(values)
    rest, unused = values.get("v3_ablations"), {"max_position_embeddings": None}
    if not rest:  # as a stranger trained it
        if config.mtp.depth:
            config = dataclasses.replace(config, mtp=dataclasses.replace(config.mtp, hidden="after_norm"))
        rest = {"data": {"seq_len": positions(values)}}
    if not isinstance(rest, Mapping) or not isinstance(rest.get("model", {}), Mapping):
        raise ConfigError("v3_ablations: expected a group of keys")
    check_kinds(rest, "v3_ablations.")
    if rest.get("model"):
        config = build(ModelConfig, _merged(dataclasses.asdict(base), rest["model"]), "v3_ablations.model")
        validate(config)
        if hf_config(config) | unused != hf_config(base) | unused:
            raise ConfigError("v3_ablations.model: contradicts the fields beside it; remove it for our defaults")
    check_held(config)
    return config, {key: value for key, value in rest.items() if key not in OWN}


def _check_held(config: ModelConfig, files: Mapping[str, Path]) -> None:
    """Raise ConfigError, before a model of any size is laid out, for more parameters than the files have bytes for."""
    held, wanted = sum(file.stat().st_size for file in set(files.values())) // 2, cost(config, 1).total_params
    if wanted > held:
        raise ConfigError(
            f"config.json: describes {wanted:,} parameters, and the safetensors beside it can hold {held:,} of 16 bits"
        )


def _read_model(config: ModelConfig, files: Mapping[str, Path]) -> Transformer:
    _check_held(config, files)
    shapes, entries = layout(config)
    if unknown := sorted(set(files) - {entry.theirs for entry in entries}):
        raise ConfigError(f"{unknown[0]}: no such tensor in the model that config.json describes ({len(unknown)} such)")
    exact = (torch.float16, torch.bfloat16, torch.float32)
    opened = {file: safe_open(file, framework="pt") for file in sorted(set(files.values()))}
    ours = {name: torch.zeros(shape) for name, shape in shapes.items()}
    for entry in entries:
        theirs, place = entry.theirs, entry.view(ours)
        if theirs not in files:
            if entry.copy or not place.numel():
                continue
            raise ConfigError(f"{theirs}: is missing")
        tensor = opened[files[theirs]].get_tensor(theirs)
        if tensor.dtype not in exact or tensor.shape != place.shape:
            found = f"{tensor.dtype} {list(tensor.shape)}"
            raise ConfigError(f"{theirs}: is {found}, expected {list(place.shape)} of at most FP32")
        if entry.copy and not torch.equal(tensor.float().view(torch.int32), place.view(torch.int32)):
            raise ConfigError(f"{theirs}: differs from {entry.ours}, which MTP modules share here")
        place.copy_(tensor)
    model = Transformer(config)
    for name in sorted(set(shapes) - set(model.state_dict())):
        if ours.pop(name).any():
            raise ConfigError(f"{name}: is not 0, and model.moe.balance.kind={config.moe.balance.kind} has no bias")
    model.load_state_dict(ours)
    return model


def _files(source: Path) -> dict[str, Path]:
    """Which safetensors file each tensor lies in."""
    single, index = source / "model.safetensors", source / "model.safetensors.index.json"
    if single.is_file():
        with safe_open(single, framework="pt") as file:
            return dict.fromkeys(file.keys(), single)
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, Mapping) or not all(isinstance(shard, str) for shard in names.values()):
            raise ConfigError(f"{index.name}: has no weight_map from tensors to files")
        for shard in sorted(set(names.values())):
            if Path(shard).name != shard or not (source / shard).is_file():
                raise ConfigError(f"{shard}: is missing, and {index.name} names it")
        return {name: source / shard for name, shard in names.items()}
    pickles = sorted(path.name for path in source.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl"))
    if pickles:
        raise ConfigError(f"{pickles[0]}: a pickle can run code when it is read; save the model as safetensors")
    raise ConfigError("model.safetensors is missing, and model.safetensors.index.json too")


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _difference(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of `new` that `old` has otherwise, nested as they are."""
    return {k: _difference(v, old[k]) if isinstance(v, Mapping) else v for k, v in new.items() if v != old[k]}


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    nested = {k: _merged(old[k], v) for k, v in new.items() if isinstance(v, Mapping) and isinstance(old.get(k), dict)}
    return {**old, **new, **nested}


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` if and only if all goes well."""
    out = Path(os.path.realpath(out))
    with ExitStack() as stack:
        try:
            if out.is_symlink():
                raise ConfigError(f"OUT={out}: is a link to itself; name a new folder")
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise ConfigError(f"OUT={out}: exists and is not empty; name a new folder")
            folder = stack.enter_context(whole_folder(out))
        except OSError as error:
            raise ConfigError(f"OUT={out}: cannot be made ({error.strerror}); name a folder elsewhere") from None
        yield folder


def _copy_tokenizer(source: Path, folder: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (expected: to-hf CHECKPOINT OUT, or from-hf DIR OUT; --help says more)")


def _place(text: str) -> Path:
    return Path(os.path.expanduser(text))


def main(arguments: Sequence[str] | None = None) -> int:
    """0, perhaps with notes on stderr; or 2 with one line there for what cannot be converted: then nothing is left."""
    parser = _Parser(
        "python -m models.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("direction", choices=("to-hf", "from-hf"))
    parser.add_argument("source", type=_place, help="our checkpoint (to-hf), or a deepseek_v3 folder (from-hf)")
    parser.add_argument("out", type=_place, help="a new or empty folder")

    def work() -> int:
        words = parser.parse_args(arguments)
        for note in {"to-hf": to_hf, "from-hf": from_hf}[words.direction](words.source, words.out):
            print("note:", note, file=sys.stderr)
        print(words.out)
        return 0

    return obeyed(work)


if __name__ == "__main__":
    sys.exit(spoken(main))
