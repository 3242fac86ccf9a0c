"""Compiles the bundled model and generates text with it.

    python examples/01_generate.py

Writes `build/demo/tiny-dense.edgec`, as `make demo` does; the other examples open it. An equal
build that is there already is used as it is.
"""

import edgec

artifact = edgec.compile("bundled:tiny-dense", target="cpu", output="build/demo/tiny-dense.edgec")
session = edgec.Session(artifact)
result = session.generate("In the beginning", max_new_tokens=48, temperature=0)

print(result.text)
print(f"{result.usage.completion_tokens} tokens, {result.finish_reason}")
print(f"decode {result.timings.decode_per_second:.0f} tokens per second")
