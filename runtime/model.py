"""A loaded artifact: the program on its device, and the model's tokenizer and defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from edgec.artifact import Artifact
from edgec.errors import InputError
from edgec.runtime.chat import ChatTemplate
from edgec.runtime.config import GenerationConfig
from edgec.runtime.interfaces import CompiledProgram
from edgec.runtime.program import LoadedProgram
from edgec.runtime.tokenizer import Tokenizer

__all__ = ["LoadedModel"]


@dataclass(frozen=True)
class LoadedModel:
    """Everything that sessions share: weights are in memory once for all of them.

    Args:
        artifact: The opened artifact.
        program: Its program, loaded on a device.
        tokenizer: The model's tokenizer.
        chat_template: The model's chat template, if it has one.
        defaults: How the model wants to be generated with.
    """

    artifact: Artifact
    program: CompiledProgram
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    defaults: GenerationConfig

    @property
    def vocab_size(self) -> int:
        """The length of the logits."""
        return self.program.manifest.model.vocab_size

    @staticmethod
    def of(
        artifact: str | Path | Artifact | LoadedModel,
        device: str | None = None,
        threads: int | None = None,
    ) -> LoadedModel:
        """A model that is loaded already as it is, anything else through `load`.

        Raises:
            InputError: a device or threads for a model that is loaded already.
        """
        if not isinstance(artifact, LoadedModel):
            return LoadedModel.load(artifact, device, threads)
        if device is not None or threads is not None:
            raise InputError("a loaded model has its device and threads already")
        return artifact

    @staticmethod
    def load(
        artifact: str | Path | Artifact, device: str | None = None, threads: int | None = None
    ) -> LoadedModel:
        """Loads an artifact.

        Args:
            artifact: Its folder, or an opened `Artifact`.
            device: `cpu`, `vulkan`, `cuda`, or a target in full; None: the cpu, or the only one.
            threads: CPU worker threads for the process; None: IREE's choice.

        Raises:
            ArtifactError: the artifact is missing, damaged, or made for another IREE release.
            InputError: it has no program for `device`, or `threads` cannot be had.
            DeviceError: the device is absent or lacks what the program needs.
        """
        if not isinstance(artifact, Artifact):
            artifact = Artifact.open(artifact)
        artifact.verify_small()
        tokenizer = Tokenizer(artifact.path)
        template = ChatTemplate.load(artifact.path, tokenizer)
        defaults = _defaults(artifact.path, tokenizer)
        program = LoadedProgram(artifact, device, threads)
        return LoadedModel(artifact, program, tokenizer, template, defaults)


def _defaults(folder: Path, tokenizer: Tokenizer) -> GenerationConfig:
    """The model's generation_config.json; the tokenizer's end of text ends one too.

    Either may have the end of a turn and the other that of a document, and a model may write both.
    """
    path = folder / "generation_config.json"
    defaults = GenerationConfig.from_file(path) if path.is_file() else GenerationConfig()
    own = tokenizer.eos_token_id
    if own is None or own in defaults.eos_token_id:
        return defaults
    return dataclasses.replace(defaults, eos_token_id=(*defaults.eos_token_id, own))
