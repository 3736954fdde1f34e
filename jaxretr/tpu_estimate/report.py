"""Format measurements as text and as a table.

Input: `Measured`. Output: lines for the console, and the rows of a Markdown table.
"""

from collections.abc import Sequence

from jaxretr.tpu_estimate.measure import Measured

ITEMS = 10
"""Number of items of main-memory traffic in the description of a program."""


def text(measured: Measured) -> str:
    """Describe one program in full."""
    memory, costs, roofline, chip = measured.memory, measured.costs, measured.roofline, measured.slice.chip
    program = measured.program
    fits = "fits" if memory.total <= chip.hbm_bytes else "DOES NOT FIT"
    lines = [
        f"{program.name}: {program.what}, per chip, on {measured.slice.devices} chips; "
        f"compiled in {measured.seconds:.0f} s ({measured.cpu_seconds:.0f} s of CPU time)",
        f"  memory       peak {_gb(memory.total)} of {_gb(chip.hbm_bytes)}, {fits}; arguments "
        f"{_gb(memory.arguments)}, outputs {_gb(memory.outputs)} ({_gb(memory.aliased)} in donated arguments), "
        f"temporaries {_gb(memory.temporaries)}, code {_gb(memory.code)}",
        f"  products     {_tera(costs.matmul_flops)} in the compiled program, {_tera(program.model_flops)} in the model"
        + (
            f", {_tera(program.flops)} with recomputation: compiled / analytic = "
            f"{costs.matmul_flops / program.flops:.3f}"
            if program.flops
            else " without hardening"
        ),
        f"  main memory  {_gb(costs.hbm_bytes)} read and written (XLA's own counts, with each loop body once: "
        f"{_tera(measured.compiler_flops)}, {_gb(measured.compiler_bytes)})",
        *(f"    {_gb(moved)}  {item}" for item, moved in costs.items.most_common(ITEMS)),
        f"  network      {_gb(costs.sent_bytes)} sent by each chip over {measured.slice.links} links",
    ]
    lines += [
        f"    {times} x {collective.kind} among {collective.group}: {_gb(collective.payload)} each"
        for collective, times in sorted(costs.collectives.items(), key=lambda item: -item[0].payload * item[1])
    ]
    if costs.unknown_loops:
        lines.append(f"  {costs.unknown_loops} loops of unknown trip count are counted once: all figures are too low")
    lines.append(
        f"  roofline     products {_ms(roofline.compute)}, main memory {_ms(roofline.memory)}, network "
        f"{_ms(roofline.network)}; bound by {roofline.bound_by}"
    )
    for name, seconds in (("overlapped", roofline.overlapped), ("serial", roofline.serial)):
        lines.append(
            f"    {name:<11} {_ms(seconds)} per run, {measured.examples_per_second(seconds):,.0f} examples/s on "
            f"{measured.slice}, {measured.share_of_peak(seconds):.1%} of peak"
        )
    return "\n".join(lines)


def markdown(model: str, results: Sequence[Measured]) -> str:
    """Format one row per program. In a pair of figures, the first is for serial parts, the second for full overlap."""
    head = (
        "| model | slice | program | per chip | memory | products | main memory | sent | roofline (three parts) | "
        "run | examples/s | of peak | compiled in (CPU) |"
    )
    lines = [head, "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for measured in results:
        roofline, costs = measured.roofline, measured.costs
        times = (roofline.serial, roofline.overlapped)
        rates = (f"{measured.examples_per_second(seconds):,.0f}" for seconds in times)
        shares = (f"{100 * measured.share_of_peak(seconds):.0f}" for seconds in times)
        cells = (
            model,
            str(measured.slice),
            measured.program.name,
            str(measured.program.batch),
            _gb(measured.memory.total),
            _tera(costs.matmul_flops),
            _gb(costs.hbm_bytes),
            _gb(costs.sent_bytes),
            f"{', '.join(f'{1000 * part:.1f}' for part in roofline)} ms",
            f"{' – '.join(f'{1000 * seconds:.1f}' for seconds in times)} ms",
            " – ".join(rates),
            f"{' – '.join(shares)} %",
            f"{measured.seconds:.0f} s ({measured.cpu_seconds:.0f} s)",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _gb(size: float | int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


def _tera(flops: float | int) -> str:
    return f"{flops / 1e12:.3g} TFLOP"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"
