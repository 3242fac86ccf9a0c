"""Joins models and passes: options, export, stages, targets, parameters, artifact."""

from edgec.compiler.driver import compile
from edgec.compiler.options import CompileOptions

__all__ = ["CompileOptions", "compile"]
