"""What `fastnn train` prints for people, before and after training."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..confusion import worst_pairs
from ..data.dataset import DataSet, Parts
from ..evaluation import Evaluation
from ..network import Network
from ..schedules import Schedule
from .settings import TrainOptions, course, test_share

if TYPE_CHECKING:
    from .training import Outcome

__all__ = ["after", "before", "evaluation", "line", "shown_names"]

WIDEST = 16  # classes; a wider confusion matrix is shown as its most frequent mistakes
PAIRS = 12
FEW_NAMES = 8  # of categories or classes that are listed in a line
RISEN = 1.1  # times its least: a validation cost that has risen


def line(label: str, text: str) -> None:
    """One labelled line on stdout."""
    print(f"{label:<11}{text}", flush=True)


def shown_names(names: Sequence[Any]) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - FEW_NAMES:,} more" if len(names) > FEW_NAMES else ""
    return ", ".join(map(str, names[:FEW_NAMES])) + more


def before(options: TrainOptions, data: DataSet, parts: Parts, net: Network, explain: bool = False) -> None:
    """Engine, data, split, network and training settings; with `explain` why the engine runs them as it does."""
    train, test = len(parts.train[1]), len(parts.test[1])
    watched = len(parts.validation[1]) if parts.validation else 0
    kind = f"{len(data.classes)} classes" if data.classes is not None else "regression"
    line("engine", net.backend_reason)
    rows = train + watched + (0 if test_share(options) is None else test)
    line("data", f"{data.title}: {rows:,} rows, {data.X.shape[1]:,} features, {kind}")
    for note in data.notes:
        line("", note)
    how = f"{'by class, ' * (data.classes is not None)}seed {options.seed}"
    if options.chronological:
        last = ", then ".join(["validation"] * (watched > 0) + ["test"] * (test > 0 and data.test is None))
        how = f"in the order of the file: training, then {last}"
    own = "the set's own " if data.test is not None else ""
    tested = f"{own}{test:,}" if test else "no"
    line("split", f"{train:,} training, {watched:,} validation, {tested} test rows; {how}")
    hidden = f"{options.activation}, " if len(net.sizes) > 2 else ""
    line(
        "network",
        f"{'-'.join(map(str, net.sizes))}, {hidden}{net.output.name} output with {net.cost}, {net.dtype}, precision "
        f"{net.precision}",
    )
    line("", f"{net.layout.size:,} parameters")
    decay = (f", L2 {net.l2:g}" if net.l2 else "") + (f", dropout {options.dropout:g}" if options.dropout else "")
    line(
        "training",
        f"{options.optimizer}, {_rate(options)}, batches of {options.batch_size}, {options.epochs} epochs{decay}",
    )
    plan = net.plan(
        int(options.batch_size or 1),
        explain=explain,
        micro_batch=options.micro_batch,
        optimizer=str(options.optimizer),
        training_rows=train,
        data_dtype=data.X.dtype,
    )
    for i, text in enumerate(plan.splitlines()):
        line("" if i else "plan", text)


def _rate(options: TrainOptions) -> str:
    """The learning rate in words, with its course."""
    rates = course(options)
    if not isinstance(rates, Schedule):
        return f"learning rate {rates:g}"
    warmup = float(options.warmup_epochs or 0)
    rising = f", rising from {float(rates.at(0.0)):g} over {warmup:g} epochs" if warmup else ""
    falling = f", {options.decay} decay to 0" if options.decay != "none" else ""
    return f"learning rate {float(rates.at(warmup)):g}{rising}{falling}"


def after(data: DataSet, parts: Parts, net: Network, outcome: Outcome, monitor: str | None = None) -> None:
    """Test result, confusion matrix, files, and how to go on."""
    done = len(outcome.history.cost)
    if outcome.history.interrupted:
        line(
            "stopped",
            f"by Ctrl-C after {done} complete epoch{'s' * (done != 1)}; what was learned until then is kept",
        )
    if (best := outcome.history.best) is not None:
        of_rows = f"cost {outcome.history.val_cost[best]:.4g}"
        if monitor == "val_accuracy":
            of_rows = f"accuracy {100 * outcome.history.val_accuracy[best]:.2f} %, {of_rows}"
        line("best epoch", f"{best + 1} of {done}, validation {of_rows}; the model is that epoch's")
    elif (costs := outcome.history.val_cost) and costs[-1] > RISEN * min(costs) and min(costs) > 0:
        least = costs.index(min(costs))
        line(
            "overfitted",
            f"the validation cost was lowest in epoch {least + 1} ({costs[least]:.4g}) and is {costs[-1]:.4g} now: "
            "--patience 10 ends in time and keeps the best epoch",
        )
    line(
        "time",
        f"{outcome.seconds:.2f} s"
        + (f", {outcome.compiling:.2f} s of them to compile kernels, once" if outcome.compiling else ""),
    )
    if outcome.test is None:
        line("test", "none: with --test 0 no rows were set apart; fastnn evaluate tests a model on a labelled file")
    else:
        evaluation("test", outcome.test, " not seen in training")
    for label, path in (("curve", outcome.plot), ("model", outcome.model)):
        if path is not None:
            line(label, path + (" (an earlier file was overwritten)" if path in outcome.overwritten else ""))
    if outcome.model is not None:
        _how_to_use(data, net, outcome.model)


def evaluation(label: str, found: Evaluation, which: str = "") -> None:
    """Accuracy and confusion matrix, or R2 and error, of rows of which `which` says more."""
    rows = f"{found.rows:,} row{'s' * (found.rows != 1)}{which}"
    if found.confusion is None:
        _of_quantities(label, found, rows)
        return
    wrong = found.rows - int(found.confusion.trace())
    line(label, f"accuracy {100 * (found.accuracy or 0):.2f} % ({wrong:,} wrong of {rows}), cost {found.cost:.4g}")
    auc = f", ROC AUC {found.roc_auc:.4f}" if found.roc_auc is not None else ""
    line("", f"balanced accuracy {100 * (found.balanced_accuracy or 0):.2f} %, mean F1 {found.f1:.4f}{auc}")
    if found.majority is not None:
        name, share = found.majority
        balanced = 1 / int((found.confusion.sum(axis=1) > 0).sum())  # right in one of the classes that occur
        line("", f"baseline: always {name}, accuracy {100 * share:.2f} %, balanced accuracy {100 * balanced:.2f} %")
    if found.gain is not None and not found.better:
        more, error = (100 * part for part in found.gain)
        line(
            "",
            "by accuracy this model is not better than the baseline by more than the standard error "
            f"({more:+.2f} points, standard error {error:.2f})",
        )
    _confusion(found.confusion, found.classes or [])


def _of_quantities(label: str, found: Evaluation, rows: str) -> None:
    """What the training made small comes first, with its own score."""
    rest, constant = f"cost {found.cost:.4g}, on {rows}", "the mean"
    r2, mae = f"R2 {found.r2:.4f}", f"mean absolute error {found.mae:.4g}"
    rmse = f"root mean square error {found.rmse:.4g}"
    d2 = "" if found.d2 is None else f"D2 {found.d2:.4f}, "
    if found.pinball is not None:
        constant = f"the quantile {found.quantile:g}"
        line(label, f"pinball loss {found.pinball:.4g} of {constant}, {d2}{rest}")
        line("", f"{100 * (found.below or 0):.1f} % of the targets are below the predicted quantile")
        line("", f"{r2}, {rmse}, {mae}")
    elif found.quantile is not None:
        constant = "the median"
        line(label, f"{mae}, {d2}{rest}")
        line("", f"{r2}, {rmse}")
    elif found.d2 is not None:  # of counts
        line(label, f"{d2}{rest}")
        line("", f"{r2}, {rmse}, {mae}")
    else:
        line(label, f"{r2}, {rmse}, {mae}, {rest}")
    if found.better is False:
        line("", f"this model is not better than always answering {constant} by more than the standard error")


def _how_to_use(data: DataSet, net: Network, model: str) -> None:
    images = net.preprocessing is not None and net.preprocessing["kind"] == "images"
    file = "IMAGES.npz" if images else "FILE.csv"
    line("use it", f"fastnn predict {shlex.quote(model)} {file}")
    print("\n    import fastnn")
    print(f"    net = fastnn.load({model!r})")
    if images:
        top = round(1 / net.scale) if net.scale else 1
        print(f"    net.predict(X)  # X: integer pixels 0..{top}, shape (rows, {net.sizes[0]})")
    else:
        print("    from fastnn.prediction import predict_file  # repeats columns, scaling and classes")
        print(f"    predict_file(net, {file!r}).answers")


def _confusion(matrix: Any, classes: list[Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def cell(value: Any, style: str = "") -> Text:
        return Text(str(value), style)  # Text: a class called "[red]" is not markup

    console = Console(file=sys.stdout, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    widest = max(
        sum(max(len(str(c)), len(str(matrix[:, k].max()))) + 2 for k, c in enumerate(classes))
        + max(len(str(c)) for c in classes)
        + 16,
        40,
    )
    if len(classes) <= WIDEST and widest <= max(console.width, 80):
        # as a title of the table it would be wrapped to its width
        print("\nconfusion matrix: rows are the truth, columns the prediction")
        table.add_column("", justify="right", no_wrap=True)
        for name in classes:
            table.add_column(cell(name), justify="right", no_wrap=True)
        table.add_column("right", justify="right", no_wrap=True)
        for k, name in enumerate(classes):
            row = [cell(n or ".", "bold" if p == k else "red" if n else "dim") for p, n in enumerate(matrix[k])]
            share = f"{100 * matrix[k, k] / max(1, matrix[k].sum()):.1f} %"
            table.add_row(cell(name, "bold"), *row, cell(share))
    else:
        print(f"\nthe most frequent mistakes among {len(classes)} classes")
        for name in ("truth", "prediction", "rows"):
            table.add_column(name, justify="right" if name == "rows" else "left")
        for t, p, n in worst_pairs(matrix, PAIRS):
            table.add_row(cell(classes[t]), cell(classes[p]), cell(n))
    console.print(table)
