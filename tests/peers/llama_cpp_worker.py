"""llama.cpp's tokens of text, with the vocabularies of GGUF files. Runs where it is installed.

Standard input: `{"files": [...], "texts": [...]}`. Standard output, for each file: `ids` and the
`pieces` they stand for, for each text, control tokens in it read as such, and `ends`, the ids that
end a text; null for a file that llama.cpp refuses.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

import llama_cpp as api


def _answers(path: str, texts: list[str]) -> dict[str, Any] | None:
    settings = api.llama_model_default_params()
    settings.vocab_only = True
    model = api.llama_model_load_from_file(path.encode(), settings)
    if not model:
        return None
    vocabulary = api.llama_model_get_vocab(model)
    buffer = ctypes.create_string_buffer(1024)

    def piece(token: int) -> bytes:
        size = api.llama_token_to_piece(vocabulary, token, buffer, len(buffer), 0, True)
        return buffer.raw[:size]

    def encode(text: str) -> list[int]:
        raw = text.encode()
        tokens = (api.llama_token * (len(raw) + 16))()
        count = api.llama_tokenize(vocabulary, raw, len(raw), tokens, len(tokens), True, True)
        return list(tokens[:count])

    ids = [encode(text) for text in texts]
    tokens = range(api.llama_vocab_n_tokens(vocabulary))
    found = {
        "ids": ids,
        "pieces": [b"".join(map(piece, row)).decode("utf-8", "replace") for row in ids],
        "ends": [token for token in tokens if api.llama_vocab_is_eog(vocabulary, token)],
    }
    api.llama_model_free(model)
    return found


def main() -> None:
    silent = api.llama_log_callback(lambda *_: None)
    api.llama_log_set(silent, None)
    api.llama_backend_init()
    request = json.load(sys.stdin)
    print(json.dumps([_answers(path, request["texts"]) for path in request["files"]]))


if __name__ == "__main__":
    main()
