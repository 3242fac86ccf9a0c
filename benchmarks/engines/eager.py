"""transformers in torch, eager, with its default attention and a static cache of its own."""

from __future__ import annotations

import torch
import transformers
from worker import in_steps


class Engine:
    """A folder's model in the type that its weights are stored in, or f32."""

    def __init__(self, model: str, threads: int, context: int) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.model.eval()
        self.vocabulary = self.model.config.vocab_size
        self.cache = None
        self.settings = f"f32, {self.model.config._attn_implementation}"

    def reset(self) -> None:
        self.cache = transformers.DynamicCache()

    def prefill(self, tokens: list[int]) -> None:
        logits = self.model(
            input_ids=torch.tensor([tokens]),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        int(logits[0, -1].argmax())

    def decode(self, token: int) -> None:
        self.prefill([token])

    def measure(self, prompt: list[int], steps: list[int], depth: int) -> float:
        return in_steps(self, prompt, steps, depth)


def version() -> str:
    """torch's and transformers'."""
    return f"torch {torch.__version__}, transformers {transformers.__version__}"
