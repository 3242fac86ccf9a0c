"""The parts of `edgec[compile]`, and the error where only the runtime is installed."""

from __future__ import annotations

from importlib.util import find_spec

from edgec.errors import EdgecError

__all__ = ["COMPILE_MODULES", "SERVE_MODULES", "installed", "require_compile", "require_serve"]

COMPILE_MODULES = (
    "torch",
    "transformers",
    "safetensors",
    "huggingface_hub",
    "iree.compiler",
    "iree.turbine",
)
SERVE_MODULES = ("fastapi", "uvicorn", "llguidance", "prometheus_client")


def installed(module: str) -> bool:
    """Whether a module can be imported, found out without importing it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def require_compile(what: str) -> None:
    """Refuses to go on without the packages that compiling needs.

    Raises:
        EdgecError: one of them is not installed; `what` is the command that needs it.
    """
    if missing := [module for module in COMPILE_MODULES if not installed(module)]:
        raise EdgecError(
            f"{what} needs pip install 'edgec[compile]'", f"not installed: {', '.join(missing)}"
        )


def require_serve(what: str) -> None:
    """Refuses to go on without the packages that serving needs.

    Raises:
        EdgecError: one of them is not installed; `what` is the command that needs it.
    """
    if missing := [module for module in SERVE_MODULES if not installed(module)]:
        raise EdgecError(
            f"{what} needs pip install 'edgec[serve]'", f"not installed: {', '.join(missing)}"
        )
