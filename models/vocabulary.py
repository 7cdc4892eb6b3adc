"""What the files of a tokenizer say to one who only holds the weights: the tokens' ids, and which token ends a text.

Nothing is encoded here (tasks/text/tokenizer.py does); the files are Hugging Face's, read as JSON.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.base.reading import json_of
from models.base.typed import ConfigError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
"""Which travel with a checkpoint, as they are."""

END_OF_TEXT = "<|endoftext|>"
"""What ends a text where a checkpoint names no other token (`end_of_text` in its config.json)."""

NO_END = "no token of tokenizer.json ends a text: neither eos_token nor eos_token_id names one"


def read_json(path: Path) -> dict[str, Any]:
    """Raises ConfigError where the file is missing or holds something else."""
    if not path.is_file():
        raise ConfigError(f"{path}: is missing; name a folder with {path.name} and model.safetensors in it")
    try:
        values = json_of(path)
    except ValueError as error:
        raise ConfigError(f"{path}: unreadable ({error}); put a whole copy there") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a group of keys")
    return values


def token_ids(folder: Path) -> dict[str, int]:
    """Of every token in the folder's tokenizer.json; empty where there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return {}
    values = read_json(path)
    try:
        known = values["model"]["vocab"]
        # a list of (token, score) in Unigram models
        ids = dict(known) if isinstance(known, Mapping) else {token: place for place, (token, _) in enumerate(known)}
        return ids | {token["content"]: token["id"] for token in values.get("added_tokens") or []}
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: is no tokenizer (it has no vocabulary)") from error


def named_token(folder: Path, role: str) -> str | None:
    """The token that tokenizer_config.json (or special_tokens_map.json, as older folders have it) gives a role such as
    `eos_token`: a text, or a group with its `content`."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = read_json(folder / name).get(role) if (folder / name).is_file() else None
        token = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(token, str):
            return token
    return None


def end_of_text(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The token that ends a text in a folder of theirs, as their own tools find it: the tokenizer's `eos_token`, else
    `eos_token_id` of config.json or generation_config.json (of several ids the first), else END_OF_TEXT.

    None where none of these is a token of tokenizer.json.
    """
    ids = token_ids(folder)
    tokens = {place: token for token, place in ids.items()}
    generation = folder / "generation_config.json"
    named = [named_token(folder, "eos_token")]
    for values in (config, read_json(generation) if generation.is_file() else {}):
        given = values.get("eos_token_id")
        named += [tokens.get(place) for place in (given if isinstance(given, list) else [given]) if type(place) is int]
    return next((token for token in (*named, END_OF_TEXT) if token in ids), None)


def require_markers(template: str, ids: Mapping[str, int]) -> None:
    """Raises ConfigError where a chat template writes a marker, a quoted word in angle brackets, that is no token: it
    would be taken apart, or for a token that the model does not know."""
    for marker in re.findall(r"'( ?<[^' ]+>)'", template):
        if marker not in ids:
            raise ConfigError(
                f"chat_template: writes {marker.strip()}, which is no token of tokenizer.json; put the tokenizer there "
                "that the model was trained with, or take chat_template out of config.json"
            )


def tokenizer_config(end: str, length: int, chat_template: str | None = None) -> dict[str, Any]:
    """tokenizer_config.json for a tokenizer of ours, with which transformers gives our own ids: nothing is added, and a
    special token inside a text is text. `end` stands between documents, so it begins a text as well as it ends it.
    With a `chat_template`, transformers writes conversations so."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **dict.fromkeys(("bos_token", "eos_token", "pad_token"), end),
        "model_max_length": length,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        **({"chat_template": chat_template} if chat_template else {}),
    }
