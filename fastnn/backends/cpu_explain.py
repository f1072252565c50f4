"""Why the CPU engine's plan is what it is (fastnn/backends/cpu_plan.py), in words and with the numbers of the model."""

from __future__ import annotations

from .cpu_plan import (
    AMX_DATA_SECONDS,
    AMX_FLOPS,
    AMX_NUMBER_SECONDS,
    AMX_OCTET_SECONDS,
    AMX_PARAMETER_SECONDS,
    AMX_STEP_SECONDS,
    AMX_UPPER_SECONDS,
    BLAS_SLICES_UP_TO,
    BYTES_PER_SECOND,
    CALL_SECONDS,
    FAR_NUMBER_SECONDS,
    MEETING_SECONDS,
    NARROW_BYTES,
    NARROW_PARAMETERS,
    NUMBER_SECONDS,
    PANELS_BYTES_FAR,
    PANELS_BYTES_MKL,
    PANELS_FLOPS,
    SHARED_BYTES,
    SLICE_SECONDS,
    SPLIT_NARROW_ROW_SECONDS,
    SPLIT_NUMBER_SECONDS,
    SPLIT_ROW_SECONDS,
    SPLIT_SECONDS,
    TEAM_SECONDS,
    TURN_SECONDS,
    VECTOR_SECONDS,
    WIDE_BYTES,
    Problem,
    Wishes,
    choose_plan,
    possible_plans,
)

__all__ = ["explain_plan"]


def explain_plan(problem: Problem, threads: int, wishes: Wishes | None = None) -> str:
    """Why this plan: what was weighed, the numbers of the model and where they come from. Several lines."""
    wishes = wishes or Wishes()
    chosen = choose_plan(problem, threads, wishes)
    parameters = problem.parameters
    if wishes.sliced is not None and chosen.sliced == wishes.sliced:
        why = f"{'slices' if wishes.sliced else 'rows of all threads'}, as asked for"
    elif chosen.panels and chosen.split:
        below = problem.batch * sum(problem.sizes[1 : chosen.split + 1])
        why = f"each thread keeps its share of the lower weights to itself: {below:,} sums of rows and as many deltas cross between cores, instead of {parameters:,} gradients and parameters"
    elif chosen.panels or chosen.amx:
        why = f"slices of the batch, whose {parameters:,} gradients are added up where there are several"
    else:
        moved = BLAS_SLICES_UP_TO * problem.batch * problem.per_row
        form = f"{parameters:,} parameters against {BLAS_SLICES_UP_TO:g} x {problem.batch:,} rows x {problem.per_row:,} numbers each ({moved:,.0f})"
        if problem.slices_pay:
            why = f"slices of the batch, whose gradients are added up: {form}, so moving gradients between cores costs less than moving rows"
        else:
            why = f"rows shared by all threads, each updating its own parameters: {form}, so moving rows costs less than moving gradients"
    kind = "narrow" if parameters <= NARROW_PARAMETERS else "wide"
    tile = f"{NARROW_BYTES >> 10} KiB" if kind == "narrow" else f"{WIDE_BYTES >> 20} MiB"
    if wishes.chunk is not None:
        rows = f"as asked for, chunk={wishes.chunk}"
    elif chosen.amx:
        rows = f"about {problem.amx_tile} per thread, for which parameters and gradients are read once"
    elif chosen.panels:
        why_so = "the deltas of a panel stay in the first-level cache" if problem.stays_in_cache else "parameters from beyond the cache are read seldom"
        rows = f"about {problem.tile(True, shared=bool(chosen.split))} per thread, with which {why_so}"
    else:
        rows = f"about {tile} of rows, activations and deltas per thread, for a {kind} net (up to {NARROW_PARAMETERS:,} parameters)"
    lines = [str(chosen), f"form: {why}", f"rows at a time: {rows}"]
    if wishes.amx and chosen.amx:
        lines.append("products: on the matrix unit, as asked for")
    elif wishes.amx:
        lines.append(f"products: not on the matrix unit, which was asked for, because {problem.no_amx or 'there are fewer rows at a time than threads'}")
    elif wishes.panels is not None and chosen.panels == wishes.panels:
        lines.append(f"products: {'in panels' if wishes.panels else 'by BLAS'}, as asked for")
    elif wishes.panels and problem.fits_panels:
        lines.append("products: by BLAS, because a layer's panels are not divided here, and there are fewer rows at a time than threads")
    elif not problem.fits_panels:
        lines.append("products: by BLAS, because panels do not do this rule")
    elif not any(plan.panels or plan.amx for _, plan in possible_plans(problem, threads, wishes)):
        limit = f"{PANELS_BYTES_MKL >> 20} MiB, and up to {PANELS_BYTES_FAR >> 20} MiB for one row, beside MKL" if problem.mkl else f"{PANELS_BYTES_FAR >> 20} MiB beside this BLAS"
        limit += f", and up to {SHARED_BYTES >> 20} MiB where threads share weights"
        lines.append(f"products: by BLAS, because {parameters * problem.itemsize / 2**20:.1f} MiB of parameters do not stay in or near a core's cache (panels up to {limit})")
    else:
        weighed = " or ".join(dict.fromkeys(plan.products for _, plan in possible_plans(problem, threads, wishes)))
        lines.append(f"products: {weighed}, whichever the model finds faster")
    lines.append(
        "threads: " + (f"{wishes.threads}, as asked for" if wishes.threads is not None else f"up to {threads} (cores, container quota, BLAS limits, other runs under way)")
    )
    lines += [f"  {'->' if plan == chosen else '  '} {seconds * 1e6:12,.1f} us predicted: {plan}" for seconds, plan in possible_plans(problem, threads, wishes)]
    pack = (NUMBER_SECONDS if problem.stays_in_cache else FAR_NUMBER_SECONDS) * 1e9
    run = (
        f"in every run (at most {SLICE_SECONDS:g} s{f', and steps of an epoch: {problem.steps:,}' if problem.steps else ''}) {TEAM_SECONDS * 1e6:g} us to call a team, "
        f"and for panels {VECTOR_SECONDS * 1e6:g} us and {pack:g} ns a number to pack and unpack each vector ({problem.vectors} of them)"
    )
    amx = (
        f"on the matrix unit products at {AMX_FLOPS / 1e9:g} GFLOP/s in whole tiles, {AMX_DATA_SECONDS * 1e9:g} ns per number of a row of data laid out ({AMX_OCTET_SECONDS * 1e9:g} ns of uint8, with half the products) and {AMX_NUMBER_SECONDS * 1e9:g} of activations and deltas, {AMX_PARAMETER_SECONDS * 1e9:g} ns a parameter and {AMX_UPPER_SECONDS * 1e9:g} more for upper weights, "
        f"{AMX_STEP_SECONDS * 1e6:g} us where threads meet, beside which the other plans' seconds are taken times {problem.done_to_counted:.2f}, because their rates count the first layer's products thrice; "
        if any(plan.amx for _, plan in possible_plans(problem, threads, wishes))
        else ""
    )
    lines.append(
        f"model: products at {PANELS_FLOPS / 1e9:g} (panels) and {problem.blas_flops / 1e9:g} GFLOP/s (BLAS) on one thread, {CALL_SECONDS * 1e6:g} us per call of BLAS, "
        f"{TURN_SECONDS * 1e9:g} ns per transposed weight, {MEETING_SECONDS * 1e6 / 2:g} us per thread to meet in a step of slices, "
        f"{SPLIT_SECONDS * 1e6 / 2:g} us per thread, layer and tile of shared weights, {SPLIT_NUMBER_SECONDS * 1e9:g} ns for each sum or delta that crosses, {(SPLIT_NARROW_ROW_SECONDS if problem.narrow else SPLIT_ROW_SECONDS) * 1e9:g} ns for each of their rows, "
        f"parameters between cores, and from beyond the cache, at {BYTES_PER_SECOND / 1e9:g} GB/s; {run}; {amx}fitted to one two-core server, not measured on this machine"
    )
    return "\n".join(lines)
