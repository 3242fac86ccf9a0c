"""Checks a manifest against itself and what the runtime can run, before native code.

Numbers that do not fit each other would be found by nobody: a call would read another row, or past
the end of a buffer. The program checks the shapes of what it is given, and takes no token for a row
that it has not; all else that its calls rely on is checked here.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

from edgec.errors import ArtifactError
from edgec.manifest import DTYPE_BYTES, Manifest, Program, Prompt, StateBuffer, entry_points
from edgec.runtime.drivers import driver_of

__all__ = ["check_contract", "check_program"]

_PACKAGE = "iree-base-runtime"

_KINDS = ("attention", "window", "conv", "recurrent", "expert_counts")

_MOST_BUFFERS = 4096
"""Several times what the deepest models have; each one is an allocation."""


def check_contract(where: Path, manifest: Manifest) -> None:
    """Refuses a manifest that this runtime cannot run, or whose numbers do not fit each other.

    Args:
        where: The artifact, for the message.

    Raises:
        ArtifactError: the message names what does not fit.
    """
    built, runtime = manifest.versions.get("iree"), version(_PACKAGE)
    if built != runtime:
        raise ArtifactError(
            f"artifact {where}: made with IREE {built}, this runtime is {runtime}",
            f"compile again, or pip install {_PACKAGE}=={built}",
        )
    if missing := {"prefill", "decode"} - set(manifest.entry_points):
        raise _wrong(where, f"no entry point {' and '.join(sorted(missing))}")
    model, prompt, batches = manifest.model, manifest.prompt, manifest.batch_sizes
    if not 1 <= prompt.min <= prompt.multiple_of <= prompt.max or prompt.max % prompt.multiple_of:
        raise _wrong(where, f"impossible prompt lengths {prompt}")
    if batches[:1] != (1,) or list(batches) != sorted(set(batches)):
        raise _wrong(where, f"impossible batch sizes {batches}")
    if not 1 <= model.vocab_size < 2**31:
        raise _wrong(where, f"a vocabulary of {model.vocab_size}")
    switches = model.rope_switches
    if list(switches) != sorted(set(switches)) or not all(0 < s < model.context for s in switches):
        raise _wrong(where, f"impossible rope_switches {switches}")
    points = entry_points(model.vocab_size, batches, total=bool(switches))
    if manifest.entry_points != points:
        raise _wrong(
            where,
            f"the entry points are not those of a vocabulary of {model.vocab_size}"
            f" and batches of {', '.join(map(str, batches))}",
        )
    _check_options(where, manifest)
    if not 1 <= len(manifest.state) <= _MOST_BUFFERS:
        raise _wrong(where, f"{len(manifest.state)} state buffers")
    for buffer in manifest.state:
        if problem := _problem(buffer, prompt, model.context):
            raise _wrong(where, f"{buffer.name} {problem}")
    state, memory = sum(buffer.bytes for buffer in manifest.state), manifest.memory
    if memory.state_per_sequence != state:
        raise _wrong(
            where, f"the state buffers have {state} bytes, it says {memory.state_per_sequence}"
        )
    if memory.weights != manifest.parameters.bytes:
        raise _wrong(
            where, f"the weights have {manifest.parameters.bytes} bytes, it says {memory.weights}"
        )


def check_program(where: Path, program: Program, prompt: Prompt) -> None:
    """Refuses a program of which it is not known what it needs, or how it takes a prompt.

    Raises:
        ArtifactError: the message names what is missing or does not fit.
    """
    driver = driver_of(program.driver)
    for name, form in driver.requirements.items() if driver else ():
        said = program.requirements.get(name)
        if said is None:
            raise _wrong(where, f"it does not say what {name} {program.target} requires")
        if not re.fullmatch(form, said):
            raise _wrong(where, f"{program.target} requires an impossible {name}, {said[:40]!r}")
    sizes, multiple = program.prompt_sizes, prompt.multiple_of
    rising = list(sizes) == sorted(set(sizes))
    if sizes and (sizes[0] != multiple or any(size % multiple for size in sizes) or not rising):
        raise _wrong(where, f"impossible prompt sizes {sizes} for multiples of {multiple}")


def _check_options(where: Path, manifest: Manifest) -> None:
    """The compile's options, where they say the same thing as a field."""
    options, prompt = manifest.options, manifest.prompt
    padded = options.get("dynamic_shapes", "input") == "input"
    said = {
        "ctx_size": manifest.model.context,
        "chunk_size": prompt.max,
        "batch": list(manifest.batch_sizes),
        **({"prompt_multiple": prompt.multiple_of} if padded else {}),
    }
    for name, value in said.items():
        if options.get(name, value) != value:
            raise _wrong(where, f"the option {name} was {str(options[name])[:40]}, not {value}")


def _problem(buffer: StateBuffer, prompt: Prompt, context: int) -> str:
    """Why a buffer cannot be what a sequence of this context needs, or nothing."""
    if buffer.dtype not in DTYPE_BYTES:
        return f"has an unknown type {buffer.dtype!r}"
    if buffer.kind not in _KINDS:
        return f"is of an unknown kind {buffer.kind!r}"
    if not buffer.shape or 0 in buffer.shape:
        return f"has the shape {list(buffer.shape)}"
    rows = buffer.shape[0]
    # There must be room for one padded block past the context.
    if buffer.kind == "attention" and rows < context + prompt.multiple_of:
        return (
            f"has {rows} rows, too few for a context of {context} and a block of"
            f" {prompt.multiple_of}"
        )
    if (buffer.kind == "window") != (buffer.window > 0) or buffer.checkpoint > buffer.window:
        return f"is of kind {buffer.kind}, window {buffer.window}, checkpoint {buffer.checkpoint}"
    if buffer.window and rows < buffer.window - 1 + prompt.max:
        return (
            f"has {rows} rows, too few for a window of {buffer.window} and a call of"
            f" {prompt.max} tokens"
        )
    return ""


def _wrong(where: Path, what: str) -> ArtifactError:
    return ArtifactError(f"artifact {where}: {what}", "compile again")
