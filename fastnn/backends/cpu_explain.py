"""Why the CPU engine's plan is what it is (fastnn/backends/cpu_plan.py), in words and with the numbers of the model."""

from __future__ import annotations

from . import cpu_machine as machine
from .cpu_plan import Plan, Problem, Wishes, choose_plan, possible_plans

__all__ = ["explain_plan"]

SHARED = "; half of what it is alone, because others may use it too"


def explain_plan(problem: Problem, threads: int, wishes: Wishes | None = None) -> str:
    """Why this plan: what was weighed, the numbers of the model and where they come from. Several lines."""
    wishes = wishes or Wishes()
    chosen, weighed = choose_plan(problem, threads, wishes), possible_plans(problem, threads, wishes)
    allowed = (
        f"{wishes.threads}, as asked for"
        if wishes.threads is not None
        else f"up to {threads} (cores, container quota, BLAS limits, other runs under way)"
    )
    lines = [
        str(chosen),
        f"form: {_form(problem, chosen, wishes)}",
        f"rows at a time: {_rows(problem, chosen, wishes)}",
        f"products: {_products(problem, chosen, weighed, wishes)}",
        f"threads: {allowed}",
        *(
            (f"  {'->' if plan == chosen else '  '} {seconds * 1e6:12,.1f} us predicted: {plan}")
            for seconds, plan in weighed
        ),
        "model: fitted to one two-core server, not measured on this machine",
        *(f"  {number:>14}  {of}" for number, of in _model(problem, weighed)),
    ]
    return "\n".join(lines)


def _form(problem: Problem, chosen: Plan, wishes: Wishes) -> str:
    """How threads divide a step."""
    parameters = problem.parameters
    if wishes.sliced is not None and chosen.sliced == wishes.sliced:
        return f"{'slices' if wishes.sliced else 'rows of all threads'}, as asked for"
    if chosen.panels and chosen.split:
        below = problem.batch * sum(problem.sizes[1 : chosen.split + 1])
        return (
            f"each thread keeps its share of the lower weights to itself: {below:,} sums of rows and as many deltas "
            f"cross between cores, instead of {parameters:,} gradients and parameters"
        )
    if chosen.panels or chosen.amx:
        return f"slices of the batch, whose {parameters:,} gradients are added up where there are several"
    most = machine.BLAS_SLICES_UP_TO
    compared = (
        f"{parameters:,} parameters against {most:g} x {problem.batch:,} rows x {problem.per_row:,} numbers each "
        f"({most * problem.batch * problem.per_row:,.0f})"
    )
    if problem.slices_pay:
        return (
            f"slices of the batch, whose gradients are added up: {compared}, so moving gradients between cores costs "
            "less than moving rows"
        )
    return (
        f"rows shared by all threads, each updating its own parameters: {compared}, so moving rows costs less than "
        "moving gradients"
    )


def _rows(problem: Problem, chosen: Plan, wishes: Wishes) -> str:
    """Why so many at a time."""
    if wishes.chunk is not None:
        return f"as asked for, chunk={wishes.chunk}"
    if chosen.amx:
        return f"about {problem.amx_tile} per thread, for which parameters and gradients are read once"
    if chosen.panels:
        why = (
            "the deltas of a panel stay in the first-level cache"
            if problem.stays_in_cache
            else "parameters from beyond the cache are read seldom"
        )
        return f"about {problem.tile(True, shared=bool(chosen.split))} per thread, with which {why}"
    narrow = problem.parameters <= machine.NARROW_PARAMETERS
    tile = f"{machine.NARROW_BYTES >> 10} KiB" if narrow else f"{machine.WIDE_BYTES >> 20} MiB"
    return (
        f"about {tile} of rows, activations and deltas per thread, for a {'narrow' if narrow else 'wide'} net (up to "
        f"{machine.NARROW_PARAMETERS:,} parameters)"
    )


def _products(problem: Problem, chosen: Plan, weighed: list[tuple[float, Plan]], wishes: Wishes) -> str:
    """Who multiplies."""
    if wishes.amx and chosen.amx:
        return "on the matrix unit, as asked for"
    if wishes.amx:
        return (
            "not on the matrix unit, which was asked for, because "
            f"{problem.no_amx or 'there are fewer rows at a time than threads'}"
        )
    if wishes.panels is not None and chosen.panels == wishes.panels:
        return f"{'in panels' if wishes.panels else 'by BLAS'}, as asked for"
    if wishes.panels and problem.fits_panels:
        return "by BLAS, because a layer's panels are not divided here, and there are fewer rows at a time than threads"
    if not problem.fits_panels:
        return "by BLAS, because panels do not do rules with norms of layers, or clip_norm"
    if any(plan.panels or plan.amx for _, plan in weighed):
        return f"{' or '.join(dict.fromkeys(plan.products for _, plan in weighed))}, whichever the model finds faster"
    far = f"{machine.PANELS_BYTES_FAR >> 20} MiB"
    limit = (
        f"{machine.PANELS_BYTES_MKL >> 20} MiB, and up to {far} for one row, beside MKL"
        if problem.mkl
        else f"{far} beside this BLAS"
    )
    limit += f", and up to {machine.SHARED_BYTES >> 20} MiB where threads share weights"
    return (
        f"by BLAS, because {problem.parameters * problem.itemsize / 2**20:.1f} MiB of parameters do not stay in or "
        f"near a core's cache (panels up to {limit})"
    )


def _model(problem: Problem, weighed: list[tuple[float, Plan]]) -> list[tuple[str, str]]:
    """(number with its unit, of what), of all that the predictions were made from."""
    row = machine.SPLIT_NARROW_ROW_SECONDS if problem.narrow else machine.SPLIT_ROW_SECONDS
    pack = machine.NUMBER_SECONDS if problem.stays_in_cache else machine.FAR_NUMBER_SECONDS
    steps = f", or an epoch's {problem.steps:,} steps" if problem.steps else ""
    lines = [
        (_rate(machine.PANELS_FLOPS), "products in panels, one thread"),
        (_rate(problem.blas_flops), "products by BLAS, one thread"),
        (_time(machine.CALL_SECONDS), "a call of BLAS"),
        (_time(machine.TURN_SECONDS), "an upper weight transposed for panels"),
        (_time(machine.MEETING_SECONDS / 2), "each thread, to meet in a step of slices"),
        (_time(machine.SPLIT_SECONDS / 2), "each thread, layer and tile of shared weights"),
        (_time(machine.SPLIT_NUMBER_SECONDS), "a sum or delta of shared weights that crosses"),
        (_time(row), "a row of theirs"),
        (f"{machine.BYTES_PER_SECOND / 1e9:g} GB/s", "parameters between cores, and from beyond the cache"),
        (_time(machine.TEAM_SECONDS), f"to call a team, once in a run (at most {machine.SLICE_SECONDS:g} s{steps})"),
        (
            _time(machine.VECTOR_SECONDS),
            f"to pack and unpack a vector for panels, once in a run ({problem.vectors} of them)",
        ),
        (_time(pack), "and each of its numbers"),
    ]
    if any(plan.amx for _, plan in weighed):
        lines += [
            (
                _rate(problem.amx_flops),
                f"products on the matrix unit, in whole tiles, one thread{SHARED if problem.amx_shared else ''}",
            ),
            (_time(machine.AMX_DATA_SECONDS), "a number of a row of data laid out for it"),
            (_time(machine.AMX_OCTET_SECONDS), "the same of uint8, whose products are half as many"),
            (_time(machine.AMX_NUMBER_SECONDS), "an activation or delta laid out"),
            (_time(machine.AMX_PARAMETER_SECONDS), "a parameter moved and laid out"),
            (_time(machine.AMX_UPPER_SECONDS), "an upper weight once more"),
            (_time(machine.AMX_STEP_SECONDS), "a step in which threads meet"),
            (
                f"{problem.done_to_counted:.2f}",
                (
                    "what the other plans' seconds are taken times, because their rates count the first layer's "
                    "products thrice"
                ),
            ),
        ]
    return lines


def _rate(flops: float) -> str:
    return f"{flops / 1e9:g} GFLOP/s"


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:g} us" if seconds >= 1e-7 else f"{seconds * 1e9:g} ns"
