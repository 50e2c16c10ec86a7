"""The three writers say the same, and nothing that a run is called can break out of their markup."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from dynconv.report.page.document import Facts, Figure, Line, Missing, Report, Section, Table, Text
from dynconv.report.page.html import html
from dynconv.report.page.latex import escape, latex
from dynconv.report.page.markdown import markdown

NASTY = r"<script>alert(1)</script> | a_b & 50% \ {x} $y$ #1 ~ ^ `c` 数"


@pytest.fixture
def report(tmp_path: Path) -> Report:
    path = tmp_path / "figures" / "a picture.png"
    path.parent.mkdir()
    Image.new("RGB", (30, 20), (200, 0, 0)).save(path)
    lines = (
        Line((NASTY, "85.0 ± 7.1"), first=True),
        Line(("paper", "87.9"), "reference"),
        Line(("cited", ""), "cited", first=True),
    )
    inner = Section("Run", (Facts((("command", NASTY),)), Missing("t-SNE", NASTY)), folded=True)
    blocks = (Table("Results", ("method", "task"), lines, ("A note.",)), Figure("Curves", NASTY, path, "A caption."))
    return Report(NASTY, ("Said first.",), (Section("All", (*blocks, Text("Words.")), (inner,)), Section("All")))


def test_markdown_has_every_part_and_escapes_cells(report: Report, tmp_path: Path) -> None:
    text = markdown(report, tmp_path)
    assert r"\<script\>alert(1)\</script\> \| a\_b & 50% \\ {x}" in text
    assert "| --- | ---: |" in text and "| *paper* | *87.9* |" in text and "| *cited* |  |" in text
    assert "(figures/a%20picture.png)" in text
    for words in ("Said first.", "A note.", "A caption.", "Words.", "### Run", "t-SNE"):
        assert words in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 3


def test_markdown_shows_code_as_code(tmp_path: Path) -> None:
    text = markdown(Report("t", ("say `dynconv train --max_steps` * or `a|b`",), ()), tmp_path)
    assert text == "# t\n\nsay `dynconv train --max_steps` \\* or \\`a\\|b\\`\n"


def test_latex_is_balanced_and_has_no_raw_command_character(report: Report, tmp_path: Path) -> None:
    text = latex(report, tmp_path)
    stack: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert r"85.0 $\pm$ 7.1" in text and r"\textit{87.9}" in text and r"\toprule" in text
    assert text.isascii() and "[U+6570]" in text
    assert r"50\% \textbackslash{} \{x\} \$y\$ \#1 \textasciitilde{} \textasciicircum{}" in text


def test_letters_that_latex_prints_pass_and_others_are_numbered() -> None:
    assert escape("Müller–Łódź → −2.9") == r"Müller--Łódź $\rightarrow$ $-$2.9"
    assert escape("2π σ 90° R²") == r"2$\pi$ $\sigma$ 90$^{\circ}$ R$^{2}$"
    assert escape("Ħ") == "[U+0126]", "pdfTeX has no such letter"
    assert escape("✗\x00") == "[U+2717][U+0000]"
    assert escape("--lr <1e-3>") == r"-{}-{}lr \textless{}1e-{}3\textgreater{}"


def test_latex_draws_its_figures_within_the_page(report: Report, tmp_path: Path) -> None:
    text = latex(report, tmp_path)
    size = r"width=\linewidth,height=.8\textheight,keepaspectratio"
    assert rf"\includegraphics[{size}]{{{{figures/a picture}}.png}}" in text and "A caption." in text
    figure = Figure("f", "f", tmp_path / "figures" / "K=4_lr0.1.2-training.png")
    dotted = latex(Report("t", (), (Section("s", (figure,)),)), tmp_path)
    assert "{{figures/K=4_lr0.1.2-training}.png}" in dotted, "the kind of file is what follows the last dot"


def test_a_long_table_goes_on_over_the_page(tmp_path: Path) -> None:
    def pieces(cell: str, count: int) -> list[int]:
        lines = tuple(Line((f"{index} {cell}", "1"), first=True) for index in range(count))
        text = latex(Report("t", (), (Section("s", (Table("long", ("a", "b"), lines, ("Once.",)),)),)), tmp_path)
        bodies = re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL)
        found = [len(re.findall(r"^\{\}(\d+)", body, re.MULTILINE)) for body in bodies]
        assert re.findall(r"\\textbf\{(.*?)\}", text) == ["long", *["long, continued"] * (len(found) - 1)]
        assert text.count("Once.") == 1 and re.findall(r"^\{\}(\d+)", text, re.MULTILINE) == list(
            map(str, range(count))
        )
        return found

    assert pieces("row", 24) == [24]
    assert pieces("row", 60) == [24, 24, 12]
    assert pieces("words that wrap " * 8, 20) == [8, 8, 4], "four printed lines each, and half a line between them"
    assert pieces("row", 0) == [0]


def test_words_too_long_for_a_line_may_be_broken() -> None:
    assert escape("runs/mnist-usps/DRT/seed0/x") == (
        r"runs/\allowbreak{}mnist-{}usps/\allowbreak{}DRT/\allowbreak{}seed0/\allowbreak{}x"
    )
    assert escape("a/b some/path") == "a/b some/path"
    assert escape("x" * 50) == r"\allowbreak{}".join(("x" * 24, "x" * 24, "xx"))


def test_a_report_compiles_within_its_pages(report: Report, tmp_path: Path) -> None:
    program = shutil.which("pdflatex")
    if program is None:
        pytest.skip("NO LATEX: report.tex was not compiled (pdflatex of TeX Live, Debian's texlive-latex-extra)")
    lines = tuple(Line((f"gam ({'source_checkpoint=gam, ' * (index % 9)})", *["88.1"] * 14)) for index in range(50))
    command = f"dynconv train --out {'runs/a_very_long_name/' * 20} {'unbroken' * 30}"
    more = Section("More", (Table("wide and long", ("method", *"abcdefghijklmn"), lines), Facts((("run", command),))))
    whole = Report(report.title, report.introduction, (*report.sections, more))
    (tmp_path / "report.tex").write_text(latex(whole, tmp_path))
    done = subprocess.run(
        [program, "-interaction=nonstopmode", "-halt-on-error", "report.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout and (tmp_path / "report.pdf").stat().st_size > 10_000


def test_html_holds_its_images_and_runs_nothing(report: Report, tmp_path: Path) -> None:
    text = html(report, tmp_path)
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text
    assert re.findall(r"(?:src|href)=\"(?!data:|#)", text) == []
    assert "http:" not in text and "https:" not in text
    assert 'src="data:image/png;base64,' in text and 'width="30" height="20"' in text
    assert '<th scope="col" class="word">method</th>' in text and '<tr class="cited first">' in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert ids == ["all", "run", "all-2"], "each heading has a name of its own"
    assert set(re.findall(r'href="#([^"]+)"', text)) == {"all", "all-2"}
    assert re.search(r"<details id=\"run\">\s*<summary><h3>Run</h3></summary>", text)
    assert 'name="viewport"' in text and '<html lang="en">' in text
