"""What the README shows is run as it is printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def output_of(block, folder):
    """What a block of Python in the README prints."""
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[block]
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_quick_start_runs_and_reaches_what_a_reader_expects(tmp_path):
    accuracy = float(output_of(0, tmp_path).splitlines()[0].split()[-1])
    assert accuracy > 0.95
    assert (tmp_path / "digits.safetensors").is_file()


def test_the_other_tasks_run_and_stop_and_answer(tmp_path):
    output = output_of(1, tmp_path)
    epochs = int(re.match(r"(\d+) epochs", output).group(1))
    assert 10 < epochs < 200, "it stops by itself"
    first, second, third = map(float, re.search(r"three: \[(.*)\]", output).group(1).split())
    assert second < min(first, third), "151, 75 and 141 are the answers"
    assert re.search(r"\['setosa' 'setosa' 'versicolor' 'virginica' 'virginica'\]", output), output


def test_every_command_line_it_names_exists():
    block = re.search(r"## The command line\n\n```\n(.*?)```", README, re.DOTALL).group(1)
    commands = set(re.findall(r"^fastnn (\w+)", block, re.MULTILINE))
    assert commands
    environment = {**os.environ, "COLUMNS": "200"}
    help_text = subprocess.run([sys.executable, "-m", "fastnn", "--help"], env=environment, capture_output=True, text=True, timeout=120, check=True).stdout
    assert all(re.search(rf"\b{command}\b", help_text) for command in commands)
    options = subprocess.run([sys.executable, "-m", "fastnn", "train", "--help"], env=environment, capture_output=True, text=True, timeout=120, check=True).stdout
    listed = re.search(r"`(--backend numpy.*?)` are explained", README, re.DOTALL).group(1)
    for option in re.findall(r"--[\w-]+", listed):
        assert option in options, option


def test_the_files_it_points_to_exist():
    root = Path(__file__).parents[1]
    pages = [root / "README.md", root / "bench" / "README.md", root / "bench" / "results" / "README.md", *(root / "docs").glob("*.md")]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for target, part in re.findall(r"\]\(([\w./-]+)(#[\w-]+)?\)", text):
            assert (page.parent / target).exists(), (page, target)
            if part:
                headings = re.findall(r"^#+ (.*)$", (page.parent / target).read_text(encoding="utf-8"), re.MULTILINE)
                assert part[1:] in [heading.lower().replace(" ", "-") for heading in headings], (page, target, part)
