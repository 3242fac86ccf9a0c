"""The spellings of `--target`, and what a CPU becomes."""

from __future__ import annotations

import platform

import pytest

from edgec.compiler.targets import TARGETS, parse_targets
from edgec.errors import InputError
from edgec.runtime.cpu import check_cpu
from edgec.runtime.drivers import driver_of


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "target '': must be one of cpu"),
        ("tpu", "target 'tpu': must be one of cpu"),
        ("CPU", "target 'CPU'"),
        ("cpu,", "target ''"),
        ("cpu,cpu:cortex-a76", "cpu is named twice"),
        ("cpu:no-such-cpu", "target 'cpu:no-such-cpu': Unknown CPU"),
        ("cpu:aarch64-", "target 'cpu:aarch64-'"),
        ("cpu:aarch64-linux gnu", "target 'cpu:aarch64-linux gnu'"),
        ("cpu:--help", "target 'cpu:--help'"),
    ],
)
def test_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        parse_targets(text)
    assert "\n" not in str(caught.value)


def test_every_target_is_named_as_it_is_registered() -> None:
    for kind in TARGETS:
        assert [target.name for target in parse_targets(kind)] == [kind]


@pytest.mark.parametrize("kind", TARGETS)
def test_the_runtime_knows_the_driver_of_every_target(kind: str) -> None:
    (target,) = parse_targets(kind)
    driver = driver_of(target.driver)
    assert driver is not None
    assert (driver.device, driver.opened) == (kind, target.driver)
    assert driver.on_host == target.on_host
    assert set(target.requirements) <= set(driver.requirements)


def test_the_host_is_resolved() -> None:
    (host,) = parse_targets("cpu")
    assert parse_targets(" cpu:host ") == (host,)
    assert host.architecture != "host"
    machine = platform.machine().replace("arm64", "aarch64")
    assert host.requirements["architecture"] == machine
    assert host.requirements["cpu_features"]
    # What this machine compiles for itself it also loads, whatever a hypervisor or kernel hides.
    check_cpu(host.requirements)


def test_requirements_name_no_amx() -> None:
    """Generated code has no tile intrinsics, so a CPU whose kernel lacks AMX runs it."""
    (target,) = parse_targets("cpu:sapphirerapids")
    assert "avx512fp16" in target.requirements["cpu_features"]
    assert "amx" not in target.requirements["cpu_features"]


@pytest.mark.parametrize(
    ("variant", "architecture", "feature"),
    [
        ("cortex-a76", "aarch64", "dotprod"),
        ("apple-m1", "aarch64", "neon"),
        ("skylake-avx512", "x86_64", "avx512f"),
        ("znver3", "x86_64", "avx2"),
    ],
)
def test_named_cpus(variant: str, architecture: str, feature: str) -> None:
    (target,) = parse_targets(f"cpu:{variant}")
    assert target.architecture == target.requirements["cpu"] == variant
    assert target.requirements["architecture"] == architecture
    assert feature in target.requirements["cpu_features"].split(",")
    assert f"--iree-llvmcpu-target-cpu={variant}" in target.flags


@pytest.mark.parametrize("architecture", ["aarch64", "x86_64", "riscv64"])
def test_triples(architecture: str) -> None:
    (target,) = parse_targets(f"cpu:{architecture}-linux-gnu")
    assert target.requirements["architecture"] == architecture
    assert target.architecture == "generic"
