"""A loaded artifact: the program on its device, and the model's tokenizer and defaults."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edgec.artifact import Artifact
from edgec.runtime.chat import ChatTemplate
from edgec.runtime.config import GenerationConfig
from edgec.runtime.program import LoadedProgram
from edgec.runtime.tokenizer import Tokenizer

__all__ = ["LoadedModel"]


class LoadedModel:
    """Everything that sessions share: weights are in memory once for all of them.

    Args:
        artifact: An artifact, or its folder.
        device: `cpu`, `vulkan`, `cuda`, or a target in full; None: the cpu, or the only one.
        threads: CPU worker threads for the process; None: IREE's choice.

    Raises:
        ArtifactError: the artifact is missing, damaged, or made for another IREE release.
        InputError: it has no program for `device`.
        DeviceError: the device is absent or lacks what the program needs.
    """

    def __init__(
        self,
        artifact: str | Path | Artifact,
        device: str | None = None,
        threads: int | None = None,
    ) -> None:
        self.artifact = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
        folder = self.artifact.path
        self.tokenizer = Tokenizer(folder)
        self.chat_template = ChatTemplate.load(folder, self.tokenizer)
        defaults = folder / "generation_config.json"
        self.defaults = (
            GenerationConfig.from_file(defaults) if defaults.is_file() else GenerationConfig()
        )
        eos = self.tokenizer.eos_token_id
        if not self.defaults.eos_token_id and eos is not None:
            self.defaults = dataclasses.replace(self.defaults, eos_token_id=(eos,))
        self.program = LoadedProgram(self.artifact, device, threads)
