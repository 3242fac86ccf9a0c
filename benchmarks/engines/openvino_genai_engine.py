"""OpenVINO GenAI, reading the same GGUF file as llama.cpp."""

from __future__ import annotations

import numpy as np
import openvino
import openvino_genai


class Engine:
    """An `LLMPipeline`. It times itself: the inference of the prompt and of each token."""

    def __init__(self, model: str, threads: int, context: int) -> None:
        self.pipe = openvino_genai.LLMPipeline(
            model, "CPU", INFERENCE_NUM_THREADS=threads, KV_CACHE_PRECISION="f16"
        )
        self.vocabulary = 0
        self.settings = "LLMPipeline, KV cache f16"

    def measure(self, prompt: list[int], steps: list[int], depth: int) -> float:
        tokens = prompt or [1 + i % 200 for i in range(max(1, depth))]
        if prompt and depth:
            raise ValueError("a prompt after other tokens is not measured with this engine")
        inputs = openvino_genai.TokenizedInputs(
            openvino.Tensor(np.array([tokens], np.int64)),
            openvino.Tensor(np.ones((1, len(tokens)), np.int64)),
        )
        count = len(steps) + 1
        result = self.pipe.generate(
            inputs, max_new_tokens=count, min_new_tokens=count, ignore_eos=True, do_sample=False
        )
        raw = result.perf_metrics.raw_metrics
        # Microseconds: the first is of the prompt.
        durations = list(raw.token_infer_durations)
        if len(durations) < count:
            raise RuntimeError(f"{len(durations)} durations for {count} tokens")
        return (sum(durations[1:count]) if steps else durations[0]) / 1e6


def version() -> str:
    """The package's."""
    return str(openvino_genai.__version__)
