"""What MODEL is: a hub id, a folder, a GGUF file, `package:`, `bundled:` or `preset:NAME`."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.errors import InputError, ModelError
from edgec.json_files import read_json
from edgec.models.sources.bundled import BUNDLED, bundled_models
from edgec.models.sources.byte_tokenizer import SPECIAL_IDS, byte_tokenizer_files
from edgec.models.sources.hub import TEMPLATES, download
from edgec.models.sources.packages import PACKAGED, fetch, packaged_name
from edgec.models.sources.plausible import check_place, check_sizes
from edgec.models.sources.presets import PRESETS, Preset
from edgec.models.sources.tokenizer import tokenizer_files
from edgec.models.weights.source import Progress, RandomWeights, SafetensorsWeights, WeightSource
from edgec.tokenizer_files import TOKENIZER_FILES

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["ModelSource", "check_name", "resolve"]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class ModelSource:
    """A model that was found: its configuration, its weights (not yet read) and its tokenizer.

    `id` is what the user gave and `kind` one of hub, folder, gguf, package, bundled, preset.
    `revision` is the hub's commit, a digest of a folder's configuration and weights, or a preset's
    seed. `folder` holds the model's files, None for a preset. `files` are those that an artifact
    carries along, by name: their contents, or where they lie.
    """

    id: str
    kind: str
    revision: str
    config: PreTrainedConfig
    folder: Path | None
    weights: WeightSource
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    trust_remote_code: bool = False

    def fingerprint(self) -> str:
        """SHA-256 (hex) of configuration, weights, tokenizer and modelling code: a cache key.

        It says what the model is, not where it lies: a copy in another folder has the same one.
        """
        digest = hashlib.sha256()
        digest.update(_canonical(self.config.to_dict()))
        digest.update(self.weights.digest().encode())
        code = sorted(self.folder.rglob("*.py")) if self.folder and self.trust_remote_code else []
        for name, file in [*sorted(self.files.items()), *((path.name, path) for path in code)]:
            content = file if isinstance(file, bytes) else file.read_bytes()
            digest.update(f"\n{name} {hashlib.sha256(content).hexdigest()}".encode())
        return digest.hexdigest()


def resolve(
    model: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    trust_remote_code: bool = False,
    token: str | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    layers: int | None = None,
) -> ModelSource:
    """Finds a model, downloading it if it is on the hub, and checks that edgec supports it.

    Args:
        model: `org/name` on the hub, a folder, a GGUF file, `package:NAME`, `bundled:NAME` or
            `preset:NAME`. A folder that exists wins over a hub id of the same spelling.
        revision: Branch, tag or commit of a model on the hub.
        offline: Never use the network.
        trust_remote_code: Allow modelling code that comes with the model to run.
        token: For gated models; `HF_TOKEN` if None.
        progress: Told about the bytes downloaded.
        seed: Makes a preset's random weights.
        layers: Keep only the first layers, for a slice of a model; all if None.

    Raises:
        InputError: `model` is no model's name, or an option does not fit it.
        ModelError: the model is not found, damaged, or not supported.
    """
    kind, name = _kind(model)
    if revision is not None and kind != "hub":
        raise InputError(f"model {model}: a revision needs a model on the hub", "drop --revision")
    if seed < 0:
        raise InputError(f"seed {seed}: must not be negative")
    if kind == "preset":
        return _preset(PRESETS[name], seed, layers)
    if kind == "gguf":
        return _gguf(model, layers)
    if kind == "package":
        file = fetch(name, offline=offline, progress=progress)
        return dataclasses.replace(_gguf(str(file), layers), id=model, kind=kind)
    folder, commit = BUNDLED / name, ""
    if kind == "folder":
        folder = Path(name).expanduser()
    elif kind == "hub":
        snapshot = download(
            name,
            lambda fetched: _check_folder(model, fetched, trust_remote_code),
            revision=revision,
            offline=offline,
            trust_remote_code=trust_remote_code,
            token=token,
            progress=progress,
        )
        folder, commit = snapshot.folder, snapshot.commit
    _check_folder(model, folder, trust_remote_code)
    raw = read_json(folder / "config.json")
    weights: WeightSource = SafetensorsWeights(folder, raw.get("transformers_weights"))
    check_sizes(model, raw, weights.tensors())
    config = _load_config(model, folder, trust_remote_code)
    if quantization := _quantization(config.to_dict()):
        from edgec.models.weights.prequantized import prequantized

        weights = prequantized(model, weights, quantization)
        # To transformers the model is one of floats.
        for name in ("quantization_config", "quantization"):
            if hasattr(config, name):
                delattr(config, name)
    if not commit:
        content = _canonical(config.to_dict()) + weights.digest().encode()
        commit = "sha256:" + hashlib.sha256(content).hexdigest()[:40]
    if layers is not None:
        config = _first_layers(model, config, layers)
    files: dict[str, bytes | Path] = {
        **tokenizer_files(model, folder, config, trust_remote_code=trust_remote_code),
        "generation_config.json": folder / "generation_config.json",
    }
    if not (folder / "generation_config.json").is_file():
        files["generation_config.json"] = _generation_config(config)
    name = os.path.normpath(name) if kind == "folder" else model
    return ModelSource(name, kind, commit, config, folder, weights, files, trust_remote_code)


def check_name(model: str) -> None:
    """Refuses what is no model's name or place. It loads nothing heavy and asks no hub.

    Raises:
        ModelError: as from `resolve`.
    """
    _kind(model)


def _kind(model: str) -> tuple[str, str]:
    """What `model` is, and its name without the prefix."""
    prefix, colon, name = model.partition(":")
    if colon and prefix == "preset":
        if name not in PRESETS:
            raise _unknown("preset", name, PRESETS)
        return "preset", name
    if colon and prefix == "bundled":
        if name not in bundled_models():
            raise _unknown("bundled model", name, bundled_models())
        return "bundled", name
    if colon and prefix == "package":
        return "package", packaged_name(name)
    try:
        path = Path(model).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, ~nobody, a NUL
        raise ModelError(f"model {model}: no such folder: {_line(error)}", "check it") from None
    if model.startswith((".", "/", "~")) or (model and exists):
        if not exists:
            raise ModelError(f"model {model}: no such folder", "check the path")
        if not path.is_dir():
            if path.suffix.lower() == ".gguf":
                return "gguf", model
            raise ModelError(
                f"model {model}: a file", "give the folder that holds config.json, or a .gguf file"
            )
        return "folder", model
    if HUB_ID.fullmatch(model):
        return "hub", model
    hint = "give org/name on the hub, a folder, a .gguf file, or a name of `edgec models`"
    if model in PACKAGED:
        hint = f"did you mean package:{model}?"
    elif model in PRESETS:
        hint = f"did you mean preset:{model}?"
    elif model in bundled_models():
        hint = f"did you mean bundled:{model}?"
    raise ModelError(f"model {model!r}: not found", hint)


def _unknown(what: str, name: str, known: Iterable[str]) -> ModelError:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1)
    guess = f"did you mean {close[0]}? " if close else ""
    return ModelError(f"{what} {name!r}: unknown", f"{guess}there are {', '.join(names)}")


def _check_folder(model: str, folder: Path, trust_remote_code: bool) -> None:
    """Refuses a model folder that edgec cannot compile, by its small files alone."""
    path = folder / "config.json"
    if not path.is_file():
        remedy = "give a folder in the Hugging Face format"
        if (folder / "manifest.json").is_file():
            remedy = "this is a compiled artifact: run it, or give the model it was made from"
        raise ModelError(f"model {model}: no config.json", remedy)
    try:
        config = read_json(path)
    except (ValueError, OSError) as error:
        raise ModelError(f"model {model}: config.json is not JSON: {error}", "restore it") from None
    if not isinstance(config, dict):
        raise ModelError(f"model {model}: config.json is not an object", "restore it")
    _check_config(model, config, trust_remote_code)
    if trust_remote_code and config.get("auto_map"):
        for file in _code_files(model, config):
            if not (folder / file).is_file():
                raise ModelError(f"model {model}: no {file}", "auto_map in config.json names it")
    more = [str(path.relative_to(folder)) for path in folder.glob(TEMPLATES)]
    for name in (*TOKENIZER_FILES, "config.json", str(Path(TEMPLATES).parent), *more):
        check_place(model, folder, name)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise ModelError(
            f"model {model}: no tokenizer.json",
            "make one: transformers' AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)",
        )
    try:
        stored = read_json(tokenizer)
    except (ValueError, OSError):
        stored = None
    if not isinstance(stored, dict) or not isinstance(stored.get("model"), dict):
        raise ModelError(f"model {model}: tokenizer.json is damaged", "download or save it again")


def _check_config(model: str, config: dict[str, Any], trust_remote_code: bool) -> None:
    """Refuses what would compile to something else than the model, by its raw `config.json`."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ModelError(f"model {model}: config.json has no model_type", "restore it")
    if quantization := _quantization(config):
        from edgec.models.weights.prequantized import check_quantization

        check_quantization(model, quantization)
    if config.get("is_encoder_decoder"):
        raise ModelError(
            f"model {model}: {model_type} is an encoder-decoder", "give a causal language model"
        )
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(a, str) for a in architectures):
        raise ModelError(
            f"model {model}: architectures in config.json is not a list of names", "restore it"
        )
    if nested := sorted(k for k in config if k.endswith("_config") and k in _OTHER_INPUTS):
        raise ModelError(
            f"model {model}: takes more than text ({', '.join(nested)}), which is not supported",
            "give a text model",
        )
    named = str(architectures[0]) if architectures else model_type
    remote = config.get("auto_map") or {}
    if not isinstance(remote, dict):
        raise ModelError(f"model {model}: auto_map in config.json is not an object", "restore it")
    if model_type not in CAUSAL:
        if not remote and model_type in CONFIG_MAPPING:
            raise ModelError(
                f"model {model}: {named} is not a causal language model",
                "give a model that generates text",
            )
        if not remote:
            raise ModelError(
                f"model {model}: model_type {model_type!r} is unknown to transformers",
                "check config.json, or upgrade transformers",
            )
        if "AutoModelForCausalLM" not in remote:
            raise ModelError(
                f"model {model}: its own code has no causal language model (auto_map)",
                "give a model that generates text",
            )
        files = ", ".join(sorted(set(_code_files(model, config))))
        if not trust_remote_code:
            raise ModelError(
                f"model {model}: {named} needs code that comes with it, in {files}",
                "read that code, then pass --trust-remote-code",
            )
    elif architectures and not _is_causal(architectures, set(CAUSAL.values())):
        raise ModelError(
            f"model {model}: {named} is not a causal language model",
            "give a model that generates text",
        )


_OTHER_INPUTS = ("vision_config", "audio_config", "image_config", "video_config", "speech_config")


def _quantization(config: dict[str, Any]) -> dict[str, Any]:
    """What `config.json` says about weights that are quantised already; empty if they are not."""
    found = config.get("quantization_config") or config.get("quantization")
    if not found:
        return {}
    return found if isinstance(found, dict) else {"quant_method": str(found)}


_CLASS = re.compile(r"(?!.*--)((?:\w[\w-]*/)*\w[\w-]*)\.\w+")
"""How `auto_map` names a class in a file of the folder; `--` follows another repository's name."""


def _code_files(model: str, config: dict[str, Any]) -> list[str]:
    """The files in which `auto_map` says that configuration and model are.

    Raises:
        ModelError: it names something else, such as code of another repository, which transformers
            would fetch and run.
    """
    files = []
    for kind in ("AutoConfig", "AutoModelForCausalLM"):
        named = config["auto_map"].get(kind)
        if named is None:
            continue
        found = _CLASS.fullmatch(named) if isinstance(named, str) else None
        if found is None:
            raise ModelError(
                f"model {model}: auto_map in config.json: {kind} {named!r} names no class in a "
                "file beside it",
                "put the code beside config.json, and name it file.Class",
            )
        files.append(f"{found[1]}.py")
    return files


def _is_causal(architectures: list[Any], known: set[str]) -> bool:
    # A model's own code, beside a type that transformers knows, may name its class differently.
    return any(a in known or str(a).endswith("ForCausalLM") for a in architectures)


def _load_config(model: str, folder: Path, trust_remote_code: bool) -> PreTrainedConfig:
    from transformers import AutoConfig

    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
        # What is read of it later must be there.
        config.get_text_config().to_dict()
        config.to_dict()
    except Exception as error:  # transformers validates with errors of many unrelated types
        raise ModelError(f"model {model}: config.json: {_line(error)}", "correct it") from None
    return config


def _line(error: Exception) -> str:
    """An error's text in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _preset(preset: Preset, seed: int, layers: int | None) -> ModelSource:
    from transformers import AutoConfig

    from edgec.models.weights.check import expected_tensors

    model = f"preset:{preset.name}"
    # The published special tokens mean nothing to the tokenizer that presets have.
    published = {**copy.deepcopy(dict(preset.config)), **SPECIAL_IDS}
    config = AutoConfig.for_model(published.pop("model_type"), **published)
    if layers is not None:
        config = _first_layers(model, config, layers)
    weights = RandomWeights(expected_tensors(config).shapes, config, seed)
    files = byte_tokenizer_files(config.vocab_size)
    return ModelSource(model, "preset", f"seed-{seed}", config, None, weights, files)


def _gguf(model: str, layers: int | None) -> ModelSource:
    from edgec.models.gguf.model import gguf_config, gguf_tokenizer, gguf_weights
    from edgec.models.gguf.weights import GgufFile

    path = Path(model).expanduser()
    file = GgufFile(path)
    config = gguf_config(file)
    weights = gguf_weights(file, config)
    content = _canonical(config.to_dict()) + weights.digest().encode()
    commit = "sha256:" + hashlib.sha256(content).hexdigest()[:40]
    if layers is not None:
        config = _first_layers(model, config, layers)
    files: dict[str, bytes | Path] = {
        **gguf_tokenizer(file),
        "generation_config.json": _generation_config(config),
    }
    return ModelSource(os.path.normpath(model), "gguf", commit, config, None, weights, files)


def _first_layers(model: str, config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The configuration with only the first `layers`, and what it lists for each layer cut too."""
    key = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    values = config.to_dict()
    total = values.get(key)
    if not isinstance(total, int):
        raise InputError(f"model {model}: its configuration has no number of layers to cut")
    if not 1 <= layers <= total:
        raise InputError(f"layers {layers}: model {model} has {total}", f"give 1 to {total}")
    cut = {
        k: v[:layers]
        for k, v in values.items()
        if isinstance(v, list) and len(v) == total and ("layer" in k or "block" in k)
    }
    sliced = type(config).from_dict({**values, **cut, key: layers})
    sliced.name_or_path = config.name_or_path  # where transformers finds a model's own code
    return sliced


def _generation_config(config: PreTrainedConfig) -> bytes:
    """What a model without `generation_config.json` keeps in its `config.json`, as such a file."""
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {key: getattr(config, key, None) for key in keys}
    return json.dumps({k: v for k, v in ids.items() if v is not None}, indent=2).encode() + b"\n"


def _canonical(config: dict[str, Any]) -> bytes:
    """A configuration without what depends on the place or on the version of transformers."""
    kept = {k: v for k, v in config.items() if k not in ("_name_or_path", "transformers_version")}
    return json.dumps(kept, sort_keys=True, default=str).encode()
