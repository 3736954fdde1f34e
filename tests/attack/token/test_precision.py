"""Candidates are ranked in bfloat16 only on machines where that is faster."""

from pathlib import Path

import pytest

from jaxretr.attack.token import precision
from jaxretr.attack.token.precision import FINALISTS, default_finalists, has_fast_bfloat16

EPYC = "vendor_id\t: AuthenticAMD\nflags\t\t: fma avx512f avx512_bf16 avx512vbmi\n"
XEON_WITHOUT_AMX = "vendor_id\t: GenuineIntel\nflags\t\t: fma avx512f avx512_bf16 avx512_fp16\n"
XEON = "vendor_id\t: GenuineIntel\nflags\t\t: fma avx512_bf16 amx_tile amx_bf16\n"
OLD_EPYC = "vendor_id\t: AuthenticAMD\nflags\t\t: fma avx2\n"


@pytest.mark.parametrize(
    ("cpu", "fast"), [(EPYC, True), (XEON, True), (XEON_WITHOUT_AMX, False), (OLD_EPYC, False), ("", False)]
)
def test_bfloat16_ranks_only_where_it_is_faster(
    cpu: str, fast: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert has_fast_bfloat16(cpu) == fast
    monkeypatch.setattr(precision, "CPU_INFO", tmp_path / "cpuinfo")
    assert default_finalists() == 0  # the file does not exist
    precision.CPU_INFO.write_text(cpu)
    assert default_finalists() == (FINALISTS if fast else 0)
