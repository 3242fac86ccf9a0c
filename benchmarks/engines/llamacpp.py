"""llama.cpp through llama-cpp-python's bindings of its C API, as llama-bench calls it."""

from __future__ import annotations

import ctypes

import llama_cpp
from worker import in_steps


class Engine:
    """A GGUF file in a context of its own: KV cache in f16, one batch for a whole prompt."""

    def __init__(self, model: str, threads: int, context: int) -> None:
        llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(model.encode(), parameters)
        if not self.model:
            raise RuntimeError("llama.cpp cannot load the file")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = context, 2048, 512
        options.n_threads = options.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context")
        info = llama_cpp.llama_print_system_info().decode()
        features = [f.split("=")[0].strip() for f in info.split("|") if f.strip().endswith("= 1")]
        self.settings = ", ".join(features)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(
            llama_cpp.llama_model_get_vocab(self.model)
        )

    def reset(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)

    def prefill(self, tokens: list[int]) -> None:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(array, len(tokens))
        if llama_cpp.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")
        llama_cpp.llama_synchronize(self.context)

    def decode(self, token: int) -> None:
        self.prefill([token])

    def measure(self, prompt: list[int], steps: list[int], depth: int) -> float:
        return in_steps(self, prompt, steps, depth)


@llama_cpp.llama_log_callback
def _quiet(level: int, text: bytes, data: object) -> None:
    pass


def version() -> str:
    """The version of the bindings, which say which llama.cpp they were made with."""
    return f"llama-cpp-python {llama_cpp.__version__}"
