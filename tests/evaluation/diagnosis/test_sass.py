"""Reading machine code: where spilled registers cost time."""

from __future__ import annotations

import pytest

from pytest_avo.evaluation.diagnosis.sass import read

LOG = "ptxas info    : Used 168 registers\n    0 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads"
LABELS = """\
        /*0000*/                   STL [R1], R0 ;
.L_x_0:
        /*0010*/                   LDL R4, [R1] ;
.L_x_1:
        /*0020*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R2 ;
        /*0030*/              @!P0 BRA `(.L_x_1) ;
.L_x_2:
        /*0040*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24 ;
        /*0050*/                   {hot} ;
        /*0060*/               @P1 BRA `(.L_x_2) ;
        /*0070*/               @P2 BRA `(.L_x_0) ;
        /*0080*/                   EXIT ;
"""
ADDRESSES = """\
        /*0000*/                   STL [R1], R0 ;
        /*0010*/                   LDL R4, [R1] ;
        /*0040*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0050*/                   {hot} ;
        /*0060*/               @P1 BRA 0x40 ;
        /*0070*/               @P2 BRA 0x10 ;
        /*0080*/                   EXIT ;
"""


@pytest.mark.parametrize("listing", [LABELS, ADDRESSES], ids=["nvdisasm", "cuobjdump"])
def test_what_is_spilled_around_the_loop_that_multiplies_is_not_in_it(listing: str) -> None:
    aside, hot = (read(LOG, listing.replace("{hot}", code)) for code in ("NOP", "LDL R7, [R1+0x4]"))
    assert (aside.spill_stores_bytes, aside.spill_loads_bytes, aside.hot_local) == (4, 8, 0)
    assert hot.hot_local == 1
    assert (aside.opcodes["LDL"], hot.opcodes["LDL"]) == (1, 2)


def test_without_a_loop_that_multiplies_every_spill_counts() -> None:
    unrolled = "\n".join(line for line in LABELS.replace("{hot}", "NOP").splitlines() if "HGMMA" not in line)
    assert read(LOG, unrolled).hot_local == 2
    assert read(LOG, "").hot_local == 0
