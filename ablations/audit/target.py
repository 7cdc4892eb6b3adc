"""TARGET: `package.module:factory`, a folder that transformers wrote, or a checkpoint of ours."""

import importlib
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.base.reading import json_of
from models.base.typed import ConfigError, closest

if TYPE_CHECKING:
    from torch import nn

    from ablations.audit.subject import Subject


def found(target: str, trained: bool) -> "Subject":
    """`trained`: whether what a factory returns is. Raises ConfigError, in one line, for what is no model."""
    if ":" in target and not Path(os.path.expanduser(target)).is_dir():
        return adapted(made(target), trained)
    return _in_folder(target)


def _in_folder(target: str) -> "Subject":
    folder = Path(os.path.expanduser(target))
    if not folder.is_dir():
        raise ConfigError(f"{target}: there is no such folder; name one, or package.module:factory")
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{target}: holds no config.json, so it is no Hugging Face folder (save_pretrained writes it)"
        )
    try:
        saved = json_of(folder / "config.json")
    except ValueError as error:
        raise ConfigError(f"{target}: config.json is not readable as JSON ({error})") from error
    if isinstance(saved, dict) and {"format", "model", "weights_sha256"} <= saved.keys():
        from ablations.audit import ours

        return ours.load(folder)
    from ablations.audit import huggingface

    return huggingface.load(folder, target)


def made(target: str) -> "nn.Module":
    """What the factory returns: this runs the code that was named."""
    factory = _factory(target)
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise ConfigError(f"{target}: is called without arguments ({error}); wrap it in a function of none") from error
    except ValueError:  # without a signature: whatever it is, it is called
        pass
    module = _run(target, factory, "the factory raises")
    from torch import nn

    if not isinstance(module, nn.Module):
        raise ConfigError(f"{target}: returns {type(module).__name__}; expected a torch.nn.Module")
    return module


def _factory(target: str) -> Any:
    name, _, attribute = target.partition(":")
    if not name or not attribute:
        raise ConfigError(f"{target}: expected package.module:factory, or a folder")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # behind all others: a folder named as a library is does not hide it
    try:
        there = importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError) as error:
        raise ConfigError(f"{target}: no module {name} ({error}); {_where()}") from error
    except BaseException as error:  # importing its packages runs their code
        raise _raised(target, f"importing {name} raises", error) from error
    if there is None:
        raise ConfigError(f"{target}: no module {name}; {_where()}")
    value = _run(target, lambda: importlib.import_module(name), f"importing {name} raises")
    for part in attribute.split("."):
        if not hasattr(value, part):
            known = [name for name in dir(value) if not name.startswith("_")]
            raise ConfigError(f"{target}: {name} ({there.origin}) has no attribute {attribute}{closest(part, known)}")
        value = getattr(value, part)
    if not callable(value):
        raise ConfigError(f"{target}: {attribute} is {type(value).__name__}; expected a function that returns a model")
    return value


def _where() -> str:
    return "start from the folder that holds it, or name that folder in PYTHONPATH"


def _run(target: str, work: Any, what: str) -> Any:
    try:
        return work()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too
        raise _raised(target, what, error) from error


def _raised(target: str, what: str, error: BaseException) -> ConfigError:
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return ConfigError(f"{target}: {what} {said}")


def adapted(module: "nn.Module", trained: bool = False) -> "Subject":
    """By what it is: ours, transformers', or any other."""
    from ablations.audit.subject import Plain
    from models.transformer import Transformer

    if isinstance(module, Transformer):
        from ablations.audit.ours import Ours

        return Ours(module.eval(), trained)
    theirs = sys.modules.get("transformers")
    if theirs is not None and isinstance(module, theirs.PreTrainedModel):
        from ablations.audit.huggingface import HuggingFace

        return HuggingFace(module.eval(), trained)
    return Plain(module.eval(), trained)
