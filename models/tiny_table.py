"""What the rules of `edgec.models.tiny` cannot know about a family, with the reason."""

from __future__ import annotations

from typing import Any

__all__ = ["NOT_TEXT", "SETTINGS"]

NOT_TEXT: dict[str, str] = {
    "fuyu": "takes more than text: images",
    "git": "takes more than text: images",
    "moshi": "speech: audio codes beside the text",
    "musicgen": "makes audio codes, not text",
    "musicgen_melody": "makes audio codes, not text",
    "whisper": "a decoder of audio: its text model attends to an audio encoder",
}
"""Families that are no decoders of text alone, where no field of the configuration says so."""

SETTINGS: dict[str, dict[str, Any]] = {}
"""By family: `default`: fields without which there is no default; `set`: fields to give."""
