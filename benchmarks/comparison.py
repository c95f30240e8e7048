"""The shipped comparison: puts what `vlmzoo compare` left into a result file, two drawings and the table of the README.

.venv/bin/vlmzoo compare zoo/vlmzoo/quickstart/grid.yaml --output runs/comparison     # about 25 minutes on two idle cores
.venv/bin/python benchmarks/comparison.py runs/comparison
"""

import json
import sys
from pathlib import Path

from vlmzoo.comparison.plots import score_plots
from vlmzoo.comparison.result import Comparison
from vlmzoo.comparison.table import markdown

HERE = Path(__file__).parent
RESULT = HERE / "results" / "comparison.json"
README = HERE / "README.md"
BEGIN, END = "<!-- comparison: written by benchmarks/comparison.py -->", "<!-- comparison: end -->"
INK, GROUND = "#1c2128", "#ffffff"  # an image file does not know the page it stands in


def section(comparison: Comparison) -> str:
    """What stands between the marks: the table, and the drawings."""
    images = [f"![{comparison.metrics[0]} against {key}](results/comparison-{key}.svg)" for key in score_plots(comparison)]
    return "\n".join([markdown(comparison).strip(), "", *images])


def without_paths(data: dict) -> dict:
    """The result without what is only true of one machine: the folders of its data."""
    kept = dict(data)
    kept["grid"] = {**data["grid"], "base": None, "evaluate": {**data["grid"]["evaluate"], "data": []}}
    return kept


def main() -> None:
    """Read the comparison in the folder that is named, write the files."""
    data = without_paths(json.loads((Path(sys.argv[1]) / "comparison.json").read_text(encoding="utf-8")))
    comparison = Comparison.from_dict(data)
    RESULT.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for key, svg in score_plots(comparison, ink=INK, ground=GROUND).items():
        (RESULT.parent / f"comparison-{key}.svg").write_text(svg, encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n\n{section(comparison)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
