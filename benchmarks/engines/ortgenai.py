"""ONNX Runtime GenAI, with a model that its own builder made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime_genai as og


class Engine:
    """A builder's folder. Its steps choose the next token themselves, greedily."""

    def __init__(self, model: str, threads: int, context: int) -> None:
        config = og.Config(model)
        options = {"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}
        config.overlay(json.dumps(options))
        self.model = og.Model(config)
        self.context = context
        written = json.loads((Path(model) / "genai_config.json").read_text())
        self.vocabulary = written["model"]["vocab_size"]
        self.settings = "CPU, greedy search"

    def measure(self, prompt: list[int], steps: list[int], depth: int) -> float:
        import time

        parameters = og.GeneratorParams(self.model)
        parameters.set_search_options(
            max_length=self.context, do_sample=False, min_length=self.context
        )
        generator = og.Generator(self.model, parameters)
        before = depth if depth else (0 if prompt else 1)
        if before:
            generator.append_tokens(np.array([1 + i % 200 for i in range(before)], np.int32))
            generator.generate_next_token()
        started = time.perf_counter()
        if prompt:
            generator.append_tokens(np.array(prompt, np.int32))
            generator.generate_next_token()
        for _ in steps:
            generator.generate_next_token()
        return time.perf_counter() - started


def version() -> str:
    """The package's."""
    return str(og.__version__)
