"""figures.py where a chapter would not notice: markup that loads nothing, letters that stay letters, plain numbers on axes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "notebooks"))
import figures


def test_a_slider_holds_its_frames_and_loads_nothing() -> None:
    frames = [{"a row": [(at, "on"), ("", "off")]} for at in range(3)]
    markup = figures.slider(frames, "step <1>", {"on": figures.BLUE, "off": "#ffffff"})
    assert markup == figures.slider(frames, "step <1>", {"on": figures.BLUE, "off": "#ffffff"}), "the same bytes"
    assert not re.search(r"https?:|src=|href=|import|fetch", markup)
    (data,) = re.findall(r"const \[frames, inks\] = (.*);\n", markup)
    held, inks = json.loads(data)
    assert held == [{"a row": [[str(at), "on"], ["", "off"]]} for at in range(3)]
    assert set(inks) == {"on", "off"} and 'max="2"' in markup and "step &lt;1&gt;" in markup


def test_a_slider_takes_markup_for_letters() -> None:
    markup = figures.slider([{"</script><b>": [("<i>", "on")]}], "step", {"on": figures.BLUE})
    assert markup.count("</script>") == 1 and "<i>" not in markup and "&lt;i&gt;" in markup


def test_logarithmic_axes_are_labelled_in_plain_numbers() -> None:
    whole, axes = figures.figure(4, 3)
    axes.plot([1, 10_000], [0.001, 1.0])
    figures.logarithmic(axes)
    whole.canvas.draw()
    labels = {label.get_text() for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels()}
    assert {"1", "100", "10,000", "0.01"} <= labels and not any("$" in label for label in labels)
