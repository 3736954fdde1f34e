r"""Attack a retriever and measure how well it still retrieves.

    uv run scripts/attack.py --model runs/hybrid/model --dataset xquad-r --data_dir xquad-r --candidates paragraph \
      --languages en,de,zh,ar --max_queries 24 --attack pgd --rho 0.1 --output_dir out/attack-hybrid
    uv run scripts/attack.py ... --attack suite

Prints clean and attacked measures per language and writes the adversarial inputs, results.json, curves and
report.html. The same command resumes an interrupted run. docs/robustness.md describes each attack, and
jaxretr/attack/options.py each option.
"""

import argparse
import dataclasses

from model_and_collection import flags, listed, load, system_name

from jaxretr import parallel
from jaxretr.attack.options import ATTACKS, SUITE, AttackOptions
from jaxretr.attack.report.tables import summary
from jaxretr.attack.run import MEASURES, attack_into
from jaxretr.eval.settings import SETTINGS
from jaxretr.tracking import console, errors_as_lines

FIELDS = {field.name: field.default for field in dataclasses.fields(AttackOptions)}


def main() -> None:
    args = attack_flags().parse_args()
    with errors_as_lines("the same command resumes after the last complete attack"):
        parallel.initialize()
        options = AttackOptions(**{name: value for name, value in vars(args).items() if name in FIELDS})
        collection, encoder = load(args)
        results = attack_into(
            args.output_dir,
            encoder,
            collection,
            options,
            setting=args.setting or ("multi" if len(collection.languages) > 1 else "mono"),
            system=system_name(args),
            attacked={"model": args.model, "max_length": encoder.max_length},
            measures=args.measures,
            checks=args.checks,
        )
        console.print(summary(results), f"{args.output_dir}/report.html")


def attack_flags() -> argparse.ArgumentParser:
    parser = flags(__doc__, MEASURES)
    add = parser.add_argument
    add(
        "--attack",
        dest="attacks",
        type=listed,
        default=("pgd",),
        help=f"{SUITE}, or a comma-separated list of {', '.join(ATTACKS)}",
    )
    add("--target", dest="aim", default="query", help="aim of gradient attacks: query, demote, promote or language")
    add("--rho", type=numbers, default=(), help="budgets of gradient attacks, such as 0.03,0.1 (default: 0.1)")
    add("--setting", choices=SETTINGS, help="setting of the attacked tasks (default: multi, or mono for one language)")
    for name in ("norm", "layer", "loss", "steps", "restarts", "edits", "search", "texts"):
        add(f"--{name}", type=type(FIELDS[name]), default=FIELDS[name], help="default: %(default)s")
    for name, unit in (
        ("passages", "poisoned passages per language"),
        ("slots", "tokens per poisoned passage"),
        ("poison_passes", "forward passes per poisoned passage"),
    ):
        add(f"--{name}", type=int, default=FIELDS[name], help=f"{unit} (default: %(default)s)")
    add(
        "--checks",
        type=int,
        default=0,
        help="number of queries for the checks of gradient attacks; 0 skips the checks (default: %(default)s)",
    )
    return parser


def numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in listed(text))


if __name__ == "__main__":
    main()
