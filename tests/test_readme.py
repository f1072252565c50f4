"""What the README shows is run as it is printed."""

import ast
import builtins
import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_structure import RANK

import fastnn
import fastnn.estimators
from fastnn.training import History

ROOT = Path(__file__).parents[1]
README, API, ARCHITECTURE = (
    (ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/api.md", "docs/architecture.md")
)


def output_of(block, folder, page=README):
    """What a block of Python on a page prints."""
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[block]
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
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


def test_the_pipeline_scores(tmp_path):
    assert float(output_of(2, tmp_path)) > 0.93


def test_the_picture_is_that_of_the_results_it_names(tmp_path):
    """Drawn anew it names every cell, and no number has changed."""
    found = re.search(
        r"`(cpu-[\d-]+)\.\{txt,json,html\}`", (ROOT / "bench/results/README.md").read_text(encoding="utf-8")
    )
    results = ROOT / "bench" / "results" / f"{found.group(1)}.json"
    drawn = tmp_path / "speed.svg"
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "picture.py", results, drawn],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    units = json.loads(results.read_text())["units"]
    assert len(done.stdout.splitlines()) == 18
    for line, cell in (
        ("784-1024-1024-10, 2048", "train/784-1024-1024-10@2048@sgd"),
        ("784-300-100-10, 10,000", "predict/784-300-100-10@10000"),
    ):
        entrants = units[cell]["entrants"]
        best = min(
            e["median"]
            for name, e in entrants.items()
            if name in ("jax", "compile", "torch", "onnx", "sklearn") and e["status"] == "ok"
        )
        shown = re.search(rf"{line} +([\d.]+)", done.stdout).group(1)
        assert shown == f"{best / entrants['numba']['median']:.2f}"
    # one path for each mark, in the committed picture as in this one
    committed = (ROOT / "docs" / "speed.svg").read_text(encoding="utf-8")
    assert committed.count("<use ") == drawn.read_text(encoding="utf-8").count("<use ")


def test_the_page_on_the_interface_tells_what_there_is(tmp_path):
    """Every argument with its default, every field of a history, every public name."""
    for function, name in ((fastnn.Network, "fastnn.Network("), (fastnn.Network.fit, "net.fit(")):
        shown = API[API.index(name) : API.index("```", API.index(name))]
        for parameter in list(inspect.signature(function).parameters.values())[
            1 if function is fastnn.Network.fit else 0 :
        ]:
            wanted = (
                parameter.name
                if parameter.default is parameter.empty
                else f"{parameter.name}={json.dumps(parameter.default)}"
            )
            assert (
                wanted.replace("null", "None").replace("true", "True").replace("false", "False").replace("[]", "()")
                in shown
            ), wanted
    for field in dataclasses.fields(History):
        assert f"`{field.name}`" in API, field.name
    for name in set(fastnn.__all__) - {
        "__version__",
        "activations",
        "costs",
        "History",
        "Activation",
        "initializers",
        "optimizers",
        "schedules",
    }:
        assert f"fastnn.{name}" in API, name
    first, second = re.findall(r"\[(.*?)\]", output_of(0, tmp_path, API))
    assert (len(first.split(",")), len(second.split(","))) == (3, 2)
    assert output_of(1, tmp_path, API).strip() == "the same bits: True"
    assert float(output_of(2, tmp_path, API).split()[-1]) < 1e-4, "L-BFGS"
    assert output_of(3, tmp_path, API) == "[0.00325, 0.00775, 0.00325, 0.00775]\n", "a schedule of one's own"
    assert output_of(4, tmp_path, API) == "", "steps of one's own"
    assert float(output_of(5, tmp_path, API).split()[-1]) > 0.9, "a cost of one's own"
    assert float(output_of(6, tmp_path, API)) > 0.93


def test_many_networks_at_once_are_better_together(tmp_path):
    page = (ROOT / "docs" / "cpu.md").read_text(encoding="utf-8")
    together, each = re.findall(r"0\.\d+", output_of(0, tmp_path, page))
    assert float(together) >= float(each) > 0.7


TABLES = {
    "optimizers": [cls.__name__ for cls in fastnn.optimizers.OPTIMIZERS.values()],
    "schedules": [*fastnn.schedules.SCHEDULES, "PerEpoch", "scaled"],
    "initializers": [cls.__name__ for cls in fastnn.initializers.INITIALIZERS.values()],
    "callbacks": fastnn.callbacks.__all__,
    "estimators": fastnn.estimators.__all__,
}


def shown_signatures(module):
    """{name: signature} of the calls in the table of a module, or in the block of the estimators."""
    if module == "estimators":
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", API, re.DOTALL | re.MULTILINE)
        (text,) = [block for language, block in blocks if not language and "DenseClassifier(" in block]
        calls = re.findall(r"^(\w+)(\(.*?\))(?=\n\w|\n\Z)", text, re.DOTALL | re.MULTILINE)
    else:
        (table,) = re.findall(rf"^\| `fastnn\.{module}`.*?\n\n", API, re.DOTALL | re.MULTILINE)
        rows = [line.split("|")[1] for line in table.splitlines()[2:] if line]
        calls = [call for row in rows for call in re.findall(r"`(\w+)(\(.*?\))`", row)]
    return {name: signature_of_text(arguments) for name, arguments in calls}


def signature_of_text(arguments):
    (function,) = ast.parse(f"def f{arguments}: ...").body
    positional, keyword = function.args.args, function.args.kwonlyargs
    given = [None] * (len(positional) - len(function.args.defaults)) + function.args.defaults
    return [
        (argument.arg, kind, inspect.Parameter.empty if default is None else ast.literal_eval(default))
        for kind, names, defaults in (
            (inspect.Parameter.POSITIONAL_OR_KEYWORD, positional, given),
            (inspect.Parameter.KEYWORD_ONLY, keyword, function.args.kw_defaults),
        )
        for argument, default in zip(names, defaults, strict=True)
    ]


@pytest.mark.parametrize("module", TABLES)
def test_the_page_on_the_interface_shows_signatures_as_they_are(module):
    """Names, order, kinds and defaults of every class of the tables, and none is left out."""
    shown = shown_signatures(module)
    assert sorted(shown) == sorted(TABLES[module])
    for name, signature in shown.items():
        parameters = inspect.signature(getattr(getattr(fastnn, module), name)).parameters.values()
        assert signature == [(p.name, p.kind, p.default) for p in parameters], name


def test_the_table_of_environment_variables_has_every_one_of_fastnn():
    table = API[API.index("## Environment variables") : API.index("## Errors")]
    sources = [path for folder in ("fastnn", "kernels") for path in (ROOT / folder).rglob("*.py")]
    read = {name for path in sources for name in re.findall(r"\bFASTNN_[A-Z]+\b", path.read_text(encoding="utf-8"))}
    assert "FASTNN_AMX" in read
    assert set(re.findall(r"\bFASTNN_[A-Z]+\b", table)) == read


@pytest.mark.parametrize("folder", ["fastnn", "fastnn/backends", "kernels", "kernels/cpu", "kernels/cuda"])
def test_the_page_on_the_architecture_mentions_every_module(folder):
    """In the section of its folder; and it mentions no module that does not exist."""
    section = re.search(rf"^### {folder}/\n(.*?)(?=^##)", ARCHITECTURE, re.DOTALL | re.MULTILINE).group(1)
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {name.removesuffix(".py") for row in rows for name in re.findall(r"`([\w./]+)`", row)}
    files = [path for path in (ROOT / folder).iterdir() if path.suffix in (".py", ".cu", ".cuh")]
    present = {path.stem if path.suffix == ".py" else path.name for path in files} - {"__init__", "__main__"}
    if folder == "fastnn":
        present |= {f"fastnn/{name}/" for name in ("backends", "estimators", "data", "cli", "bench")}
    assert named == present


def test_the_page_on_the_architecture_shows_the_ranks_of_imports():
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", ARCHITECTURE, re.MULTILINE)
    assert {name: int(rank) for rank, names in rows for name in re.findall(r"`([\w.]+)`", names)} == RANK


def test_the_index_lists_every_page():
    listed = re.findall(r"^\| \[([\w-]+\.md)\]\(\1\) \|", (ROOT / "docs/index.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted({path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"})


def texts_of_code():
    """Every string of the sources; of an f-string … stands for what is put in."""
    for folder in ("fastnn", "kernels"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_the_messages_of_the_page_on_troubles_are_those_of_the_code():
    page, code = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), "\n".join(texts_of_code())
    messages = re.findall(r"^```\n(.*)\n```$", page, re.MULTILINE)
    assert len(messages) > 15
    for message in messages:
        kind, colon, text = message.partition(": ")
        if colon and re.fullmatch(r"[A-Z]\w+", kind):
            assert hasattr(fastnn, kind) or hasattr(builtins, kind), kind
        else:
            text = message
        for part in text.split("…"):
            assert part.strip() in code, part


def test_every_command_line_it_names_exists():
    block = re.search(r"## The command line\n\n```\n(.*?)```", README, re.DOTALL).group(1)
    commands = set(re.findall(r"^fastnn (\w+)", block, re.MULTILINE))
    assert commands
    environment = {**os.environ, "COLUMNS": "200"}
    help_text = subprocess.run(
        [sys.executable, "-m", "fastnn", "--help"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert all(re.search(rf"\b{command}\b", help_text) for command in commands)


def test_the_files_it_points_to_exist():
    pages = [
        ROOT / "README.md",
        ROOT / "bench" / "README.md",
        ROOT / "bench" / "results" / "README.md",
        *(ROOT / "docs").glob("*.md"),
    ]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for target, part in re.findall(r"\]\(([\w./-]+)(#[\w-]+)?\)", text):
            assert (page.parent / target).exists(), (page, target)
            if part:
                headings = re.findall(r"^#+ (.*)$", (page.parent / target).read_text(encoding="utf-8"), re.MULTILINE)
                assert part[1:] in [heading.lower().replace(" ", "-") for heading in headings], (page, target, part)
