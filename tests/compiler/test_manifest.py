"""Anything but a whole artifact of this version is refused, with the reason."""

from __future__ import annotations

import copy
import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgec.artifact import Artifact
from edgec.errors import ArtifactError, InputError
from edgec.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    FileRecord,
    Manifest,
    Memory,
    ModelInfo,
    Program,
    StateBuffer,
)

WHERE = Path("manifest.json")


@pytest.fixture
def artifact(fake_compile: Callable[..., Artifact]) -> Artifact:
    return fake_compile()


@pytest.fixture
def data(artifact: Artifact) -> dict[str, Any]:
    parsed = json.loads((artifact.path / MANIFEST_NAME).read_text())
    assert isinstance(parsed, dict)
    return parsed


def parse(data: object) -> Manifest:
    return Manifest.from_json(json.dumps(data), WHERE)


def test_round_trip(artifact: Artifact, data: dict[str, Any]) -> None:
    assert parse(data) == artifact.manifest
    assert Manifest.from_json(artifact.manifest.to_json(), WHERE) == artifact.manifest


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value within parsed JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, child in items:
        found.append((*at, key))
        if isinstance(child, dict | list) and key != "options":
            found += places(child, (*at, key))
    return found


def parent(data: Any, place: tuple[Any, ...]) -> Any:
    for key in place[:-1]:
        data = data[key]
    return data


def test_every_wrong_type_is_named(data: dict[str, Any]) -> None:
    for place in places(data):
        if place[0] == "options" and len(place) > 1:
            continue
        for wrong in (1.5, True, "text", 3, [], {}, None):
            changed = copy.deepcopy(data)
            old = parent(changed, place)[place[-1]]
            dimension = place[-2:-1] == ("shape",) and (wrong is None or old is None)
            same_kind = type(old) is type(wrong) or (isinstance(old, list) and wrong == [])
            if dimension or same_kind or (isinstance(old, dict) and wrong == {}):
                continue
            parent(changed, place)[place[-1]] = wrong
            with pytest.raises(ArtifactError) as caught:
                parse(changed)
            assert "\n" not in str(caught.value)
            if place != ("schema_version",):
                assert str(place[-1]) in str(caught.value)


def test_missing_and_unknown_fields_are_named(data: dict[str, Any]) -> None:
    missing = dataclasses.MISSING
    optional = {
        field.name
        for type_ in (Manifest, Memory, ModelInfo, Program, StateBuffer)
        for field in dataclasses.fields(type_)
        if field.default is not missing or field.default_factory is not missing
    }
    assert "requirements" in optional and "parameters" not in optional
    named = [
        "entry_points",
        "programs",
        "files",
        "versions",
        "quantization",
        "requirements",
        "pipelines",
    ]
    for place in places(data):
        inside_table = len(place) > 1 and place[-2] in named
        if inside_table or isinstance(place[-1], int) or place[-1] in optional:
            continue
        changed = copy.deepcopy(data)
        del parent(changed, place)[place[-1]]
        with pytest.raises(ArtifactError, match=f"lacks {place[-1]}|not an edgec manifest"):
            parse(changed)
        changed = copy.deepcopy(data)
        parent(changed, place)["colour"] = "red"
        if place[0] != "options":
            with pytest.raises(ArtifactError, match="has unknown colour"):
                parse(changed)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "not an edgec manifest"),
        ("3", "not an edgec manifest"),
        ('{"version": 3}', "not an edgec manifest"),
        ('{"schema_version": "1"}', "not an edgec manifest"),
        (f'{{"schema_version": {SCHEMA_VERSION + 1}}}', r"newer than this .*\(upgrade edgec\)"),
        (f'{{"schema_version": {SCHEMA_VERSION - 1}}}', r"older than this .*\(compile again\)"),
        (f'{{"schema_version": {SCHEMA_VERSION}}}', "manifest lacks digest, dtype, entry_points"),
    ],
)
def test_foreign_texts(text: str, says: str) -> None:
    with pytest.raises(ArtifactError, match=says):
        Manifest.from_json(text, WHERE)


FIXTURE = settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FIXTURE
@given(data=st.data())
def test_any_changed_byte(artifact: Artifact, data: st.DataObject) -> None:
    """It is refused in one line, also where the JSON says the same as before."""
    file = artifact.path / MANIFEST_NAME
    whole = artifact.manifest.to_json().encode()
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
    file.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
    with pytest.raises(ArtifactError) as caught:
        Artifact.open(artifact.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text + "\n", "differs from what edgec wrote"),
        (lambda text: text.replace('"digest"', '"digest": "x",\n  "digest"'), "what edgec wrote"),
        (lambda text: text.replace('"seed": 0', '"seed": NaN'), "NaN is no number of JSON"),
        (lambda text: text.replace('"seed": 0', '"seed": 1'), "differs from its own SHA-256"),
        (lambda text: text.replace('"seed": 0', f'"seed": {"[" * 300}{"]" * 300}'), "too deeply"),
        (lambda text: text.replace('"count": ', '"count": -'), "parameters.count must be from 0"),
        (lambda text: text.replace('"count": ', f'"count": {10**400}'), r"got 1000\d+\.\.\.\d+ "),
        (
            lambda text: text.replace('"count": ', '"count": "' + "a" * 9**6 + '",'),
            "not valid JSON",
        ),
        (lambda text: text + " " * (16 << 20), "more than 16 MB"),
    ],
)
def test_changes_of_the_text(artifact: Artifact, change: Callable[[str], str], says: str) -> None:
    (artifact.path / MANIFEST_NAME).write_text(change(artifact.manifest.to_json()))
    with pytest.raises(ArtifactError, match=says) as caught:
        Artifact.open(artifact.path)
    assert len(str(caught.value)) < 500


def test_hostile_names_of_files(artifact: Artifact) -> None:
    """Also in a manifest with the right SHA-256."""
    record = next(iter(artifact.manifest.files.values()))
    for name in ("../x", "/etc/passwd", "a" * 5000, "a\0b", "a\nb", "\x1b[2J", "..", "."):
        files = artifact.manifest.files | {name: record}
        changed = dataclasses.replace(artifact.manifest, files=files)
        (artifact.path / MANIFEST_NAME).write_text(changed.to_json())
        with pytest.raises(ArtifactError, match="is not in the folder|is missing") as caught:
            Artifact.open(artifact.path)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    with pytest.raises(ArtifactError, match=r"cannot be read: File name too long"):
        Artifact.open("a" * 5000)


@FIXTURE
@given(data=st.data())
def test_any_truncation(artifact: Artifact, data: st.DataObject) -> None:
    whole = artifact.manifest.to_json().encode()
    (artifact.path / MANIFEST_NAME).write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ArtifactError, match="not valid JSON|what edgec wrote"):
        Artifact.open(artifact.path)


def test_files_are_checked(artifact: Artifact, tmp_path: Path) -> None:
    for name in artifact.manifest.files:
        file = artifact.path / name
        content = file.read_bytes()
        file.write_bytes(content + b"x")
        says = f"{name} has {len(content) + 1} bytes, the manifest says {len(content)}"
        with pytest.raises(ArtifactError, match=says):
            Artifact.open(artifact.path)
        file.unlink()
        with pytest.raises(ArtifactError, match=f"{name} is missing"):
            Artifact.open(artifact.path)
        file.write_bytes(content)
    assert Artifact.open(artifact.path) == artifact


def test_verify_finds_what_the_size_does_not_tell(artifact: Artifact) -> None:
    for name in artifact.manifest.files:
        file = artifact.path / name
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        opened = Artifact.open(artifact.path)
        with pytest.raises(ArtifactError, match=f"{name} differs from its SHA-256"):
            opened.verify()
        file.write_bytes(content)
    artifact.verify()


def test_small_files_are_read_at_every_load(artifact: Artifact) -> None:
    large = ("cpu.vmfb", "weights.irpa")
    artifact.verify_small()
    for name in artifact.manifest.files:
        file = artifact.path / name
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        if name not in large:
            with pytest.raises(ArtifactError, match=f"{name} differs from its SHA-256"):
                artifact.verify_small()
        file.write_bytes(content)
    artifact.verify_small()


def test_a_file_that_was_put_beside_is_not_used(artifact: Artifact) -> None:
    file = artifact.path / "special_tokens_map.json"
    assert file.name not in artifact.manifest.files
    (artifact.path / "README.md").write_text("anybody's notes")
    artifact.verify_small()
    file.write_text("{}")
    with pytest.raises(ArtifactError, match="is not one of its files, so it is not used"):
        artifact.verify_small()


def test_a_pinned_artifact(artifact: Artifact) -> None:
    """The expected digest stands for every byte, the weights' included."""
    expect = artifact.sha256
    assert Artifact.open(artifact.path, expect) == artifact
    for wrong in ("", "sha256:", "sha256:" + "0" * 63, expect.upper(), expect.removeprefix("sha")):
        with pytest.raises(InputError, match="must be sha256: and 64 hexadecimal digits"):
            Artifact.open(artifact.path, wrong)
    with pytest.raises(ArtifactError, match=f"is {expect}, not the sha256:0000"):
        Artifact.open(artifact.path, "sha256:" + "0" * 64)
    for name in artifact.manifest.files:
        file = artifact.path / name
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ArtifactError, match=f"{name} differs from its SHA-256"):
            Artifact.open(artifact.path, expect)
        file.write_bytes(content)
    # Whoever changes a file and says so makes another artifact.
    record = FileRecord(1, hashlib.sha256(b"x").hexdigest())
    (artifact.path / "weights.irpa").write_bytes(b"x")
    files = artifact.manifest.files | {"weights.irpa": record}
    text = dataclasses.replace(artifact.manifest, files=files).to_json()
    (artifact.path / MANIFEST_NAME).write_text(text)
    assert Artifact.open(artifact.path).sha256 != expect


def test_a_file_that_the_system_does_not_give(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remedy is for the reason: to compile again would not help."""
    for number, remedy in {errno.EMFILE: "ulimit -n", errno.EACCES: "let this user"}.items():
        with monkeypatch.context() as patch:
            failure = OSError(number, os.strerror(number))
            patch.setattr(Path, "open", Mock(side_effect=failure))
            for call in (artifact.verify, lambda: Artifact.open(artifact.path)):
                with pytest.raises(ArtifactError, match=f"cannot be read: .*{remedy}"):
                    call()


def test_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"not found \(edgec compile MODEL -o "):
        Artifact.open(tmp_path / "none")
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        Artifact.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        Artifact.open(tmp_path / "file")
    (tmp_path / MANIFEST_NAME).write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match="cannot be read"):
        Artifact.open(tmp_path)
