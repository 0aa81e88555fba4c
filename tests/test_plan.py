"""Plans and reports are plain data, and how they are printed."""

import json
from dataclasses import replace

import pytest
from expecttest import TestCase

from fxmem import Plan, Refusal, Report, Residual, Site

HIDDEN = Residual("addmm", "mlp.0", "aten.addmm", (2048, 1024), "float32", 8 * 2**20)
MASK = Residual("le", "mlp.1", "aten.le", ("s0", 1024), "bool", 2**20)
STATISTIC = Residual("rsqrt", "", "aten.rsqrt", (2048, 1), "float32", 8192)
PLAN = Plan(
    (
        Site(HIDDEN, "encode", "8 bits, groups of 64", 2162688, "bounded"),
        Site(MASK, "masks", "1 bit an element", 2**17, "exact"),
        Refusal(STATISTIC, "encode", "a statistic"),
    ),
    ("le: evaluated in the forward and kept, not recomputed",),
)


class TestPrinting(TestCase):
    def test_text(self):
        report = Report((PLAN,), {"inductor": 17 * 2**20})
        # One line a residual in columns: module, op, tensor, bytes, guarantee, what was done or the
        # refusal; then the note; then totals beside the baseline. A symbolic size has no quotes.
        self.assertExpectedInline(
            str(report),
            """\
fxmem: 3 residuals
  mlp.0  aten.addmm  float32[2048, 1024]  8192.0 -> 2112.0 KiB  bounded  8 bits, groups of 64
  mlp.1  aten.le     bool[s0, 1024]       1024.0 -> 128.0 KiB   exact    1 bit an element
         aten.rsqrt  float32[2048, 1]     8.0 -> 8.0 KiB        exact    kept: a statistic
  note: le: evaluated in the forward and kept, not recomputed
inductor                    17.00 MiB
this cut, not encoded        9.01 MiB
fxmem (bounded)              2.20 MiB, 13% of inductor""",
        )

    def test_notes_that_differ_in_a_number_are_one(self):
        moved = "evaluated in the forward and kept, not recomputed"
        notes = (f"gt_1: {moved}", f"gt_12: {moved}", f"le_3: {moved}", "budget 0.5 refused")
        lines = str(Report((Plan(notes=notes),))).splitlines()
        self.assertExpectedInline(
            "\n".join(line for line in lines if "note" in line),
            """\
  note: 2 x gt: evaluated in the forward and kept, not recomputed
  note: le_3: evaluated in the forward and kept, not recomputed
  note: budget 0.5 refused""",
        )

    def test_text_of_two_graphs(self):
        # A graph break: each graph has its own heading, the totals are of both.
        self.assertExpectedInline(
            str(Report((PLAN, Plan()))),
            """\
fxmem graph 0: 3 residuals
  mlp.0  aten.addmm  float32[2048, 1024]  8192.0 -> 2112.0 KiB  bounded  8 bits, groups of 64
  mlp.1  aten.le     bool[s0, 1024]       1024.0 -> 128.0 KiB   exact    1 bit an element
         aten.rsqrt  float32[2048, 1]     8.0 -> 8.0 KiB        exact    kept: a statistic
  note: le: evaluated in the forward and kept, not recomputed
fxmem graph 1: 0 residuals
this cut, not encoded        9.01 MiB
fxmem (bounded)              2.20 MiB""",
        )

    def test_text_of_what_is_alike(self):
        # Alike but for the numbers in their paths: one line, of all their bytes the most first.
        # What differs in any column, and what stands alone, keeps its own line and path.
        entries = [Refusal(STATISTIC, "encode", "a statistic")]
        for path in ("h.0.ln_1", "h.0.ln_2", "h.11.ln_1", "wte"):
            norm = replace(HIDDEN, module=path, nbytes=2**20)
            entries.append(Site(norm, "encode", "8 bits", 2**18, "bounded"))
        entries.append(replace(entries[1], guarantee="exact"))
        entries += 2 * [Refusal(replace(MASK, module="h.3.act"), "", "no rule")]
        self.assertExpectedInline(
            str(Report((Plan(tuple(entries)),))),
            """\
fxmem: 8 residuals
  h.3.act   aten.le     bool[s0, 1024]       2 x 1024.0 -> 1024.0 KiB  exact    kept: no rule
  h.*.ln_*  aten.addmm  float32[2048, 1024]  3 x 1024.0 -> 256.0 KiB   bounded  8 bits
  wte       aten.addmm  float32[2048, 1024]  1024.0 -> 256.0 KiB       bounded  8 bits
  h.0.ln_1  aten.addmm  float32[2048, 1024]  1024.0 -> 256.0 KiB       exact    8 bits
            aten.rsqrt  float32[2048, 1]     8.0 -> 8.0 KiB            exact    kept: a statistic
this cut, not encoded        7.01 MiB
fxmem (bounded)              3.26 MiB""",
        )

    def test_html(self):
        # The table of a notebook: two bars a row, before and after; < and & are escaped.
        hostile = Residual("x", "<b>&", "aten.mm", (4, 4), "float32", 64)
        report = Report((Plan((Refusal(hostile, "encode", "1 < 2"),)),), {"eager": 128})
        text = report._repr_html_().replace("><", ">\n<")
        text = text.encode("ascii", "xmlcharrefreplace").decode()  # expecttest writes ASCII alone
        self.assertExpectedInline(
            text,
            """\
<table style='font-size:90%'>
<tr>
<th style='text-align:left'>module</th>
<th style='text-align:left'>op</th>
<th style='text-align:left'>shape</th>
<th style='text-align:left'>dtype</th>
<th style='text-align:left'>what was done</th>
<th style='text-align:left'>KiB</th>
<th style='text-align:left'>guarantee</th>
</tr>
<tr>
<td style='text-align:left'>&lt;b&gt;&amp;</td>
<td style='text-align:left'>aten.mm</td>
<td style='text-align:left'>4 &#215; 4</td>
<td style='text-align:left'>float32</td>
<td style='text-align:left'>kept: 1 &lt; 2</td>
<td style='text-align:left'>0.1 &#8594; 0.1<div style='height:5px;width:161px;background:#c9ced6'>
</div>
<div style='height:5px;width:161px;background:#2f7ed8'>
</div>
</td>
<td>exact</td>
</tr>
</table>
<pre style='margin:0'>eager                        0.00 MiB
this cut, not encoded        0.00 MiB
fxmem (exact)                0.00 MiB, 50% of eager</pre>""",
        )

    def test_dict(self):
        report = Report((PLAN,), {"inductor": 17 * 2**20})
        # Totals, and one flat dict a residual; nothing that json does not know.
        self.assertExpectedInline(
            json.dumps(report.to_dict(), indent=1),
            """\
{
 "kept": 2301952,
 "before": 9445376,
 "outside": 0,
 "guarantee": "bounded",
 "baselines": {
  "inductor": 17825792
 },
 "graphs": [
  {
   "notes": [
    "le: evaluated in the forward and kept, not recomputed"
   ],
   "residuals": [
    {
     "name": "addmm",
     "module": "mlp.0",
     "op": "aten.addmm",
     "shape": [
      2048,
      1024
     ],
     "dtype": "float32",
     "nbytes": 8388608,
     "kind": "site",
     "rule": "encode",
     "action": "8 bits, groups of 64",
     "kept": 2162688,
     "guarantee": "bounded"
    },
    {
     "name": "le",
     "module": "mlp.1",
     "op": "aten.le",
     "shape": [
      "s0",
      1024
     ],
     "dtype": "bool",
     "nbytes": 1048576,
     "kind": "site",
     "rule": "masks",
     "action": "1 bit an element",
     "kept": 131072,
     "guarantee": "exact"
    },
    {
     "name": "rsqrt",
     "module": "",
     "op": "aten.rsqrt",
     "shape": [
      2048,
      1
     ],
     "dtype": "float32",
     "nbytes": 8192,
     "kind": "refusal",
     "rule": "encode",
     "action": "kept: a statistic",
     "kept": 8192,
     "guarantee": "exact"
    }
   ],
   "spared": []
  }
 ]
}""",
        )


def test_empty_report():
    report = Report((Plan(),))
    assert (report.kept, report.before, report.guarantee) == (0, 0, "exact")
    assert str(report).splitlines()[0] == "fxmem: 0 residuals"
    assert "<table" in report._repr_html_()


def test_totals():
    assert PLAN.before == 8 * 2**20 + 2**20 + 8192
    assert PLAN.after == 2162688 + 2**17 + 8192
    report = Report((PLAN, PLAN))
    assert (report.before, report.kept) == (2 * PLAN.before, 2 * PLAN.after)
    assert len(list(report.entries)) == 6
    assert (len(PLAN.sites), len(PLAN.refusals)) == (2, 1)


def test_a_nested_region_counts_where_it_is_called():
    region = Plan(PLAN.entries, region=True)
    caller = Plan(PLAN.entries[2:], nested=2 * (region.before - region.after))
    report = Report((region, caller))
    assert report.kept == caller.after == 8192
    assert report.before == 8192 + 2 * (PLAN.before - PLAN.after)
    assert "graph 0, a nested region" in str(report)


@pytest.mark.parametrize(
    "guarantees, weakest",
    [
        (["exact"], "exact"),
        (["unbiased", "exact"], "unbiased"),
        (["bounded", "unbiased"], "bounded"),
    ],
)
def test_guarantee_is_the_weakest(guarantees, weakest):
    sites = tuple(Site(MASK, "masks", "", 1, guarantee) for guarantee in guarantees)
    assert Report((Plan(sites),)).guarantee == weakest


def test_unknown_guarantee_is_refused():
    with pytest.raises(ValueError) as error:
        Site(MASK, "masks", "", 1, "good")
    assert str(error.value) == (
        "guarantee must be one of ('exact', 'unbiased', 'bounded'), got 'good'"
    )
