from __future__ import annotations

import pytest

from edgec.runtime.cpu import missing_features, parse_cpuinfo

X86 = """\
processor\t: 0
flags\t\t: fpu sse sse2 pni ssse3 sse4_1 sse4_2 avx avx2 fma f16c bmi1 bmi2 abm avx512_vnni
processor\t: 1
flags\t\t: fpu sse sse2 pni ssse3 sse4_1 sse4_2 avx avx2 fma f16c bmi1 bmi2 abm
"""
ARM = "processor: 0\nFeatures\t: fp asimd aes crc32 atomics fphp asimdhp asimddp\n"


def test_a_feature_counts_when_every_core_has_it() -> None:
    flags = parse_cpuinfo(X86)
    assert "avx2" in flags
    assert "avx512_vnni" not in flags
    assert parse_cpuinfo("nothing") == frozenset()


@pytest.mark.parametrize(
    ("required", "architecture", "text", "missing"),
    [
        ("avx2,fma,f16c", "x86_64", X86, []),
        ("+sse3, sse4.1,bmi,lzcnt,x87", "x86_64", X86, []),
        ("avx2,avx512vnni,avx512f", "x86_64", X86, ["avx512vnni", "avx512f"]),
        ("neon,dotprod,fullfp16,lse,crc", "aarch64", ARM, []),
        ("neon,i8mm,bf16,sve2", "aarch64", ARM, ["i8mm", "bf16", "sve2"]),
        ("", "x86_64", X86, []),
    ],
)
def test_missing_features_by_either_name(
    required: str, architecture: str, text: str, missing: list[str]
) -> None:
    assert missing_features(required, architecture, parse_cpuinfo(text)) == missing
